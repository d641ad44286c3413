"""The noun ``Ranks``: what ``Rank`` says of one setup, for many at once, and their pipeline ranks in few classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup, even
from penstock.cost.collectives import Collective, collective_s, send_s
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.micro import Rank
from penstock.schedules.build import placement_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHAPES = ("tp", "cp", "ep", "etp", "micro", "sp", "recompute")
"""What shapes the work on one micro-batch."""


def shapes_of(grid: Grid, stack: Stack) -> tuple[list[Setup], Ints]:
    """Return a setup without pipeline for each shape of the work on a micro-batch, and which one each row has.

    Where gradients are added by kernels of their own, their mean time depends on the number of micro-batches too.
    """
    adds = stack.passing_bytes > 0
    first, which = grid.kinds(*SHAPES, *(("micros",) if adds else ()))
    each, found = grid.rows(first), []
    for row, micros in enumerate(each.micros.tolist() if adds else [1] * len(first)):
        shape = {name: int(each.columns[name][row]) for name in SHAPES[:-2]}
        dp = shape["ep"] * shape["etp"]
        more = {"sp": bool(each.sp[row]), "recompute": each.choices["recompute"][int(each.columns["recompute"][row])]}
        batch = dp * shape["micro"] * micros
        found.append(replace(grid.base, **shape | more, dp=dp, pp=1, chunks=1, shards=0, zero=0, batch=batch))
    return found, which


class Ranks:
    """The ranks of a grid; arrays have the shape (rows, 1), or (rows, classes) where pipeline ranks differ."""

    def __init__(self, model: Architecture, cluster: Cluster, grid: Grid, stack: Stack, made: list[Rank], of: Ints):
        self.model, self.cluster, self.stack, self.grid = model, cluster, stack, grid
        self.setup = grid.upright
        self.made, self.of = made, of
        self.device, self.low, self.width_bytes = made[0].device, made[0].low, made[0].width_bytes

    def rows(self, at: Any) -> Ranks:
        """Return those of some rows."""
        return Ranks(self.model, self.cluster, self.grid.rows(at), self.stack, self.made, self.of[at])

    def each(self, of: Callable[[Rank], Any]) -> Any:
        """What a function of a rank gives in each row: a number, or a tuple of numbers."""
        found = np.array([of(rank) for rank in self.made], dtype=np.float64)[self.of]
        return found[:, None] if found.ndim == 1 else tuple(column[:, None] for column in found.T)

    def among(self, kind: Collective, whole_bytes: Floats, size: Ints, stride: Ints, when: Any = True) -> Floats:
        """Seconds of a collective over ``size`` ranks that are ``stride`` apart, in rows where it is done."""
        found = np.zeros(whole_bytes.shape)
        some = np.flatnonzero(np.broadcast_to((size > 1) & when, size.shape)[:, 0] & whole_bytes.any(axis=1))
        pairs, which = np.unique(size[some, 0] * self.cluster.devices + stride[some, 0], return_inverse=True)
        for number, pair in enumerate(pairs.tolist()):
            rows = some[which == number]
            path = self.cluster.path(*divmod(pair, self.cluster.devices))
            found[rows] = collective_s(kind, whole_bytes[rows], path)
        return found

    @cached_property
    def next_stage_s(self) -> Floats:
        """Seconds of what one stage sends to the next."""
        size, grid = self.each(lambda rank: rank.boundary_bytes), self.grid
        found, stride = np.zeros(size.shape), np.where(grid.pp > 1, grid.devices // grid.pp, 0)
        for one in np.unique(stride[stride > 0]).tolist():
            rows = stride == one
            found[rows] = send_s(size[rows], self.cluster.path(2, one))
        return found


@dataclass(frozen=True, eq=False)
class Layout:
    """Pipeline ranks that hold the same are one class.

    ``counts``: blocks of each kind, shape (classes, kinds). ``first``, ``last``: embedding and head. ``low``, ``high``:
    the first and the last rank of a class. ``before``, ``after``: ranks of each class before and behind ``high``, shape
    (classes, classes); ``ahead``: before ``low``.
    """

    counts: Floats
    first: Floats
    last: Floats
    low: Ints
    high: Ints
    before: Floats
    after: Floats
    ahead: Floats


@lru_cache(maxsize=1024)
def layout(model: Architecture, schedule: str, ranks: int, chunks: int) -> Layout:
    """Return the classes of ranks of a model that is split evenly.

    Raises:
        ValueError: too few layers, or no such schedule.
    """
    sizes, placement = even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    ends, kinds = np.cumsum([0, *sizes]), [*model.kinds()]
    part = [placement.part_of[stage] for stage in range(placement.stages)]
    held: dict[tuple[Any, ...], list[int]] = {}
    for rank in range(ranks):
        mine = [part[stage] for stage in placement.on(rank)]
        blocks: Counter[Any] = Counter()
        for stage in mine:
            blocks.update(model.blocks[ends[stage] : ends[stage + 1]])
        held.setdefault((*(blocks[kind] for kind in kinds), 0 in mine, len(sizes) - 1 in mine), []).append(rank)
    table = np.array([*held], dtype=np.float64)
    low, high = (np.array([at(members) for members in held.values()]) for at in (min, max))

    def among(at: Ints, below: bool) -> Floats:
        return np.array(
            [[sum(r < edge if below else r > edge for r in members) for members in held.values()] for edge in at],
            dtype=np.float64,
        )

    return Layout(
        table[:, :-2], table[:, -2], table[:, -1], low, high, among(high, True), among(high, False), among(low, True)
    )


def padded(layouts: list[Layout]) -> Layout:
    """Return the layouts as one, with a first axis; classes that one lacks are its first once more."""
    most = max(len(one.low) for one in layouts)

    def column(name: str) -> NDArray[Any]:
        found = []
        for one in layouts:
            value, places = getattr(one, name), np.arange(most) * (np.arange(most) < len(one.low))
            value = value[places]
            if name in ("before", "after", "ahead"):
                value = np.pad(value, ((0, 0), (0, most - value.shape[1])))
            found.append(value)
        return np.array(found)

    return Layout(*(column(name) for name in Layout.__dataclass_fields__))
