"""The noun ``Grid``: many setups of one model as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.setup import Setup
from penstock.core.switches import in_the_way
from penstock.core.words import suggest

NUMBERS = (
    "micro", "tp", "cp", "pp", "dp", "ep", "etp", "chunks", "zero", "sp", "shards", "cp_heads", "cp_inner",
    "vocabulary",
)  # fmt: skip
FROM_0 = ("zero", "sp", "shards", "cp_heads", "cp_inner", "vocabulary")
"""Those of them that may be 0."""
CHOICES = ("recompute", "schedule", "stage_layers", "recompute_layers", "order", "tp_overlap", "ep_overlap")
COUNTS = ("stage_layers", "recompute_layers")
"""Those of them that are numbers, one for each stage."""
DENSE = 16
"""Numbers that span no more than so many times their count are told apart by a table."""
DERIVED = ("devices", "cp_turned", "stages", "micros", "replicas", "expert_replicas", "sharded", "expert_sharded")
"""What follows from columns as it does for one setup."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Setups that differ in some columns, one row each; it answers to the names that ``Setup`` has, with arrays.

    Args:
        base: what all have in common.
        columns: of ``NUMBERS``, and of ``CHOICES`` as places in ``choices``; shape (rows,), or (rows, 1).
        choices: what the places of a choice stand for.

    Raises:
        ValueError: a column that there is not, or columns of different lengths.

    >>> grid = Grid.of(Setup(seq=2048, batch=64), tp=[1, 2, 4], pp=2, schedule=["1f1b", "zb-h1", "1f1b"])
    >>> len(grid), grid.devices.tolist(), grid.setup(1).schedule
    (3, [2, 4, 8], 'zb-h1')
    """

    base: Setup
    columns: Mapping[str, NDArray[Any]]
    choices: Mapping[str, tuple[Any, ...]]

    @classmethod
    def of(cls, base: Setup, **columns: Any) -> Grid:
        """From one value, or one value a row, for each of some columns; all else is as in ``base``."""
        _check_names(columns)
        rows = {name: _column(name, values) for name, values in columns.items()}
        choices = {name: tuple(dict.fromkeys(rows.get(name, [getattr(base, name)]))) for name in CHOICES}
        numbers = {name: np.asarray(rows.get(name, getattr(base, name)), dtype=np.int64) for name in NUMBERS}
        places = {
            name: np.array([choices[name].index(value) for value in rows.get(name, [getattr(base, name)])])
            for name in CHOICES
        }
        lengths = {column.size for column in (*numbers.values(), *places.values()) if column.size != 1}
        if len(lengths) > 1:
            raise ValueError(f"columns have {sorted(lengths)} rows; give one value, or equally many")
        size = lengths.pop() if lengths else 1
        return cls(base, {name: np.broadcast_to(c, size).copy() for name, c in (numbers | places).items()}, choices)

    @classmethod
    def all_of(cls, base: Setup, devices: int, **values: Iterable[Any]) -> Grid:
        """Return the product of values of some columns, each with the ``dp`` that takes all ``devices``; combinations
        for which there is none are left out."""
        _check_names(values)
        names, each = [*values], [tuple(value) for value in values.values()]
        wanted = {name: tuple(values.get(name, [getattr(base, name)])) for name in CHOICES}
        spans = [range(len(one)) if name in CHOICES else one for name, one in zip(names, each, strict=True)]
        rows = np.array([*product(*spans)], dtype=np.int64).reshape(-1, len(names)).T
        columns = {name: np.full(rows.shape[1], getattr(base, name), dtype=np.int64) for name in NUMBERS}
        columns |= {name: np.zeros(rows.shape[1], dtype=np.int64) for name in CHOICES}
        columns |= dict(zip(names, rows, strict=True))
        model = columns["tp"] * columns["cp"] * columns["pp"]
        columns["dp"] = devices // model
        fits = devices % model == 0
        return cls(base, {name: column[fits] for name, column in columns.items()}, wanted)

    def __getattr__(self, name: str) -> Any:
        if name in CHOICES:
            raise AttributeError(f"rows of a grid differ in {name}; look at one setup")
        if name in DERIVED:
            self.__dict__[name] = getattr(Setup, name).fget(self)
            return self.__dict__[name]
        return self.columns[name] if name in self.columns else getattr(self.base, name)

    def inside(self, axis: str, other: str) -> NDArray[np.bool_]:
        """Return in which rows an axis lies inside of another."""
        each = np.array([order.index(axis) < order.index(other) for order in self.choices["order"]])
        return np.asarray(each[0] if len(each) == 1 else each[self.columns["order"]])

    def __len__(self) -> int:
        return len(self.columns["tp"])

    def rows(self, at: Any) -> Grid:
        """Return some of the rows."""
        return Grid(self.base, {name: column[at] for name, column in self.columns.items()}, self.choices)

    @cached_property
    def upright(self) -> Grid:
        """The same with columns of shape (rows, 1), for arithmetic with one entry per pipeline rank."""
        return Grid(self.base, {name: column[:, None] for name, column in self.columns.items()}, self.choices)

    def setup(self, row: int) -> Setup:
        """Return one of the setups.

        Raises:
            ValueError: it cannot be; see ``Setup``.
        """
        numbers: dict[str, Any] = {name: int(self.columns[name][row]) for name in NUMBERS}
        chosen = {name: self.choices[name][int(self.columns[name][row])] for name in CHOICES}
        flags = {name: bool(numbers[name]) for name in ("sp", "cp_heads")}
        if "batch" in self.columns:
            numbers["batch"] = int(self.columns["batch"][row])
        return replace(self.base, **numbers | flags | chosen)

    def values(self, name: str) -> list[Any]:
        """Return the value of a choice in each row."""
        return [self.choices[name][place] for place in self.columns[name].tolist()]

    def chosen(self, name: str, value: Any) -> NDArray[np.bool_]:
        """Return which rows have a value of a choice."""
        return np.asarray(np.array([one == value for one in self.choices[name]], dtype=bool)[self.columns[name]])

    def says(self, name: str) -> NDArray[np.bool_]:
        """Return which rows have numbers of their own for a choice of ``COUNTS``."""
        said = np.array([bool(counts) for counts in self.choices[name]], dtype=bool)
        return np.asarray(said[self.columns[name]])

    def kinds(self, *names: str | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each distinct combination of some columns, by name or themselves, and which one each
        row has."""
        code = np.zeros(len(self), dtype=np.int64)
        for name in names:
            if isinstance(name, str):
                if len(self.choices.get(name, (0, 1))) == 1:
                    continue
                column = getattr(self, name) if name not in CHOICES else self.columns[name]
            else:
                column = name
            first, place = _kinds(column)
            code = code * len(first) + place
            if code.max(initial=0) > DENSE * len(code):
                code = _kinds(code)[1]
        return _kinds(code)


def _kinds(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each distinct value, and which one each row has, in order of values; without sorting them where
    these are few."""
    low, rows = int(values.min(initial=0)), len(values)
    span = int(values.max(initial=0)) - low + 1
    if span > DENSE * rows:
        return np.unique(values, return_index=True, return_inverse=True)[1:]
    first = np.full(span, rows)
    first[values[::-1] - low] = np.arange(rows)[::-1]
    there = first < rows
    return first[there], (np.cumsum(there) - 1)[values - low]


def together(grids: Sequence[Grid]) -> Grid:
    """Return the rows of several grids in one; all have the base and the choices of the first."""
    first = grids[0]
    if len(grids) == 1:
        return first
    columns = {name: np.concatenate([one.columns[name] for one in grids]) for name in first.columns}
    return Grid(first.base, columns, first.choices)


def joined(parts: Sequence[tuple[int, Grid]]) -> Grid:
    """Return the rows of several grids, each with a batch, in one that has a column of batches."""
    each = [replace(grid, columns={**grid.columns, "batch": np.full(len(grid), batch)}) for batch, grid in parts]
    return together(each)


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in (*NUMBERS, *CHOICES):
            raise ValueError(f"a grid has no column {name!r}; {suggest(name, (*NUMBERS, *CHOICES))}")


def _column(name: str, values: Any) -> Any:
    if name in CHOICES:
        single = int if name in COUNTS else str
        one = isinstance(values, str) or (isinstance(values, tuple) and all(isinstance(v, single) for v in values))
        return [values] if one else [*values]
    return values


def can_be(grid: Grid, devices: int) -> NDArray[np.bool_]:
    """Return which rows are setups, and take no more than ``devices``."""
    ranks = grid.dp * grid.cp * grid.tp
    least = np.min([grid.columns[name] - (name not in FROM_0) for name in NUMBERS], axis=0)
    found = (least >= 0) & (grid.zero <= 3) & (grid.vocabulary <= 3) & (grid.devices <= devices)
    each = np.maximum(grid.dp * grid.micro, 1)
    found &= again_can_be(grid) & (grid.batch % each == 0) & (ranks % np.maximum(grid.ep * grid.etp, 1) == 0)
    inner = (grid.cp_inner > 1) & (grid.cp_inner < grid.cp) & (grid.cp_heads == 0)
    found &= ~blocked(grid) & ((grid.cp_turned == 1) | (grid.base.cp_overlap == "own"))
    found &= (grid.cp_inner == 0) | (inner & (grid.cp % np.maximum(1, grid.cp_inner) == 0))
    return np.asarray(found & (grid.replicas % np.maximum(1, grid.shards) == 0))


def blocked(grid: Grid) -> NDArray[np.bool_]:
    """Return in which rows something is in the way of a switch that is on."""
    whole = grid.chosen("recompute", "full") | (grid.says("recompute_layers") & (grid.base.recompute_first == "full"))
    found = in_the_way(grid, grid.chosen("tp_overlap", "on"), grid.chosen("ep_overlap", "on"), whole)
    return np.asarray(np.any([*found.values()], axis=0))


def again_can_be(grid: Grid) -> NDArray[np.bool_]:
    """Return which rows make their first layers again in another way than the rest, or have none that are."""
    alike = np.array([again in ("full", grid.base.recompute_first) for again in grid.choices["recompute"]], dtype=bool)
    return np.asarray(~(grid.says("recompute_layers") & alike[grid.columns["recompute"]]))
