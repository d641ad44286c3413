"""Rows of a grid worked on by all cores, those that have work in common by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.core.side_by_side import cores, side_by_side
from penstock.predict.grid import Grid
from penstock.predict.ranks import SHAPES

Ints = NDArray[np.int64]
T = TypeVar("T")
FEW_ROWS, FEW_SHAPES = 1024, 1024
"""Rows, and shapes of work on a micro-batch among them, for fewer of which no other process is worth its start."""
COMMON = ("ep", "etp", "recompute")
"""Of the names of ``SHAPES``, those in which rows may differ that have work in common."""


def shared(grid: Grid, some: Ints, of: Callable[[Ints], T], into: Any) -> None:
    """Put what a function gives of some rows of a grid into arrays with one entry for each row.

    Args:
        grid: the rows.
        some: which of them.
        of: gives arrays of the rows that it takes, which do not depend on others.
        into: the same arrays of all rows.
    """
    shares = _shares(grid, some)
    for rows, found in zip(shares, side_by_side(of, shares), strict=True):
        for field in fields(into):
            getattr(into, field.name)[rows] = getattr(found, field.name)


def _shares(grid: Grid, some: Ints) -> list[Ints]:
    """Some rows in a share for each core; in one, if they are few."""
    count = cores() if len(some) >= FEW_ROWS else 1
    if count == 1 or len((mine := grid.rows(some)).kinds(*SHAPES)[0]) < FEW_SHAPES:
        return [some]
    first, which = mine.kinds(*(name for name in SHAPES if name not in COMMON))
    share = np.random.default_rng(0).permutation(len(first))[which] % count
    return [some[share == number] for number in range(count)]
