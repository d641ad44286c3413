"""The noun ``Held``: the pipeline ranks of many setups in classes, and their seconds and bytes by closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.predict.after import Counts, gathers_s, gradients_s, optimizer_s, sums, updates_s
from penstock.predict.grid import Grid
from penstock.predict.memory import peak_bytes
from penstock.predict.micro import Rank
from penstock.predict.moments import Stage, of_block, sharded
from penstock.predict.ranks import Layout, Ranks, layout, padded, staying
from penstock.predict.sizes import parameters, trained
from penstock.predict.split import hops_s, waits_s
from penstock.schedules.build import build
from penstock.schedules.table import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def layouts(grid: Grid) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """Return what ``layout`` takes of each row, the model apart."""
    numbers = (grid.pp.tolist(), grid.chunks.tolist())
    yield from zip(grid.values("schedule"), *numbers, grid.values("stage_layers"), strict=True)


class Less(NamedTuple):
    """What variants of a setup may have less: layers of the first and of the last stage, at most, and whether ZeRO may
    shard over fewer ranks."""

    first: int = 0
    last: int = 0
    shards: bool = False


@dataclass(frozen=True, eq=False)
class Times:
    """Seconds of all stages of a rank, one micro-batch each: arrays of shape (rows, classes)."""

    f: Floats
    i: Floats
    w: Floats

    @property
    def b(self) -> Floats:
        """Of whole backwards."""
        return self.i + self.w

    @property
    def all(self) -> Floats:
        """Of all passes."""
        return self.f + self.i + self.w


@dataclass(frozen=True, eq=False)
class Held:
    """What the pipeline ranks of a grid hold of the model, by classes: arrays of shape (rows, classes)."""

    ranks: Ranks
    stage: Stage
    classes: Layout
    which: Ints

    @classmethod
    def of(cls, many: Ranks) -> Held:
        """Of the ranks of a grid."""
        firsts, which = many.grid.kinds("schedule", "pp", "chunks", "stage_layers")
        classes = padded([layout(many.model, *size) for size in layouts(many.grid.rows(firsts))])
        counts = classes.counts[which]
        blocks = {kind: counts[:, :, k] for k, kind in enumerate(many.model.kinds())}
        return cls(many, Stage(blocks, classes.first[which], classes.last[which]), classes, which)

    def rows(self, at: NDArray[np.bool_]) -> Held:
        """Of some rows."""
        if at.all():
            return self
        stage = Stage({kind: count[at] for kind, count in self.stage.blocks.items()}, *(e[at] for e in self.stage[1:]))
        return Held(self.ranks.rows(at), stage, self.classes, self.which[at])

    def bytes(self) -> tuple[Floats, Floats]:
        """At the peak of the device that holds most, and what of it must fit on each, shape (rows, classes)."""
        kept_bytes = sum(of_block(self.ranks, kind).kept * count for kind, count in self.stage.blocks.items())
        held_bytes = kept_bytes * _in_flight(self.ranks.grid, self.classes, self.which)
        total, needed = peak_bytes(self.ranks, self.stage, held_bytes)
        return total.max(axis=1), needed

    def least_bytes(self, needed: Floats, less: Less) -> Floats:
        """Less than what must fit if the first and the last stage have so many layers less, by what must fit now: as
        much of it as each rank keeps of its heaviest layers."""
        firsts, which = self.ranks.grid.kinds("schedule", "pp", "chunks", "stage_layers")
        shares = np.zeros((len(firsts), needed.shape[1]))
        for place, size in enumerate(layouts(self.ranks.grid.rows(firsts))):
            kept = staying(self.ranks.model, *size, less[:2])
            shares[place, : len(kept)] = kept
        return np.asarray((needed * shares[which]).max(axis=1))

    def moved_s(self) -> Floats:
        """Seconds that passes take at least if work is moved between ranks.

        They are those of the mean rank, and the schedule's idle time as if no rank had more. Where a rank has more than
        the mean by d, others may wait less for it by (ranks + 1) d at most, and it has d more to do for each
        micro-batch: so idle time counts where there are more of these than ranks.
        """
        grid, bare = self.ranks.grid, _passes(self.ranks, self.stage)
        share = self.classes.count[self.which] / grid.pp[:, None]
        sizes = (*parameters(self.ranks.model, self.ranks.setup, *self.stage), *trained(self.ranks, *self.stage))
        mean = [(share * each).sum(axis=1)[:, None] for each in (bare.f, bare.i, bare.w, *sizes)]
        times = _waiting(self.ranks, Times(*mean[:3]), (mean[3], mean[4]), (mean[5], mean[6]))
        f, i, w = (each[:, 0] for each in (times.f, times.i, times.w))
        idle_s = np.where(grid.micros > grid.pp, _idle(grid, f, i, w), 0.0)
        return np.asarray(grid.micros * (f + i + w) + idle_s + self.ranks.stack.step_s)

    def alone_s(self) -> Floats:
        """Seconds of a step in which nobody waits for weights or gradients; infinite where ZeRO shards nothing."""
        many, bare = self.ranks, _passes(self.ranks, self.stage)
        ends_s = _ends(many, _waiting(many, bare, (0.0, 0.0), (0.0, 0.0)), self.classes, self.which).max(axis=1)
        return np.asarray(np.where(many.grid.zero > 0, ends_s + many.stack.step_s, np.inf))

    def seconds(self) -> tuple[Floats, Floats]:
        """Of a step, and of the busiest rank's part in it."""
        many, setup = self.ranks, self.ranks.setup
        times = _times(many, self.stage)
        dense, experts = trained(many, *self.stage)
        dense, experts = np.broadcast_to(dense, times.f.shape), np.broadcast_to(experts, times.f.shape)
        beside_s = gradients_s(sums(many, dense, experts, times.b), times.b)
        beside_s += optimizer_s(updates_s(many, sharded(setup, (dense, experts), 1)))
        end_s = _ends(many, times, self.classes, self.which)
        busy_s = setup.micros * times.all
        return tuple((each + beside_s).max(axis=1) + many.stack.step_s for each in (end_s, busy_s))


def _passes(many: Ranks, stage: Stage) -> Times:
    """Passes of each rank, with nothing that it waits for."""
    f, i, w = (np.zeros(stage.first.shape) for _ in range(3))
    pp, split = many.setup.pp, many.setup.vocabulary > 0
    first, last = (np.where(split, 1 / pp, end) for end in (stage.first, stage.last))
    parts: list[tuple[Any, Any]] = [*stage.blocks.items(), ("embedding", first), ("head", last)]
    if "predictors" in many.grid.base.ends:
        parts.append(("predictors", np.where(split, 0, stage.last)))
    for name, times in parts:
        each = many.each(partial(_seconds, name))
        f, i, w = (total + times * one for total, one in zip((f, i, w), each, strict=True))
    return Times(f, i, w)


def _times(many: Ranks, stage: Stage) -> Times:
    """Passes of each rank, with all that it waits for."""
    sizes = (parameters(many.model, many.setup, *stage), trained(many, *stage))
    return _waiting(many, _passes(many, stage), *sizes)


def _waiting(many: Ranks, bare: Times, sizes: Counts, own: Counts) -> Times:
    """Passes with what each rank waits for messages, for its host, and for so many weights and gradients of its own."""
    chunks, wait_s = many.setup.chunks, waits_s(many)
    whole, part = ((dense / chunks, experts / chunks) for dense, experts in (sizes, own))
    gather_f, gather_b = gathers_s(many, whole, part, bare.f / chunks, bare.b / chunks)
    return Times(bare.f + chunks * (wait_s + gather_f), bare.i + chunks * (wait_s + gather_b), bare.w)


def _seconds(name: Any, rank: Rank) -> tuple[float, float, float]:
    return rank.parts[name].passes_s


def _ends(many: Ranks, times: Times, classes: Layout, which: Ints) -> Floats:
    """When each rank has done its last pass, shape (rows, classes).

    The slowest rank has no idle time but what all ranks have: that of the schedule, for the mean of the other ranks,
    where those behind it count twice, for the way there and back at both ends of the step.
    """
    setup, grid = many.setup, many.grid
    p, v, m = setup.pp, setup.chunks, setup.micros
    hop_s = hops_s(many) * v
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
    first, kind = grid.kinds("schedule", "pp", "chunks", "micros", "stage_layers")
    found = np.ones((len(first), classes.low.shape[1]))
    each = grid.rows(first)
    sizes = zip(each.values("schedule"), each.pp.tolist(), each.micros.tolist(), each.chunks.tolist(), strict=True)
    edges = np.stack([classes.low[which[first]], classes.high[which[first]]], axis=-1).tolist()
    for number, (schedule, *size) in enumerate(sizes):
        most = SCHEDULES[schedule].peak_micros
        found[number] = [max(most(low, *size), most(high, *size)) for low, high in edges[number]]
    return found[kind]
