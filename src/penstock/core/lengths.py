"""The noun ``Lengths``: how many tokens the sequences of a set have."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.core.files import read_text
from penstock.core.words import suggest

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lengths:
    """A histogram of sequence lengths.

    Args:
        name: of the set.
        tokens, counts: lengths that there are, rising, and how many sequences have each, shape (lengths,).
        source: where it is from.

    >>> found = Lengths.of([3, 1, 3])
    >>> found.tokens.tolist(), found.counts.tolist(), found.longest, round(found.mean, 2)
    ([1, 3], [1, 2], 3, 2.33)
    """

    name: str
    tokens: Ints
    counts: Ints
    source: str = ""

    @classmethod
    def of(cls, lengths: Iterable[int], name: str = "given") -> Lengths:
        """From sequences one by one.

        Raises:
            ValueError: there are none, or one has no token.
        """
        return _checked(name, [(int(length), 1) for length in lengths], "")

    @staticmethod
    def read(text: str | Path) -> Lengths:
        """Return those of a CSV file with the columns ``length`` and ``count``, or a published set by name.

        Raises:
            ValueError: no such set, or a file that cannot be read; it names the line.

        >>> Lengths.read("squad").longest
        384
        """
        folder = resources.files("penstock") / "data" / "lengths"
        shipped = {Path(entry.name).stem: entry for entry in folder.iterdir()}
        if (name := str(text)) in shipped:
            return _parsed(name, shipped[name].read_text(encoding="utf-8"))
        path = Path(text).expanduser()
        if path.suffix != ".csv":
            raise ValueError(f"--lengths {text}: no file ends in .csv so; {suggest(name, sorted(shipped))}")
        return _parsed(str(path), read_text(path))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.tokens[-1])

    @property
    def mean(self) -> float:
        """Tokens of a sequence on average."""
        return float((self.tokens * self.counts).sum() / self.counts.sum())

    def cut(self, most: int) -> tuple[Lengths, float]:
        """Return the lengths with longer sequences cut to ``most`` tokens, and the share of sequences that were.

        >>> Lengths.of([2, 5, 9]).cut(5)[1]
        0.3333333333333333
        """
        tokens, place = np.unique(np.minimum(self.tokens, most), return_inverse=True)
        counts = np.bincount(place, self.counts).astype(np.int64)
        share = float(self.counts[self.tokens > most].sum() / self.counts.sum())
        return Lengths(self.name, tokens, counts, self.source), share

    def draw(self, size: int, number: int = 0) -> Ints:
        """Return the lengths of a batch of ``size`` sequences; the same for the same ``number``."""
        share = self.counts / self.counts.sum()
        return np.random.default_rng(number).choice(self.tokens, size, p=share)


def _parsed(name: str, text: str) -> Lengths:
    lines = [line for line in text.splitlines() if line.strip()]
    source = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    rows = csv.reader(line for line in lines if not line.startswith("#"))
    head = [cell.strip() for cell in next(rows, [])]
    if head[:2] != ["length", "count"]:
        raise ValueError(f"{name}: the first line is {','.join(head) or 'missing'}; write length,count")
    return _checked(name, [_row(name, row) for row in rows], source)


def _row(name: str, row: Sequence[str]) -> tuple[int, int]:
    try:
        length, count = (int(cell) for cell in row[:2])
    except ValueError:
        raise ValueError(f"{name}: {','.join(row)!r} is no length and count; write whole numbers, as 2048,17") from None
    return length, count


def _checked(name: str, rows: list[tuple[int, int]], source: str) -> Lengths:
    some = [(length, count) for length, count in rows if count]
    if not some:
        raise ValueError(f"{name}: there are no sequences; give lengths and how many sequences have them")
    for length, count in some:
        if length < 1 or count < 1:
            raise ValueError(f"{name}: length {length}, count {count}: a sequence has 1 token or more")
    lengths, counts = np.array(some, dtype=np.int64).T
    tokens, place = np.unique(lengths, return_inverse=True)
    return Lengths(name, tokens, np.bincount(place, counts).astype(np.int64), source)
