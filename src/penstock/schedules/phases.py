"""The notation of schedules: phases of repeated words, in which micro-batch numbers advance by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind

Phase = tuple[int, str]
"""How many times, and the words: a kind (``U`` for an update) and a local chunk (none means 0), ``w`` for the oldest
``W`` that waits, or a fused block of two words, ``F0+B1``."""


def expand(phases: Iterable[Phase], chunks: Sequence[int], begins: Sequence[int] = ()) -> Lane:
    """Ops of phases.

    Each word takes the next micro-batch of its kind and chunk; ``B`` and ``I`` count together, and ``w`` takes the
    oldest ``I`` of any chunk whose ``W`` has not been written.

    Args:
        phases: for example ``[(3, "F"), (5, "F B"), (3, "B")]``; a count below one drops the phase.
        chunks: virtual stage of each local chunk.
        begins: number of each chunk's first micro-batch; default 0 for all.

    Raises:
        ValueError: unknown word, chunk out of range, a block other than a forward and a backward, ``w`` with nothing
            waiting, or ``w`` and ``W`` in one lane.

    Example:
        >>> str(expand([(1, "F"), (2, "F B"), (1, "B")], [0]))
        '0F0 0F1 0B0 0F2 0B1 0B2'
        >>> str(expand([(2, "F0 F1"), (2, "I1 I0 w w")], [0, 3])).split()[4:8]
        ['3I0', '0I0', '3W0', '0W0']
        >>> str(expand([(1, "F"), (1, "F+B"), (1, "B")], [0]))
        '0F0 (0F1;0B0)OVERLAP_F_B 0B1'
    """
    words: list[tuple[int, int, bool]] = []
    repeats: list[NDArray[np.int64]] = []
    for count, text in phases:
        if count > 0:
            coded = _coded(text, tuple(chunks))
            repeats.append(np.arange(count * len(coded)) % len(coded) + len(words))
            words += coded
    if not repeats:
        return Lane.of([])
    table, at = np.array(words, dtype=np.int64), np.concatenate(repeats)
    kind, stage, fused = table.T.take(at, axis=1)
    micro = _in_turn(words, at)
    if any(begins):
        micro += np.array([dict(zip(chunks, begins, strict=True)).get(s, 0) for s in stage.tolist()])
    waiting = kind == _OLDEST_W
    if waiting.any():
        _take_oldest(kind, stage, micro, waiting)
    codes = np.empty((len(kind), 3), dtype=np.int32)
    codes[:, 0], codes[:, 1], codes[:, 2] = kind, stage, micro
    return Lane(codes, fused.astype(np.bool_))


def _in_turn(words: Sequence[tuple[int, int, bool]], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often what each op counts with stood before it; ``at`` is the word of each op."""
    counts = [(Kind.B if kind == Kind.I else kind, stage) for kind, stage, _ in words]
    micro = np.empty(len(at), dtype=np.int64)
    for one in dict.fromkeys(counts):
        rows = np.flatnonzero(np.array([other == one for other in counts])[at])
        micro[rows] = np.arange(len(rows))
    return micro


_OLDEST_W = 99


@lru_cache(maxsize=4096)
def _coded(text: str, chunks: tuple[int, ...]) -> tuple[tuple[int, int, bool], ...]:
    return tuple(code for word in text.split() for code in _words(word, chunks))


def _words(word: str, chunks: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Kind and stage of a word, or of the two words of a block, and whether each is one with the next."""
    parts = word.split("+")
    if len(parts) > 1 and [part[:1] for part in parts] not in (["F", "B"], ["F", "I"]):
        raise ValueError(f"{word!r}: a fused block is a forward and a backward; write for example F0+B1")
    return [(*_word(part, chunks), part is not parts[-1]) for part in parts]


def _word(word: str, chunks: Sequence[int]) -> tuple[int, int]:
    if word == "w":
        return _OLDEST_W, 0
    letter, chunk = word[:1], word[1:] or "0"
    if letter not in "FBIWU" or not chunk.isdecimal():
        raise ValueError(f"{word!r} is not a word of a phase; write F, B, I, W or U with a chunk number, or w")
    if int(chunk) >= len(chunks):
        raise ValueError(f"{word!r}: this rank has chunks 0..{len(chunks) - 1}")
    return Kind.UPDATE if letter == "U" else Kind[letter], chunks[int(chunk)]


def _take_oldest(
    kind: NDArray[np.int64], stage: NDArray[np.int64], micro: NDArray[np.int64], waiting: NDArray[np.bool_]
) -> None:
    """Give each ``w`` the stage and micro-batch of the oldest ``I`` still waiting (in place)."""
    if (kind == Kind.W).any():
        raise ValueError("a lane writes either w (the oldest) or W with a chunk, not both")
    split = np.flatnonzero(kind == Kind.I)
    takes = np.flatnonzero(waiting)
    early = np.flatnonzero(np.cumsum(kind == Kind.I)[takes] < np.arange(1, len(takes) + 1))
    if len(early):
        raise ValueError(f"w number {early[0] + 1} comes before any I is left waiting")
    source = split[: len(takes)]
    kind[takes], stage[takes], micro[takes] = Kind.W, stage[source], micro[source]
