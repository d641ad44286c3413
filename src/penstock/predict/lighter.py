"""The fewest first layers of stages that are made again so that many setups fit, by closed forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import even
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.held import LAID, Held, layouts
from penstock.predict.ranks import Ranks, blocks_until, layout
from penstock.predict.score import ranks_of
from penstock.predict.shares import shared
from penstock.schedules.build import placement_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AT_ONCE = 2048
"""Rows that are worked on at a time; bounds the memory."""


def steps_of(stages: tuple[int, ...], how: str) -> list[tuple[int, ...]]:
    """Return how many first layers of each stage of one rank are made again, step by step, from none to all.

    Args:
        stages: layers of each stage of the rank.
        how: as ``Stack.again_layers``.

    >>> steps_of((2, 1), "any"), steps_of((2, 1), "alike"), steps_of((2, 1), "ranks")
    ([(0, 0), (1, 0), (2, 0), (2, 1)], [(0, 0), (1, 1), (2, 1)], [(0, 0), (2, 1)])
    """
    if how == "ranks":
        return [(0,) * len(stages), stages]
    if how == "alike":
        return [tuple(min(k, layers) for layers in stages) for k in range(max(stages) + 1)]
    before = np.cumsum([0, *stages[:-1]]).tolist()
    return [
        tuple(int(min(max(k - begin, 0), layers)) for begin, layers in zip(before, stages, strict=True))
        for k in range(sum(stages) + 1)
    ]


@dataclass(frozen=True, eq=False)
class Lightest:
    """Of each row of a grid, shape (rows,), with the fewest layers made again: ``seconds`` of a step, infinite where it
    does not fit then either or takes longer than is asked for; ``work_s``: of its busiest rank; ``none_s``: of a step
    with none made again."""

    seconds: Floats
    work_s: Floats
    none_s: Floats


def lightest(
    model: Architecture,
    cluster: Cluster,
    grid: Grid,
    stack: Stack,
    most_bytes: Floats,
    most_s: Floats,
    how: str,
) -> Lightest:
    """Return about what ``predict`` says of each setup with the fewest first layers made again, as ``recompute_first``
    of the grid's base says, so that no device needs more.

    Args:
        model, cluster, grid, stack: as ``scores`` takes them; no row has ``recompute_layers``.
        most_bytes: what a device of each row may need, shape (rows,).
        most_s: rows that take longer even with nothing made again are left out, shape (rows,).
        how: as ``Stack.again_layers``.
    """

    def share(rows: Ints) -> Lightest:
        return _of(model, cluster, grid.rows(rows), stack, most_bytes[rows], most_s[rows], how)

    found = Lightest(*(np.full(len(grid), np.inf) for _ in range(3)))
    shared(grid, np.arange(len(grid)), share, found)
    return found


def _of(
    model: Architecture, cluster: Cluster, grid: Grid, stack: Stack, most_bytes: Floats, most_s: Floats, how: str
) -> Lightest:
    """The same, by one process."""
    seconds, work_s, none_s = (np.full(len(grid), np.inf) for _ in range(3))
    for begin in range(0, len(grid), AT_ONCE):
        rows = np.arange(begin, min(begin + AT_ONCE, len(grid)))
        made, of = ranks_of(model, cluster, grid.rows(rows), stack)
        rows, of = rows[of >= 0], of[of >= 0]
        if not len(rows):
            continue
        many = Ranks(model, cluster, grid.rows(rows), stack, made, of)
        none_s[rows] = Held.of(many).seconds()[0]
        soon = none_s[rows] <= most_s[rows]
        if not soon.any():
            continue
        rows, held = rows[soon], Held.of(many.rows(soon), apart=how != "alike")
        ladder = _Ladder.of(held, how)
        fits: NDArray[np.bool_] = (ladder.needed_bytes(ladder.last) <= most_bytes[rows, None]).min(axis=1)
        if fits.any():
            rows = rows[fits]
            seconds[rows], work_s[rows] = _fewest(ladder.rows(fits), most_bytes[rows, None], how).seconds()
    return Lightest(seconds, work_s, none_s)


@dataclass(frozen=True, eq=False)
class _Ladder:
    """Rows of a grid, and how many blocks of each kind are made again by each class of ranks at each step: shape
    (layouts, steps, classes, kinds); ``which``: the layout of each row; ``in_flight``: as that of ``held``."""

    held: Held
    table: Floats
    which: Ints
    in_flight: Floats

    @classmethod
    def of(cls, held: Held, how: str) -> _Ladder:
        model, (firsts, which) = held.ranks.model, held.ranks.grid.kinds(*LAID)
        each = [_ladder(model, *size[:4], how) for size in layouts(held.ranks.grid.rows(firsts))]
        steps, classes = max(map(len, each)), held.stage.first.shape[1]
        table = np.zeros((len(each), steps, classes, len(model.kinds())))
        for place, one in enumerate(each):
            whole = np.concatenate([one, np.repeat(one[-1:], steps - len(one), axis=0)])
            table[place, :, : one.shape[1]] = whole
            table[place, :, one.shape[1] :] = whole[:, :1]
        return cls(held, table, which, held.in_flight())

    def rows(self, at: NDArray[np.bool_]) -> _Ladder:
        """Of some rows."""
        return _Ladder(self.held.rows(at), self.table, self.which[at], self.in_flight[at])

    @property
    def last(self) -> Ints:
        """The last step of all."""
        return np.full(self.held.stage.first.shape, self.table.shape[1] - 1)

    def at(self, step: Ints) -> Held:
        """The rows with each rank at a step, shape (rows, classes)."""
        counts = self.table[self.which[:, None], step, np.arange(step.shape[1])]
        again = {kind: counts[:, :, k] for k, kind in enumerate(self.held.ranks.model.kinds())}
        return replace(self.held, stage=self.held.stage._replace(again=again))

    def needed_bytes(self, step: Ints) -> Floats:
        """What must fit then, shape (rows, classes)."""
        return self.at(step).peaks(self.in_flight)[1]


def _fewest(ladder: _Ladder, most_bytes: Floats, how: str) -> Held:
    """All rows at the first step at which each rank fits, or all ranks alike; at their last they do."""
    high = ladder.last
    low = np.zeros_like(high)
    while (low < high).any():
        middle = (low + high) // 2
        enough = ladder.needed_bytes(middle) <= most_bytes
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return ladder.at(np.broadcast_to(high.max(axis=1, keepdims=True), high.shape) if how == "alike" else high)


@lru_cache(maxsize=1024)
def _ladder(
    model: Architecture, schedule: str, ranks: int, chunks: int, sizes: tuple[int, ...], how: str
) -> NDArray[Any]:
    """Blocks of each kind that are made again by each class of ranks at each of its steps: shape (steps, classes,
    kinds)."""
    sizes, placement = sizes or even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    begins, until = np.cumsum([0, *sizes]), blocks_until(model)
    places = layout(model, schedule, ranks, chunks, sizes, apart=how != "alike").low.tolist()
    each = [np.array(placement.on(rank)) for rank in places]
    counted = [np.array(steps_of(tuple(sizes[stage] for stage in mine), how)) for mine in each]
    found = np.zeros((max(map(len, counted)), len(each), until.shape[1]))
    for r, (mine, counts) in enumerate(zip(each, counted, strict=True)):
        found[: len(counts), r] = (until[begins[mine] + counts] - until[begins[mine]]).sum(axis=1)
        found[len(counts) :, r] = found[len(counts) - 1, r]
    return found
