"""The noun ``Ranks``: what ``Rank`` says of one setup, for many at once, and their pipeline ranks in few classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core import mesh
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDER, Row
from penstock.core.setup import Setup, even
from penstock.core.unchecked import like
from penstock.cost.collectives import Collective, collective_s, send_s
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.micro import Rank
from penstock.predict.split import between_stages
from penstock.schedules.build import placement_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SIZES, WORDS = ("tp", "cp", "cp_inner", "ep", "etp", "micro"), ("recompute", "tp_overlap", "ep_overlap")
SHAPES = (*SIZES, "sp", "cp_heads", *WORDS)
"""What shapes the work on one micro-batch: numbers, whether something is so, and words."""
ALIKE: dict[str, Any] = {
    "pp": 1, "chunks": 1, "shards": 0, "zero": 0, "vocabulary": 0, "stage_layers": (), "recompute_layers": (),
    "recompute_first": "full", "order": ORDER,
}  # fmt: skip
"""What does not."""


def shapes_of(grid: Grid, adds: bool, alike: bool) -> tuple[list[tuple[Setup, tuple[Row, Row, int]]], Ints]:
    """Return a setup without pipeline for each shape of the work on a micro-batch, with its rows of context and expert
    parallelism, and which one each row of the grid has.

    Where gradients are added by kernels of their own (``adds``), their mean time depends on the number of micro-batches
    too; where not all nodes and links are ``alike``, on that of devices, which is 0 else.
    """
    rows, devices = (mesh.context(grid), mesh.experts(grid)), grid.devices * (not alike)
    apart = (rows[0].stride, rows[1].run, rows[1].skip, devices)
    first, which = grid.kinds(*SHAPES, *apart, *(("micros",) if adds else ()))
    each, found = grid.rows(first), []
    groups = [[Row(*one) for one in _columns(row)[:, first].T.tolist()] for row in rows]
    for row, micros in enumerate(each.micros.tolist() if adds else [1] * len(first)):
        shape: dict[str, Any] = {name: int(each.columns[name][row]) for name in SIZES}
        dp = shape["ep"] * shape["etp"]
        shape |= {"sp": bool(each.sp[row]), "cp_heads": bool(each.cp_heads[row])}
        shape |= {name: each.choices[name][int(each.columns[name][row])] for name in WORDS}
        least = max(micros, 1 + (shape["ep_overlap"] == "on"))
        setup = _upright(grid.base, **shape, dp=dp, batch=dp * shape["micro"] * least)
        found.append((setup, (groups[0][row], groups[1][row], int(devices[first[row]]))))
    return found, which


@lru_cache(maxsize=32768)
def _upright(base: Setup, **shape: Any) -> Setup:
    """A setup without pipeline; equal ones once, since making one takes longer than finding it."""
    return like(base, **ALIKE | shape)


def _columns(rows: Row) -> Ints:
    """Those of many setups as one array, shape (4, setups)."""
    return np.stack(np.broadcast_arrays(*rows)).astype(np.int64)


class Ranks:
    """The ranks of a grid; arrays have the shape (rows, 1), or (rows, classes) where pipeline ranks differ."""

    def __init__(self, model: Architecture, cluster: Cluster, grid: Grid, stack: Stack, made: list[Rank], of: Ints):
        self.model, self.cluster, self.stack, self.grid = model, cluster, stack, grid
        self.setup = grid.upright
        self.made, self.of = made, of
        self.noted: dict[Any, Any] = {}
        self.device, self.low, self.width_bytes = made[0].device, made[0].low, made[0].width_bytes
        self.recipe, self.gathered_bytes = made[0].recipe, made[0].gathered_bytes

    def rows(self, at: Any) -> Ranks:
        """Return those of some rows."""
        used, of = np.unique(self.of[at], return_inverse=True)
        made = [self.made[place] for place in used.tolist()]
        return Ranks(self.model, self.cluster, self.grid.rows(at), self.stack, made, of)

    def each(self, of: Callable[[Rank], Any]) -> Any:
        """What a function of a rank gives in each row: a number, or a tuple of numbers."""
        found = np.array([of(rank) for rank in self.made], dtype=np.float64)[self.of]
        return found[:, None] if found.ndim == 1 else tuple(column[:, None] for column in found.T)

    def among(self, kind: Collective, whole_bytes: Floats, row: Row, when: Any = True) -> Floats:
        """Seconds of a collective over a group, in rows where it is done."""
        found = np.zeros(whole_bytes.shape)
        each = np.stack([np.broadcast_to(column, row.size.shape)[:, 0] for column in row])
        some = np.flatnonzero((each[0] > 1) & np.broadcast_to(when, row.size.shape)[:, 0])
        some = some[whole_bytes[some].any(axis=1)]
        devices = self.grid.devices[some]
        for number in np.unique(devices).tolist():
            mine = some[devices == number]
            for group, at in _alike(each[:, mine], self.cluster.devices + 1):
                links = self.cluster.slowest(*group, devices=number)
                found[mine[at]] = collective_s(kind, whole_bytes[mine[at]], links)
        return found

    @cached_property
    def next_stage_s(self) -> Floats:
        """Seconds of what one stage sends to the next."""
        size, parts = self.each(lambda rank: (rank.boundary_bytes, rank.boundary_parts))
        grid, stages = self.grid, mesh.stages(self.grid)
        found = self.among("all_gather", size, Row(parts.astype(int)), grid.pp[:, None] > 1)
        columns, piped = (*stages[:2], grid.devices, 0), np.flatnonzero(grid.pp > 1)
        each = np.stack([np.broadcast_to(column, len(grid)) for column in columns])
        for (ranks, stride, devices, _), at in _alike(each[:, piped], self.cluster.devices + 1):
            rows = piped[at]
            links = between_stages(self.cluster, Row(ranks, stride), devices)
            found[rows] += send_s(size[rows] / parts[rows], links)
        return found


def _alike(columns: Ints, devices: int) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
    """Distinct columns of a group's size, stride, run and skip, and where each is."""
    size, stride, run, skip = columns
    gap = np.unique(run * devices + skip, return_inverse=True)[1]
    _, first, which = np.unique((gap * (devices + 1) + size) * devices + stride, return_index=True, return_inverse=True)
    for number, place in enumerate(first.tolist()):
        yield columns[:, place].tolist(), which == number


@dataclass(frozen=True, eq=False)
class Layout:
    """Pipeline ranks that hold the same are one class.

    ``counts``: blocks of each kind, shape (classes, kinds); ``again``: those of them that are first layers which are
    made again in another way. ``first``, ``last``: embedding and head. ``low``, ``high``:
    the first and the last rank of a class, ``count``: how many it has. ``before``, ``after``: ranks of each class
    before and behind ``high``, shape (classes, classes); ``ahead``: before ``low``. ``passed``: blocks of each kind
    that lie before the first stage of ``high``, shape (classes, kinds), and ``hops``: messages between these stages.
    """

    counts: Floats
    again: Floats
    first: Floats
    last: Floats
    low: Ints
    high: Ints
    count: Floats
    before: Floats
    after: Floats
    ahead: Floats
    passed: Floats
    hops: Floats


@lru_cache(maxsize=64)
def blocks_until(model: Architecture) -> Floats:
    """Return how many blocks of each kind a model has before each layer, and in all: shape (layers + 1, kinds)."""
    kinds = [*model.kinds()]
    found = np.zeros((model.layers + 1, len(kinds)))
    found[1:] = np.cumsum([[block == kind for kind in kinds] for block in model.blocks], axis=0)
    return found


@lru_cache(maxsize=4096)
def layout(
    model: Architecture,
    schedule: str,
    ranks: int,
    chunks: int,
    sizes: tuple[int, ...] = (),
    again: tuple[int, ...] = (),
    apart: bool = False,
) -> Layout:
    """Return the classes of ranks of a model whose stages have so many layers; evenly, where none are given.

    ``again``: as ``Setup.recompute_layers``. ``apart``: each rank is a class of its own.

    Raises:
        ValueError: too few layers, sizes of other stages or layers, or no such schedule.
    """
    sizes, placement = sizes or even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    if len(sizes) != ranks * chunks or sum(sizes) != model.layers or len(again) not in (0, 1, len(sizes)):
        raise ValueError(f"stage_layers={sizes} are not {model.layers} layers on {ranks * chunks} stages")
    begins, firsts = np.cumsum([0, *sizes]), again * (len(sizes) if len(again) == 1 else 1)
    part, until = [placement.part_of[stage] for stage in range(placement.stages)], blocks_until(model)
    middle = begins[:-1] + np.minimum(firsts or 0, sizes)
    all_of, first_of = until[begins[1:]] - until[begins[:-1]], until[middle] - until[begins[:-1]]
    held: dict[tuple[Any, ...], list[int]] = {}
    for rank in range(ranks):
        mine = [part[stage] for stage in placement.on(rank)]
        blocks, first = (of[mine].sum(axis=0).tolist() for of in (all_of, first_of))
        key = (*blocks, *first, 0 in mine, len(sizes) - 1 in mine)
        held.setdefault((*key, rank * apart), []).append(rank)
    table, many = np.array([*held], dtype=np.float64), until.shape[1]
    low, high = (np.array([at(members) for members in held.values()]) for at in (min, max))

    def among(at: Ints, below: bool) -> Floats:
        return np.array(
            [[sum(r < edge if below else r > edge for r in members) for members in held.values()] for edge in at],
            dtype=np.float64,
        )

    sides = (among(high, True), among(high, False), among(low, True))
    count = np.array([len(members) for members in held.values()], dtype=np.float64)
    reached = np.array([min(placement.on(rank)) for rank in high])
    hops = np.array([sum(here != there for here, there in pairwise(placement.rank_of[: s + 1])) for s in reached])
    parts = (table[:, :many], table[:, many:-3], table[:, -3], table[:, -2])
    return Layout(*parts, low, high, count, *sides, until[begins[reached]], hops)


@lru_cache(maxsize=4096)
def staying(
    model: Architecture, schedule: str, ranks: int, chunks: int, sizes: tuple[int, ...], less: tuple[int, int]
) -> Floats:
    """Return which share of its heaviest layers each class of ``layout`` keeps at least if the first and the last stage
    give away so many layers: shape (classes,).

    Others have no fewer layers then, but theirs may begin up to so many layers earlier or later. Nothing is promised of
    stages that may have blocks which a recipe leaves wide: their times differ.
    """
    heavy = max(model.kinds(), key=lambda block: block.parameters)
    until = np.cumsum([0, *(block == heavy for block in model.blocks)])
    sizes, placement = sizes or even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    wide = np.cumsum([0, *(block.wide for block in model.blocks)])
    begins, held, kept = np.cumsum([0, *sizes]), np.zeros(ranks), np.zeros(ranks)
    for stage, size in enumerate(sizes):
        first, last = stage == 0, stage == len(sizes) - 1
        size -= min(size, less[0] * first + less[1] * last)
        low, high = max(0, begins[stage] - less[0]), min(begins[stage] + less[1], model.layers - size)
        starts = np.array([0]) if first else np.array([model.layers - size]) if last else np.arange(low, high + 1)
        held[placement.rank_of[stage]] += until[begins[stage + 1]] - until[begins[stage]]
        touches = wide[max(starts[-1] + size, begins[stage + 1])] > wide[min(starts[0], begins[stage])]
        kept[placement.rank_of[stage]] += 0 if touches else (until[starts + size] - until[starts]).min()
    shares = kept / np.maximum(held, 1)
    found = layout(model, schedule, ranks, chunks, sizes)
    return np.array([max(shares[low], shares[high]) for low, high in zip(found.low, found.high, strict=True)])


def padded(layouts: list[Layout]) -> Layout:
    """Return the layouts as one, with a first axis; classes that one lacks are its first once more."""
    most = max(len(one.low) for one in layouts)

    def column(name: str) -> NDArray[Any]:
        found = []
        for one in layouts:
            value, size = getattr(one, name), len(one.low)
            wide = (most,) if name in ("before", "after", "ahead") else value.shape[1:]
            whole = np.zeros((most, *wide), dtype=value.dtype)
            whole[(slice(size), *map(slice, value.shape[1:]))] = value
            if name != "count":
                whole[size:] = whole[0]
            found.append(whole)
        return np.array(found)

    return Layout(*(column(name) for name in Layout.__dataclass_fields__))
