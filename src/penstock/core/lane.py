"""The ops of one rank in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import OF_STAGE, Kind, Op

FUSED = "OVERLAP_F_B"
"""PyTorch's word for a forward and a backward that run as one block."""


@dataclass(frozen=True, eq=False)
class Lane(Sequence[Op]):
    """The ops of one rank in the order it runs them, held as an array.

    Args:
        codes: int32 array of shape (ops, 3): kind, stage, micro-batch (``NO_MICRO`` for kinds without one).
        fused: whether each op and the next are one block, that starts and ends as one and takes what
            ``Costs.fused_s`` says: a forward and a backward of different micro-batches. Shape (ops,); default none.

    Example:
        >>> str(Lane.parse("0F0 0F1 0B0 0B1")[2])
        '0B0'
        >>> print(Lane.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1"))
        0F0 (0F1;0B0)OVERLAP_F_B 0B1
    """

    codes: NDArray[np.int32]
    fused: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def __post_init__(self) -> None:
        codes = np.array(self.codes, dtype=np.int32).reshape(-1, 3)
        fused = np.array(self.fused, dtype=np.bool_) if len(self.fused) else np.zeros(len(codes), dtype=np.bool_)
        if fused.shape != (len(codes),):
            raise ValueError(f"fused has shape {fused.shape} for {len(codes)} ops")
        if fused.any() and not _may_fuse(codes, fused):
            raise ValueError("a fused block is a forward and, next to it, a backward (B or I)")
        for name, values in (("codes", codes), ("fused", fused)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def of(cls, ops: Iterable[Sequence[int]] | NDArray[Any]) -> Lane:
        """From ops (or rows of kind, stage, micro-batch); a lane stays as it is."""
        if isinstance(ops, Lane):
            return ops
        return cls(np.asarray(ops if isinstance(ops, np.ndarray) else list(ops), dtype=np.int32))

    @classmethod
    def parse(cls, text: str) -> Lane:
        """From text such as ``0F0 0F1 0B0``.

        Raises:
            ValueError: a word is not an op.
        """
        words = text.split()
        found = _WORD.findall(text)
        if len(found) == len(words) and all(kind in _NUMBERED for _, kind, _ in found):
            return cls.of([(_CODE[kind], int(stage), int(micro)) for stage, kind, micro in found])
        blocks = [_block(word) for word in words]
        fused = [first for block in blocks for first in [True, False][2 - len(block) :]]
        return cls(np.array([op for block in blocks for op in block], dtype=np.int32), np.array(fused, dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> Lane: ...
    def __getitem__(self, index: int | slice) -> Op | Lane:
        if isinstance(index, slice):
            codes, fused = self.codes[index], self.fused[index].copy()
            fused[-1:] = False
            return Lane(codes, fused)
        kind, stage, micro = self.codes[index].tolist()
        return Op(Kind(kind), stage, micro)

    def __iter__(self) -> Iterator[Op]:
        return (Op(_KINDS[kind], stage, micro) for kind, stage, micro in self.codes.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lane):
            return False
        return np.array_equal(self.codes, other.codes) and np.array_equal(self.fused, other.fused)

    def __hash__(self) -> int:
        return hash(self.codes.tobytes())

    def __str__(self) -> str:
        words = [f"{s}{_NAMES[k]}{i if i >= 0 else ''}" for k, s, i in self.codes.tolist()]
        for row in np.flatnonzero(self.fused)[::-1].tolist():
            words[row : row + 2] = [f"({words[row]};{words[row + 1]}){FUSED}"]
        return " ".join(words)


_WORD = re.compile(r"(?<!\S)(\d{1,9})([A-Z]+(?:_[A-Z]+)*)(\d{1,9})(?!\S)", re.ASCII)
_PAIR = re.compile(r"\(([^;]*);([^)]*)\)" + FUSED)
_KINDS = tuple(Kind)
_NAMES = tuple(kind.name for kind in Kind)
_CODE = {kind.name: int(kind) for kind in Kind}
_NUMBERED = {kind.name for kind in Kind if kind not in OF_STAGE}


def _block(word: str) -> list[Op]:
    """The op, or the two ops, of a word."""
    pair = _PAIR.fullmatch(word)
    return [Op.parse(part) for part in pair.groups()] if pair else [Op.parse(word)]


def _may_fuse(codes: NDArray[np.int32], fused: NDArray[np.bool_]) -> bool:
    rows = np.flatnonzero(fused)
    if rows[-1] == len(codes) - 1:
        return False
    return bool((codes[rows, 0] == Kind.F).all() and np.isin(codes[rows + 1, 0], (Kind.B, Kind.I)).all())
