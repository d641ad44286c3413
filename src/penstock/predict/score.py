"""Seconds and bytes of many setups at once, by closed forms in place of timelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDER
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.predict.again import Rows, ranks_on
from penstock.predict.chain import chain_s
from penstock.predict.floor import work_s
from penstock.predict.grid import Grid, can_be
from penstock.predict.held import LAID, Held, Less, layouts
from penstock.predict.host import overfull
from penstock.predict.memory import least_bytes
from penstock.predict.micro import Rank
from penstock.predict.ranks import Ranks, layout, shapes_of
from penstock.predict.shares import shared
from penstock.predict.widened import as_asked
from penstock.predict.works import block_operators, end_operators
from penstock.schedules.build import check_sizes
from penstock.schedules.table import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NOTHING = Less()
AT_ONCE = 65_536
"""Rows that are worked on at a time; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each row of a grid, shape (rows,).

    ``seconds``: of a step, infinite where there can be none. ``peak_bytes``: of the device that needs most;
    ``needed_bytes``: without what its allocator would give back. ``host_bytes``, ``disk_bytes``: for a device in host
    memory and on disks, infinite where it was not looked at. ``fits``: whether all have room for it. ``possible``:
    whether the split can be at all. ``slow``: whether it takes longer than it may. ``work_s``: what the busiest rank
    does, and no step takes less. ``least_s``: no more than the ``seconds`` of the same with fewer layers on the first
    and the last stage, with a vocabulary that is split, or sharded over fewer ranks; infinite where that needs more
    memory than it may. ``chain_s``: what no step of these takes less than.
    """

    seconds: Floats
    work_s: Floats
    least_s: Floats
    chain_s: Floats
    peak_bytes: Floats
    needed_bytes: Floats
    host_bytes: Floats
    disk_bytes: Floats
    fits: NDArray[np.bool_]
    possible: NDArray[np.bool_]
    slow: NDArray[np.bool_]


def scores(
    model: Architecture,
    cluster: Cluster,
    grid: Grid,
    stack: Stack,
    most_bytes: float = np.inf,
    most_s: float | Floats = np.inf,
    less: Less = NOTHING,
    bytes_alone: bool = False,
) -> Scores:
    """Return about what ``predict`` says of each setup, without its timeline.

    Blocks, messages, gradients, optimizer and memory are those of ``predict``; the pipeline's idle time is what a
    schedule claims (``Schedule.idle``) for ranks that take as long as the others on average, beside the slowest rank's
    own work. Without a pipeline the result is that of ``predict``.

    Args:
        model: what is trained.
        cluster: where.
        grid: the setups.
        stack: the framework.
        most_bytes: setups that need more on a device have no ``seconds``, which saves the time of finding them; where
            weights and the optimizer's state alone are more, ``needed_bytes`` are only these, ``peak_bytes`` infinite.
        most_s: setups that take longer have no ``seconds``; of all, or of each row. Most of them are known by the work
            of their devices alone, which saves the time of scoring them, and where variants have less, no others are
            left out.
        less: what variants may have less, for ``least_s``.
        bytes_alone: no seconds are found.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.setup import Setup
    >>> from penstock.cost.stack import stack
    >>> base = Setup(seq=2048, batch=1536, sp=True, zero=1)
    >>> grid = Grid.all_of(base, 1024, tp=(4, 8), pp=(8, 16, 32), micro=(1, 2), recompute=("none", "full"))
    >>> found = scores(read_architecture("gpt3-175b"), Cluster.read("dgx-a100-80gb:128"), grid, stack("megatron-core"))
    >>> len(grid), int(found.possible.sum()), bool(found.fits.any())
    (24, 24, True)
    """
    model, size = as_asked(model, grid.base), len(grid)
    found, most_s = _unknown(size), np.broadcast_to(most_s, size)
    found.possible[:] = can_be(grid, cluster.devices)
    found.possible[found.possible] = _can_run(model, grid.rows(found.possible))
    some = np.flatnonzero(found.possible)
    if np.isfinite(most_bytes) and len(some):
        found.needed_bytes[some] = least_bytes_of(model, cluster, grid.rows(some), stack)
        some = some[found.needed_bytes[some] <= most_bytes]

    def share(rows: Ints) -> Scores:
        return _scored(model, cluster, grid.rows(rows), stack, most_bytes, most_s[rows], less, bytes_alone)

    shared(grid, some, share, found)
    return found


def _scored(
    model: Architecture,
    cluster: Cluster,
    grid: Grid,
    stack: Stack,
    most_bytes: float,
    most_s: Floats,
    less: Less,
    bytes_alone: bool,
) -> Scores:
    """The scores of setups that can be, as far as is known."""
    found, some = _unknown(len(grid)), np.arange(len(grid))
    found.possible[:] = True
    if np.isfinite(most_s).any() and len(some):
        late = _least_work_s(model, cluster, grid, stack) > most_s * grid.devices
        found.slow[late] = True
        some = some[~late]
    for begin in range(0, len(some), AT_ONCE):
        rows = some[begin : begin + AT_ONCE]
        made, of = ranks_of(model, cluster, grid.rows(rows), stack, once=True)
        found.possible[rows[of < 0]] = False
        rows, of = rows[of >= 0], of[of >= 0]
        if len(rows):
            many = Held.of(Ranks(model, cluster, grid.rows(rows), stack, made, of))
            _score(found, many, rows, most_bytes, most_s[rows], less, bytes_alone)
    return found


def _unknown(size: int) -> Scores:
    """Of so many setups of which nothing is known."""
    seconds, busy_s, least_s, peak, needed, host, disk = (np.full(size, np.inf) for _ in range(7))
    fits, possible, slow = (np.zeros(size, bool) for _ in range(3))
    return Scores(seconds, busy_s, least_s, np.zeros(size), peak, needed, host, disk, fits, possible, slow)


def _score(
    found: Scores, many: Held, rows: Ints, most_bytes: float, most_s: Floats, less: Less, bytes_alone: bool
) -> None:
    """Note in ``found`` the bytes of some rows, and the seconds of those that fit in time, or whose variants may.

    ``many``: what they hold, as if each had one micro-batch where that makes fewer ranks. Where nothing is asked of
    variants, work is looked at first: the same ranks are then asked for again and again.
    """
    bounded = bool(np.isfinite(most_s).any())
    if bounded and less == NOTHING:
        soon = _soon(found, many, rows, most_s)
        if not soon.any():
            return
        rows, many, most_s = rows[soon], many.rows(soon), most_s[soon]
    found.peak_bytes[rows], each = many.bytes()
    needed = each.max(axis=1)
    found.needed_bytes[rows], ranks = needed, many.ranks
    base = ranks.grid.base
    if not (base.offload or base.optimizer_offload or base.weight_offload):
        found.host_bytes[rows] = found.disk_bytes[rows] = 0.0
    else:
        found.host_bytes[rows], found.disk_bytes[rows] = many.host_bytes()
    away = found.host_bytes[rows], found.disk_bytes[rows]
    found.fits[rows] = needed <= ranks.device.memory_bytes
    found.fits[rows] &= ~overfull(ranks.cluster.node_of(0), ranks.grid.devices, *away)
    if bytes_alone:
        return
    light = needed <= most_bytes
    moves = (ranks.grid.pp > 1) & (less.last > 0) & ~ranks.grid.says("recompute_layers")
    moves &= many.least_bytes(each, less) <= most_bytes
    left = light | moves
    if bounded and less != NOTHING and left.any():
        left[left] = _soon(found, many.rows(left), rows[left], most_s[left])
    if not left.any():
        return
    rows, light, moves, many = rows[left], light[left], moves[left], many.rows(left)
    if many.ranks.stack.passing_bytes:
        many = Held.of(_ranks(many.ranks))
    if light.any():
        found.seconds[rows[light]], found.work_s[rows[light]] = many.rows(light).seconds()
        if less.shards:
            found.least_s[rows[light]] = many.rows(light).alone_s()
    if moves.any():
        found.least_s[rows[moves]] = np.minimum(found.least_s[rows[moves]], many.rows(moves).moved_s())
        found.chain_s[rows[moves]] = chain_s(many.rows(moves), less)
    if less == NOTHING:
        late = found.seconds[rows] > most_s[left]
        found.slow[rows[late]], found.seconds[rows[late]] = True, np.inf


def _soon(found: Scores, many: Held, rows: Ints, most_s: Floats) -> NDArray[np.bool_]:
    """Which of some rows have devices that can do their work in time; the others are noted in ``found``."""
    ranks = many.ranks
    late = work_s(ranks.grid, ranks.made, ranks.of) > most_s * ranks.grid.devices
    found.slow[rows[late]] = True
    return np.asarray(~late)


def _least_work_s(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> Floats:
    """Less than what the devices of setups work, found for few kinds of ranks: as if nothing were made again and groups
    were as near as can be; 0 where a split does not divide the model."""
    light = dict(grid.columns)
    if "none" in grid.choices["recompute"] and not grid.base.offload:
        light["recompute"] = np.full_like(light["recompute"], grid.choices["recompute"].index("none"))
    if ORDER in grid.choices["order"] and cluster.uniform and cluster.measured is None:
        light["order"] = np.full_like(light["order"], grid.choices["order"].index(ORDER))
    alike = replace(grid, columns=light)
    found = work_s(alike, *ranks_of(model, cluster, alike, stack, once=True))
    return np.where(np.isfinite(found), found, 0.0)


def _ranks(once: Ranks) -> Ranks:
    """The same with all micro-batches that each has."""
    made, of = ranks_of(once.model, once.cluster, once.grid, once.stack)
    return Ranks(once.model, once.cluster, once.grid, once.stack, made, of)


def least_bytes_of(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> Floats:
    """Return less than what setups need on a device, quickly: shape (rows,)."""
    one = Rank(model, cluster, grid.base, stack)
    found = least_bytes(Ranks(model, cluster, grid, stack, [one], np.zeros(len(grid), dtype=np.int64)))
    return np.asarray(np.broadcast_to(found, (len(grid), 1))[:, 0])


def _can_run(model: Architecture, grid: Grid) -> NDArray[np.bool_]:
    """Which rows have a schedule and enough layers."""
    first, which = grid.kinds("schedule", "pp", "chunks", "micros")
    each = grid.rows(first)
    sizes = zip(each.values("schedule"), each.pp.tolist(), each.micros.tolist(), each.chunks.tolist(), strict=True)
    runs = np.array([_runs(*size) for size in sizes], dtype=bool)[which]
    first, which = grid.kinds(*LAID)
    return np.asarray(runs & np.array([_laid(model, *size) for size in layouts(grid.rows(first))], dtype=bool)[which])


@lru_cache(maxsize=65536)
def _runs(schedule: str, ranks: int, micros: int, chunks: int) -> bool:
    try:
        check_sizes(schedule, ranks, micros, chunks)
    except ValueError:
        return False
    return SCHEDULES[schedule].copies == 1


def _laid(model: Architecture, *sizes: Any) -> bool:
    try:
        layout(model, *sizes)
    except ValueError:
        return False
    return True


def ranks_of(
    model: Architecture, cluster: Cluster, grid: Grid, stack: Stack, once: bool = False
) -> tuple[list[Rank], Ints]:
    """Return the ranks whose work differs, and which of them each row has; -1 where it does not divide the model.

    ``once``: ranks as if each had one micro-batch; they are fewer, and take no more for it than those.
    """
    alike = cluster.uniform and cluster.measured is None
    setups, which = shapes_of(grid, stack.passing_bytes > 0 and not once, alike)
    rank = _ranks_on(model, cluster, stack)
    found = [rank(setup, rows) for setup, rows in setups]
    there = np.array([rank is not None for rank in found], dtype=bool)
    places = np.where(there, np.cumsum(there) - 1, -1)
    return [rank for rank in found if rank is not None], places[which]


@lru_cache(maxsize=16)
def _ranks_on(model: Architecture, cluster: Cluster, stack: Stack) -> Callable[[Setup, Rows], Rank | None]:
    """What gives a rank of a setup, if its split divides the model; equal ones once, found by what they differ in."""
    known = ranks_on(model, cluster, stack)

    @lru_cache(maxsize=32768)
    def rank(setup: Setup, rows: Rows) -> Rank | None:
        found = known(setup, rows)
        try:
            for block in model.kinds():
                block_operators(block, found.batch_of(block))
            for which in setup.ends:
                end_operators(model, found.batch_of_end(which), which)
        except ValueError:
            return None
        return found

    return rank
