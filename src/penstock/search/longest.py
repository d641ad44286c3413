"""The longest sequence for which a strategy fits, at the tokens of a step."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from penstock.core.setup import Setup
from penstock.core.words import all_divisors
from penstock.predict import scores
from penstock.search.choice import Choice, Planned
from penstock.search.finals import most_bytes, predicted_of, told
from penstock.search.misses import nearest
from penstock.search.planner import best_of, check_wanted
from penstock.search.space import LEAST_TOKENS, Space
from penstock.search.switches import off

STEP = 1024
"""Sequences are multiples of it, and of twice ``cp``."""
Fitting = tuple[int, Setup | None]
"""A sequence, and a strategy that fits with it; 0 and ``None`` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """The longest sequence that fits.

    ``seq``, ``batch``: it, and the sequences of a step. ``planned``: its fastest strategies. ``next_seq``,
    ``next_choice``: the next longer one, and the strategy that needs least for it; ``None`` if the tokens of a step, or
    positions that are learnt, allow no longer one, or the search was stopped: then longer ones may fit.
    """

    seq: int
    batch: int
    planned: Planned
    next_seq: int | None
    next_choice: Choice | None


def longest(
    space: Space, *, top: int, headroom: float, tell: Callable[[int], bool] = lambda seq: True
) -> Longest | None:
    """Return the longest sequence for which a strategy fits; ``None`` if none does.

    The step keeps its tokens: the batch is the largest divisor of that of the space with which it has no more. Memory
    of one strategy is taken to grow with the sequence at a batch, and to be least with the smallest micro-batch. That
    is all: every strategy is asked for its own longest sequence, unless it does not fit at the longest that is known.

    Args:
        space: its sequence and batch say how many tokens a step has.
        top: how many strategies are wanted.
        headroom: share of a device's memory that stays free.
        tell: is called with sequences that are looked at; the search ends when it says ``False``.

    Raises:
        ValueError: there is no strategy for the space's own sequence, or ``top`` or ``headroom`` cannot be.
    """
    check_wanted(top, headroom)
    space.check()
    best: Fitting = (0, None)
    for low, high in _ranges(space):
        for step, start, cps in _classes(space, low, high):
            seqs = range(_up(max(start, best[0] + 1), step), high + 1, step)
            best = max(best, _climbed(space, cps, seqs, headroom, tell), key=lambda one: one[0])
        if best[1] is not None:
            return _answer(space, best[0], best[1], top, headroom, tell)
    return None


def at(space: Space, seq: int) -> Space:
    """Return the space for another sequence, at the tokens of a step: the batch is the largest divisor with no more."""
    most = space.base.seq * space.base.batch // seq
    batch = max(size for size in all_divisors(space.base.batch) if size <= max(1, most))
    return replace(space, base=replace(space.base, seq=seq, batch=batch))


def most_seq(space: Space) -> int:
    """Return the longest sequence that the tokens of a step, and positions that are learnt, allow."""
    most, learnt = space.base.seq * space.base.batch, space.model.embedding.positions
    return min(most, learnt or most) // STEP * STEP


def _ranges(space: Space) -> Iterator[tuple[int, int]]:
    """The shortest and the longest sequence of each batch, the longest first."""
    sizes, tokens = all_divisors(space.base.batch), space.base.seq * space.base.batch
    for batch, more in zip(sizes, [*sizes[1:], None], strict=True):
        low = STEP if more is None else tokens // more + 1
        high = min(tokens // batch, most_seq(space))
        if low <= high:
            yield low, high


def _classes(space: Space, low: int, high: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Sizes of ``cp``, with what their sequences are multiples of and the shortest that they have."""
    found = defaultdict(list)
    for cp in space.fixed.get("cp", all_divisors(space.devices)):
        least = 1 if "cp" in space.fixed else cp * LEAST_TOKENS
        if least <= high:
            found[lcm(STEP, 2 * cp), max(low, least)].append(cp)
    return sorted((step, start, tuple(cps)) for (step, start), cps in found.items())


def _climbed(space: Space, cps: tuple[int, ...], seqs: range, headroom: float, tell: Callable[[int], bool]) -> Fitting:
    """The longest of sequences of one batch for which a strategy with one of these ``cp`` fits; 0 if there is none."""
    best: Fitting = (0, None)
    place, failed = 0, set[Setup]()
    while place < len(seqs) and tell(seqs[place]):
        here = at(space, seqs[place])
        for setup in _promising(here, cps, headroom):
            strategy = replace(setup, seq=1)
            if strategy not in failed and _fits(here, setup, headroom):
                break
            failed.add(strategy)
        else:
            return best
        place = bisect_left(
            seqs, True, lo=place + 1, key=lambda seq: not _fits(here, replace(setup, seq=seq), headroom)
        )
        best = seqs[place - 1], setup
    return best


def _promising(space: Space, cps: tuple[int, ...], headroom: float) -> list[Setup]:
    """Strategies that may fit, those first that need least, with the smallest micro-batch."""
    small = off(replace(space, fixed={"micro": (1,)} | space.fixed))
    found: list[tuple[float, int, Setup]] = []
    for share in small.shares():
        grid = small.grid(split for split in share if split[1] in cps)
        most = most_bytes(space, grid, headroom)
        needed = scores(space.model, space.cluster, grid, space.stack, most, bytes_alone=True)
        rows = np.flatnonzero(np.isfinite(needed.peak_bytes) & (needed.needed_bytes <= most)).tolist()
        found += [(float(needed.needed_bytes[row]), len(found) + k, grid.setup(row)) for k, row in enumerate(rows)]
    return [setup for *_, setup in sorted(found)]


def _fits(space: Space, setup: Setup, headroom: float) -> bool:
    found = predicted_of(space, setup)
    return found is not None and found.headroom >= headroom


def _answer(space: Space, seq: int, setup: Setup, top: int, headroom: float, tell: Callable[[int], bool]) -> Longest:
    """The sequence with its strategies, of which one is known, and what the next longer one needs."""
    here = at(space, seq)
    planned = best_of(here, top=top, headroom=headroom, watch=told(tell, seq))
    if planned.stopped and (one := predicted_of(here, replace(setup, seq=seq))) is not None:
        planned = replace(planned, choices=planned.choices or (one,))
    more = seq + STEP if seq + STEP <= most_seq(space) and not planned.stopped else None
    return Longest(
        seq=seq,
        batch=here.base.batch,
        planned=planned,
        next_seq=more,
        next_choice=None if more is None else nearest(at(space, more)),
    )


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
