"""Micro-batches in flight by the order of passes, and what devices need with them: as predictions have it, of many
setups at once and without their timelines."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.op import Kind
from penstock.core.setup import even
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.held import LAID, Held, layouts
from penstock.predict.memory import peak_bytes
from penstock.predict.moments import FIRST, of_block
from penstock.predict.pipelines import pipeline
from penstock.predict.ranks import Ranks, blocks_until
from penstock.predict.score import ranks_of
from penstock.schedules.build import placement_of

Floats = NDArray[np.float64]


@lru_cache(maxsize=512)
def in_flight(schedule: str, ranks: int, micros: int, chunks: int, w_share: float) -> tuple[Floats, ...]:
    """Return the micro-batches whose activations the stages of each rank keep, whenever these may be most: shape
    (times, chunks) each. They depend on the order of a rank's passes, not on their times.

    >>> in_flight("1f1b", 2, 4, 1, 0.5)[0].tolist(), in_flight("interleaved", 2, 4, 2, 0.5)[1].tolist()
    ([[2.0]], [[3.0, 0.0], [2.0, 1.0]])
    """
    plan = pipeline(schedule, ranks, micros, chunks)
    change = np.zeros(len(Kind))
    change[[Kind.F, Kind.B, Kind.I, Kind.W]] = 1.0, -1.0, w_share - 1.0, -w_share
    apart = np.sqrt(np.arange(2, 2 + chunks) * np.pi)
    found = []
    for rank in range(ranks):
        kind, stage, _ = plan.ops[plan.first[rank] : plan.first[rank + 1]].T
        levels = np.zeros((len(kind), chunks))
        levels[np.arange(len(kind)), np.searchsorted(plan.placement.on(rank), stage)] = change[kind]
        most = np.cumsum(levels, axis=0)[np.flatnonzero((kind[:-1] == Kind.F) & (kind[1:] != Kind.F))]
        _, first = np.unique(np.round(most @ apart, 9), return_index=True)
        found.append(most[first])
    return tuple(found)


@lru_cache(maxsize=4096)
def _of_stages(
    model: Architecture, schedule: str, ranks: int, chunks: int, sizes: tuple[int, ...], again: tuple[int, ...]
) -> NDArray[Any]:
    """Blocks of each kind of each stage of a rank, those of ``FIRST``: shape (2, ranks, chunks, kinds)."""
    sizes, placement = sizes or even(model.layers, ranks * chunks), placement_of(schedule, ranks, chunks)
    ends, firsts = np.cumsum([0, *sizes]), again * (len(sizes) if len(again) == 1 else 1) or (0,) * len(sizes)
    until = blocks_until(model)
    on = np.array([placement.on(rank) for rank in range(ranks)])
    middle = ends[:-1] + np.minimum(firsts, sizes)
    return np.stack([until[ends[1:]] - until[middle], until[middle] - until[ends[:-1]]])[:, on]


def exact_bytes(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> Floats:
    """Return what must fit on the device that needs most, as predictions have it, of setups that can be: shape
    (rows,)."""
    made, of = ranks_of(model, cluster, grid, stack, once=True)
    held = Held.of(Ranks(model, cluster, grid, stack, made, of), apart=True)
    blocks = ([of_block(held.ranks, kind, first).kept for kind in model.kinds()] for first in FIRST)
    kept = [np.concatenate([np.broadcast_to(each, (len(grid), 1)) for each in some], axis=1) for some in blocks]
    most = np.zeros(held.stage.first.shape)
    first, which = grid.kinds(*LAID, "micros")
    some = grid.rows(first)
    for place, (size, micros) in enumerate(zip(layouts(some), some.micros.tolist(), strict=True)):
        rows = np.flatnonzero(which == place)
        counts = _of_stages(model, *size)
        saved = sum(np.einsum("rck,nk->nrc", counts[k], kept[k][rows]) for k in range(len(FIRST)))
        flying = in_flight(*size[:2], micros, size[2], stack.w_share)
        for rank, one in enumerate(flying):
            most[rows, rank] = (saved[:, rank] @ one.T).max(axis=1)
    _, needed = peak_bytes(held.ranks, held.stage, most)
    return np.asarray(needed.max(axis=1))
