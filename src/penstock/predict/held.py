"""The noun ``Held``: the pipeline ranks of many setups in classes, and their seconds and bytes by closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.predict.after import Counts, gathers_s, gradients_s, optimizer_s, sums, updates_s
from penstock.predict.again import all_as
from penstock.predict.grid import COUNTS, Grid
from penstock.predict.host import waiting_bytes
from penstock.predict.memory import peak_bytes, saved_bytes
from penstock.predict.micro import Rank
from penstock.predict.moments import FIRST, each_kind
from penstock.predict.parts import make_parts
from penstock.predict.ranks import Layout, Ranks, layout, padded, staying
from penstock.predict.sizes import Sizes
from penstock.predict.split import hops_s, sharded, waits_s
from penstock.predict.stage import Stage
from penstock.schedules.build import build
from penstock.schedules.table import SCHEDULES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


LAID = ("schedule", "pp", "chunks", "stage_layers", "recompute_layers")
"""What layouts of pipeline ranks depend on."""


def layouts(grid: Grid) -> Iterator[tuple[str, int, int, tuple[int, ...], tuple[int, ...]]]:
    """Return what ``layout`` takes of each row, the model apart."""
    numbers, counts = (grid.pp.tolist(), grid.chunks.tolist()), (grid.values(name) for name in COUNTS)
    yield from zip(grid.values("schedule"), *numbers, *counts, strict=True)


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
    def of(cls, many: Ranks, apart: bool = False) -> Held:
        """Of the ranks of a grid; ``apart``: each is a class of its own."""
        firsts, which = many.grid.kinds(*LAID)
        classes = padded([layout(many.model, *size, apart=apart) for size in layouts(many.grid.rows(firsts))])
        blocks, again = (
            {kind: counts[which][:, :, k] for k, kind in enumerate(many.model.kinds())}
            for counts in (classes.counts, classes.again)
        )
        again = again if classes.again.any() else {}
        return cls(many, Stage(blocks, classes.first[which], classes.last[which], again), classes, which)

    def rows(self, at: NDArray[np.bool_]) -> Held:
        """Of some rows."""
        if at.all():
            return self
        blocks, first, last, again = self.stage
        blocks, again = ({kind: count[at] for kind, count in counts.items()} for counts in (blocks, again))
        stage = Stage(blocks, first[at], last[at], again)
        return Held(self.ranks.rows(at), stage, self.classes, self.which[at])

    @cached_property
    def sizes(self) -> Sizes:
        """Parameters of each."""
        return Sizes.of(self.ranks, self.stage)

    def bytes(self) -> tuple[Floats, Floats]:
        """At the peak of the device that holds most, and what of it must fit on each, shape (rows, classes)."""
        total, needed = self.peaks(self.in_flight())
        return total.max(axis=1), needed

    def in_flight(self) -> Floats:
        """Most micro-batches whose activations each holds, as the schedule claims."""
        return _in_flight(self.ranks.grid, self.classes, self.which)

    def peaks(self, in_flight: Floats) -> tuple[Floats, Floats]:
        """What each holds at its peak, and what of it must fit."""
        return peak_bytes(self.ranks, self.stage, saved_bytes(self.ranks, self.stage) * in_flight)

    def host_bytes(self) -> tuple[Floats, Floats]:
        """In host memory, for a device of the rank that has most there, and on disks, likewise: shape (rows,)."""
        many, sizes = self.ranks, self.sizes
        each = [one for first in FIRST for one in each_kind(many, self.stage, first)]
        away = sum(one.away * count for one, count in each) * self.in_flight() if many.setup.offload else 0.0
        owned = np.broadcast_to(sharded(many.setup, sizes.own, 1), self.stage.first.shape)
        waiting, there = waiting_bytes(many, owned, sizes.whole)
        return (waiting + away).max(axis=1), np.broadcast_to(there, owned.shape).max(axis=1)

    def least_bytes(self, needed: Floats, less: Less) -> Floats:
        """Less than what must fit if the first and the last stage have so many layers less, by what must fit now: as
        much of it as each rank keeps of its heaviest layers."""
        firsts, which = self.ranks.grid.kinds(*LAID)
        shares = np.zeros((len(firsts), needed.shape[1]))
        for place, size in enumerate(layouts(self.ranks.grid.rows(firsts))):
            kept = staying(self.ranks.model, *size[:-1], less[:2])
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
        parts = (bare.f, bare.i, bare.w, *self.sizes.whole, *self.sizes.own)
        mean = [(share * each).sum(axis=1)[:, None] for each in parts]
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
        """Of a step, and what none of it takes less than: a rank begins when a micro-batch has come to it, does its
        work, and the gradient of its last backward goes back to the first rank."""
        many, setup = self.ranks, self.ranks.setup
        times = _waiting(many, _passes(many, self.stage), *self.sizes)
        dense, experts = (np.broadcast_to(each, times.f.shape) for each in self.sizes.own)
        beside_s = gradients_s(sums(many, dense, experts, times.b), times.b)
        beside_s += optimizer_s(updates_s(many, sharded(setup, (dense, experts), 1)))
        end_s = _ends(many, times, self.classes, self.which)
        there_s, back_s = self._ways()
        done_s = setup.micros * times.all + there_s
        least_s = np.maximum(done_s + beside_s, done_s + back_s + beside_s[:, :1] * (back_s > 0))
        return tuple(each.max(axis=1) + many.stack.step_s for each in (end_s + beside_s, least_s))

    def _ways(self) -> tuple[Floats, Floats]:
        """Seconds of a micro-batch's way to the last rank of each class, and of its gradient's way back from there; 0
        where a schedule may leave gradients of weights to the end."""
        many, hops = self.ranks, self.classes.hops[self.which]
        kinds = {kind: self.classes.passed[self.which][:, :, k] for k, kind in enumerate(many.model.kinds())}
        embedded = (hops > 0) & (many.setup.vocabulary == 0)
        parts = [*kinds.items(), ("embedding", embedded)]
        passes = _added(many, [(partial(seconds_of, name), times) for name, times in parts], hops.shape)
        f, back = (each + hops * (waits_s(many) + hops_s(many)) for each in (passes.f, passes.b))
        return f, np.where(holds_b(many.grid)[:, None], back, 0.0)


def _passes(many: Ranks, stage: Stage) -> Times:
    """Passes of each rank, with nothing that it waits for."""
    pp, split = many.setup.pp, many.setup.vocabulary > 0
    first, last = (np.where(split, 1 / pp, end) for end in (stage.first, stage.last))
    parts: list[tuple[Any, Any]] = [*stage.rest.items(), ("embedding", first), ("head", last)]
    if "predictors" in many.grid.base.ends:
        parts.append(("predictors", np.where(split, 0, stage.last)))
    made = [(partial(seconds_of, name), times) for name, times in parts]
    made += [(partial(_first_seconds, block, many.setup.recompute_first), n) for block, n in stage.again.items()]
    return _added(many, made, stage.first.shape)


def _added(many: Ranks, made: Iterable[tuple[Callable[[Rank], Any], Any]], shape: tuple[int, ...]) -> Times:
    """Passes that a function of a rank gives, each so many times."""
    make_parts(many.made)
    f, i, w = (np.zeros(shape) for _ in range(3))
    for seconds, times in made:
        each = many.each(seconds)
        f, i, w = (total + times * one for total, one in zip((f, i, w), each, strict=True))
    return Times(f, i, w)


def _waiting(many: Ranks, bare: Times, sizes: Counts, own: Counts) -> Times:
    """Passes with what each rank waits for messages, for its host, and for so many weights and gradients of its own."""
    chunks, wait_s = many.setup.chunks, waits_s(many)
    whole, part = ((dense / chunks, experts / chunks) for dense, experts in (sizes, own))
    gather_f, gather_b = gathers_s(many, whole, part, bare.f / chunks, bare.b / chunks)
    return Times(bare.f + chunks * (wait_s + gather_f), bare.i + chunks * (wait_s + gather_b), bare.w)


def seconds_of(name: Any, rank: Rank) -> tuple[float, float, float]:
    """Return the passes of a block, or of an end by its name."""
    return rank.parts[name].passes_s


def _first_seconds(block: Any, recompute: str, rank: Rank) -> tuple[float, float, float]:
    return all_as(rank, recompute).parts[block].passes_s


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
    whole = holds_b(grid)[:, None]
    drain = np.einsum("ncd,nd->nc", classes.ahead[which], times.b / v) + classes.low[which] * hop_s / v
    return np.asarray(ends[:, None] - np.where(whole, drain, 0.0))


def _idle(grid: Grid, f: Floats, i: Floats, w: Floats) -> Floats:
    """Idle time that the schedule of each row claims; none without a pipeline."""
    found = np.zeros(len(grid))
    for place, name in enumerate(grid.choices["schedule"]):
        rows = (grid.columns["schedule"] == place) & (grid.pp > 1)
        if rows.any():
            each = [column[rows] for column in (grid.pp, grid.micros, grid.chunks, f, i, w)]
            idle = SCHEDULES[name].idle
            found[rows] = idle(*each) if takes_arrays(name) else np.frompyfunc(idle, 6, 1)(*each)
    return found


@cache
def takes_arrays(schedule: str) -> bool:
    """Return whether what a schedule claims of idle time is arithmetic alone, which works on many setups at once."""
    try:
        SCHEDULES[schedule].idle(*np.ones((6, 2)))
    except (TypeError, ValueError):
        return False
    return True


@cache
def _whole_backwards(schedule: str) -> bool:
    """Whether a schedule leaves its backwards whole."""
    p, m = 2, 4
    return not build(schedule, p, m, SCHEDULES[schedule].least_chunks(p, m)).holds(Kind.W)


def holds_b(grid: Grid) -> NDArray[np.bool_]:
    """Return which rows have schedules that leave backwards whole."""
    used = np.unique(grid.columns["schedule"])
    found = np.zeros(len(grid.choices["schedule"]), dtype=bool)
    found[used] = [_whole_backwards(grid.choices["schedule"][place]) for place in used.tolist()]
    return np.asarray(found[grid.columns["schedule"]])


def _in_flight(grid: Grid, classes: Layout, which: Ints) -> Floats:
    """Most micro-batches whose activations a rank of each class holds, as the schedule claims."""
    first, kind = grid.kinds(*LAID, "micros")
    found = np.ones((len(first), classes.low.shape[1]))
    each = grid.rows(first)
    sizes = zip(each.values("schedule"), each.pp.tolist(), each.micros.tolist(), each.chunks.tolist(), strict=True)
    edges = np.stack([classes.low[which[first]], classes.high[which[first]]], axis=-1).tolist()
    for number, (schedule, *size) in enumerate(sizes):
        most = SCHEDULES[schedule].peak_micros
        found[number] = [max(most(low, *size), most(high, *size)) for low, high in edges[number]]
    return found[kind]
