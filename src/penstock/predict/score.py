"""Seconds and bytes of many setups at once, by closed forms in place of timelines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.op import Kind
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.predict.after import gathers_s, gradients_s, optimizer_s, sums, updates_s
from penstock.predict.grid import Grid, can_be
from penstock.predict.memory import least_bytes, peak_bytes
from penstock.predict.micro import Rank
from penstock.predict.moments import Stage, of_block, sharded
from penstock.predict.part import Part
from penstock.predict.ranks import Layout, Ranks, layout, padded, shapes_of
from penstock.predict.sizes import parameters, trained
from penstock.schedules.build import build, check_sizes
from penstock.schedules.table import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AT_ONCE = 65_536
"""Rows that are worked on at a time; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each row of a grid, shape (rows,).

    ``seconds``: of a step, infinite where there can be none. ``peak_bytes``: of the device that needs most;
    ``needed_bytes``: without what its allocator would give back. ``fits``: whether all have room for it.
    ``possible``: whether the split can be at all.
    """

    seconds: Floats
    peak_bytes: Floats
    needed_bytes: Floats
    fits: NDArray[np.bool_]
    possible: NDArray[np.bool_]


def scores(
    model: Architecture,
    cluster: Cluster,
    grid: Grid,
    stack: Stack,
    most_bytes: float = np.inf,
    most_s: float | Floats = np.inf,
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
        most_s: setups that take longer have no ``seconds``, nor are their bytes looked at; of all, or of each row.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.setup import Setup
    >>> from penstock.cost.stack import stack
    >>> base = Setup(seq=2048, batch=1536, sp=True, zero=1)
    >>> grid = Grid.all_of(base, 1024, tp=(4, 8), pp=(8, 16, 32), micro=(1, 2), recompute=("none", "full"))
    >>> found = scores(read_architecture("gpt3-175b"), Cluster.read("dgx-a100-80gb:128"), grid, stack("megatron-core"))
    >>> len(grid), int(found.possible.sum()), bool(found.fits.any())
    (24, 24, True)
    """
    size = len(grid)
    seconds, peak, needed = (np.full(size, np.inf) for _ in range(3))
    found = Scores(seconds, peak, needed, np.zeros(size, bool), can_be(grid, cluster.devices))
    found.possible[found.possible] = _can_run(model, grid.rows(found.possible))
    some = np.flatnonzero(found.possible)
    if np.isfinite(most_bytes) and len(some):
        found.needed_bytes[some] = _least_bytes(model, cluster, grid.rows(some), stack)
        some = some[found.needed_bytes[some] <= most_bytes]
    for begin in range(0, len(some), AT_ONCE):
        rows = some[begin : begin + AT_ONCE]
        made, of = ranks_of(model, cluster, grid.rows(rows), stack)
        found.possible[rows[of < 0]] = False
        rows, of = rows[of >= 0], of[of >= 0]
        if not len(rows):
            continue
        many = _Held.of(Ranks(model, cluster, grid.rows(rows), stack, made, of))
        if np.isfinite(most_s).any():
            soon = many.seconds() <= np.broadcast_to(most_s, size)[rows]
            if not soon.any():
                continue
            rows, many = rows[soon], many.rows(soon)
        found.peak_bytes[rows], needed = many.bytes()
        found.needed_bytes[rows], found.fits[rows] = needed, needed <= many.ranks.device.memory_bytes
        if (light := needed <= most_bytes).any():
            found.seconds[rows[light]] = many.rows(light).seconds()
    return found


def _least_bytes(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> Floats:
    """Less than what setups need on a device, quickly."""
    one = Rank(model, cluster, grid.base, stack)
    found = least_bytes(Ranks(model, cluster, grid, stack, [one], np.zeros(len(grid), dtype=np.int64)))
    return np.asarray(np.broadcast_to(found, (len(grid), 1))[:, 0])


def _can_run(model: Architecture, grid: Grid) -> NDArray[np.bool_]:
    """Which rows have a schedule and enough layers."""
    first, which = grid.kinds("schedule", "pp", "chunks", "micros")
    each = grid.rows(first)
    sizes = zip(each.values("schedule"), each.pp.tolist(), each.micros.tolist(), each.chunks.tolist(), strict=True)
    return np.array([_runs(model, *size) for size in sizes], dtype=bool)[which]


@lru_cache(maxsize=65536)
def _runs(model: Architecture, schedule: str, ranks: int, micros: int, chunks: int) -> bool:
    try:
        check_sizes(schedule, ranks, micros, chunks)
        layout(model, schedule, ranks, chunks)
    except ValueError:
        return False
    return SCHEDULES[schedule].copies == 1


def ranks_of(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> tuple[list[Rank], Ints]:
    """Return the ranks whose work differs, and which of them each row has; -1 where it does not divide the model."""
    setups, which = shapes_of(grid, stack)
    found = [_rank(model, cluster, setup, stack) for setup in setups]
    places = np.cumsum([rank is not None for rank in found]) - 1
    places[[rank is None for rank in found]] = -1
    return [rank for rank in found if rank is not None], places[which]


@lru_cache(maxsize=8192)
def _rank(model: Architecture, cluster: Cluster, setup: Setup, stack: Stack) -> Rank | None:
    """A rank, if its split divides the model."""
    rank = Rank(model, cluster, setup, stack)
    try:
        rank.parts  # noqa: B018
    except ValueError:
        return None
    return rank


@dataclass(frozen=True, eq=False)
class _Times:
    """Seconds of all stages of a rank, one micro-batch each: arrays of shape (rows, classes)."""

    f: Floats
    i: Floats
    w: Floats

    @property
    def b(self) -> Floats:
        return self.i + self.w

    @property
    def all(self) -> Floats:
        return self.f + self.i + self.w


@dataclass(frozen=True, eq=False)
class _Held:
    """What the pipeline ranks of a grid hold of the model, by classes: arrays of shape (rows, classes)."""

    ranks: Ranks
    stage: Stage
    classes: Layout
    which: Ints

    @classmethod
    def of(cls, many: Ranks) -> _Held:
        """Of the ranks of a grid."""
        firsts, which = many.grid.kinds("schedule", "pp", "chunks")
        different = many.grid.rows(firsts)
        sizes = zip(different.values("schedule"), different.pp.tolist(), different.chunks.tolist(), strict=True)
        classes = padded([layout(many.model, *size) for size in sizes])
        counts = classes.counts[which]
        blocks = {kind: counts[:, :, k] for k, kind in enumerate(many.model.kinds())}
        return cls(many, Stage(blocks, classes.first[which], classes.last[which]), classes, which)

    def rows(self, at: NDArray[np.bool_]) -> _Held:
        """Of some rows."""
        if at.all():
            return self
        stage = Stage({kind: count[at] for kind, count in self.stage.blocks.items()}, *(e[at] for e in self.stage[1:]))
        return _Held(self.ranks.rows(at), stage, self.classes, self.which[at])

    def bytes(self) -> tuple[Floats, Floats]:
        """At the peak of the device that holds most, and what of it must fit."""
        kept_bytes = sum(of_block(self.ranks, kind).kept * count for kind, count in self.stage.blocks.items())
        held_bytes = kept_bytes * _in_flight(self.ranks.grid, self.classes, self.which)
        total, needed = peak_bytes(self.ranks, self.stage, held_bytes)
        return total.max(axis=1), needed.max(axis=1)

    def seconds(self) -> Floats:
        """Of a step."""
        many, setup = self.ranks, self.ranks.setup
        times = _times(many, self.stage)
        dense, experts = trained(many, *self.stage)
        dense, experts = np.broadcast_to(dense, times.f.shape), np.broadcast_to(experts, times.f.shape)
        beside_s = gradients_s(sums(many, dense, experts, times.b), times.b)
        beside_s += optimizer_s(updates_s(many, sharded(setup, (dense, experts), 1)))
        end_s = _ends(many, times, self.classes, self.which)
        return np.asarray((end_s + beside_s).max(axis=1) + many.stack.step_s)


def _times(many: Ranks, stage: Stage) -> _Times:
    """Passes of each rank, with what it waits for messages, for weights and for its host."""
    setup, stack = many.setup, many.stack
    f, i, w = (np.zeros(stage.first.shape) for _ in range(3))
    parts: list[tuple[Any, Any]] = [*stage.blocks.items(), ("embedding", stage.first)]
    parts += [(end, stage.last) for end in many.made[0].parts if isinstance(end, str) and end != "embedding"]
    for name, times in parts:
        each = many.each(partial(_seconds, name))
        f, i, w = (total + times * one for total, one in zip((f, i, w), each, strict=True))
    chunks = setup.chunks
    params, own = (sum(sizes) / chunks for sizes in (parameters(many.model, setup, *stage), trained(many, *stage)))
    gather_f, gather_b = gathers_s(many, params, own, f / chunks, (i + w) / chunks)
    wait_s = stack.p2p_shown * many.next_stage_s + stack.micro_s / 2 / chunks
    return _Times(f + chunks * (wait_s + gather_f), i + chunks * (wait_s + gather_b), w)


def _seconds(name: Any, rank: Rank) -> tuple[float, float, float]:
    part: Part = rank.parts[name]
    return part.f_s, part.i_s + part.again_s, part.w_s


def _ends(many: Ranks, times: _Times, classes: Layout, which: Ints) -> Floats:
    """When each rank has done its last pass, shape (rows, classes).

    The slowest rank has no idle time but what all ranks have: that of the schedule, for the mean of the other ranks,
    where those behind it count twice, for the way there and back at both ends of the step.
    """
    setup, grid, stack = many.setup, many.grid, many.stack
    p, v, m = setup.pp, setup.chunks, setup.micros
    hop_s = (1 - stack.p2p_shown) * many.next_stage_s * v
    before, after, high = classes.before[which], classes.after[which], classes.high[which]
    behind = p - 1 - high

    def others(x: Floats, hop: Any) -> Floats:
        ahead = np.einsum("ncd,nd->nc", before, x) + high * hop
        all_but = ahead + 2 * (np.einsum("ncd,nd->nc", after, x) + behind * hop) - behind * x
        return np.asarray(np.maximum(all_but, ahead) / np.maximum(p - 1, 1))

    mean = [others(times.f, hop_s), others(times.i, hop_s), others(times.w, 0.0)]
    slowest = (m * times.all + (p - 1) / v * sum(mean)).argmax(axis=1)[:, None]
    f, i, w = (np.take_along_axis(one, slowest, 1)[:, 0] for one in mean)
    ends = (m * np.take_along_axis(times.all, slowest, 1))[:, 0] + _idle(grid, f, i, w)
    whole = _holds_b(grid)[:, None]
    drain = np.einsum("ncd,nd->nc", classes.ahead[which], times.b / v) + classes.low[which] * hop_s / v
    return np.asarray(ends[:, None] - np.where(whole, drain, 0.0))


def _idle(grid: Grid, f: Floats, i: Floats, w: Floats) -> Floats:
    """Idle time that the schedule of each row claims; none without a pipeline."""
    found = np.zeros(len(grid))
    for place, name in enumerate(grid.choices["schedule"]):
        rows = (grid.columns["schedule"] == place) & (grid.pp > 1)
        if rows.any():
            each = (column[rows] for column in (grid.pp, grid.micros, grid.chunks, f, i, w))
            found[rows] = np.frompyfunc(SCHEDULES[name].idle, 6, 1)(*each)
    return found


@cache
def _whole_backwards(schedule: str) -> bool:
    """Whether a schedule leaves its backwards whole."""
    p, m = 2, 4
    return not build(schedule, p, m, SCHEDULES[schedule].least_chunks(p, m)).holds(Kind.W)


def _holds_b(grid: Grid) -> NDArray[np.bool_]:
    used = np.unique(grid.columns["schedule"])
    found = np.zeros(len(grid.choices["schedule"]), dtype=bool)
    found[used] = [_whole_backwards(grid.choices["schedule"][place]) for place in used.tolist()]
    return np.asarray(found[grid.columns["schedule"]])


def _in_flight(grid: Grid, classes: Layout, which: Ints) -> Floats:
    """Most micro-batches whose activations a rank of each class holds, as the schedule claims."""
    first, kind = grid.kinds("schedule", "pp", "chunks", "micros")
    found = np.ones((len(first), classes.low.shape[1]))
    each = grid.rows(first)
    sizes = zip(each.values("schedule"), each.pp.tolist(), each.micros.tolist(), each.chunks.tolist(), strict=True)
    edges = np.stack([classes.low[which[first]], classes.high[which[first]]], axis=-1).tolist()
    for number, (schedule, *size) in enumerate(sizes):
        most = SCHEDULES[schedule].peak_micros
        found[number] = [max(most(low, *size), most(high, *size)) for low, high in edges[number]]
    return found[kind]
