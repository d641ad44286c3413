"""How much a rank must idle at the start and at the end of a step: earliest times of the k-th op of every stage.

A micro-batch goes *up* its chain of stages and comes *down* again; a stage holds its bytes from the start of up to the
end of down. Forwards go up and gradients come down; looking back from the end of a step, gradients go up and forwards
come down, so one recurrence serves both ends.

It is true for any order. If every micro-batch needs ``d`` seconds from one op to another, the k-th op of the later
kind comes at least ``d`` after the k-th of the earlier one, whichever micro-batches these are; and when the k-th up
of a stage starts, its rank has started ``k`` ups of that stage and of its own stages before it in the chain, so what
exceeds the limit has been freed, by work that the rank has done before. Each round raises times by what the round
before has proved, so it may stop at any round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.engine.paths import Paths

Array = NDArray[np.float64]
Item = tuple[float, float, Array]
"""Seconds, bytes, and how many at most at each moment."""

ROUNDS = 8
"""At most; one round sees one more generation of activations through the memory."""
RANK_ROUNDS = 64
"""At most so many rounds times ranks: what a bound of a large pipeline may cost."""
CELLS = 1 << 13
"""Stages times micro-batches looked at; the later micro-batches of larger plans are left out."""
ENOUGH = 1e-5
"""A round that raises no time by more than this share is the last."""
POINTS = 128
"""Moments per rank at which idle time is asked for."""
ROOM = 1 + 1e-9
"""So much is forgiven to sums of bytes."""


@dataclass(frozen=True)
class Trip:
    """What the ops of one direction of time take, shape (stages,) each."""

    up_s: Array
    """Until the next stage may go on."""
    up_hop_s: Array
    """Message from the stage before in the chain."""
    down_s: Array
    down_hop_s: Array
    """Message from the stage after."""
    lead_s: Array
    """Work that must precede ``up`` and that nothing else waits for, at least."""
    most_lead_s: Array
    lead_bytes: Array
    """Held meanwhile."""
    rest_s: Array
    """Work that may follow ``down``, at most."""
    least_rest_s: Array
    """And at least."""
    held: Array
    """Bytes held from the start of ``up``."""
    freed: Array
    """Bytes freed at the end of ``down``; the others are freed after the rest."""


def from_start(paths: Paths) -> Trip:
    """Forwards go up, gradients come down, weight gradients are the rest."""
    none, saved = np.zeros(len(paths.f)), paths.costs.saved_bytes
    late = saved * paths.late_share
    least, most = paths.backward - paths.gradient, paths.most_backward - paths.gradient
    return Trip(paths.f, paths.to, paths.gradient, paths.fro, none, none, none, most, least, saved, saved - late)


def from_end(paths: Paths) -> Trip:
    """The same with time reversed: weight gradients lead gradients up, forwards come down."""
    none, saved = np.zeros(len(paths.f)), paths.costs.saved_bytes
    least, most = paths.backward - paths.gradient, paths.most_backward - paths.gradient
    up_hop, down_hop = np.zeros(len(paths.f)), np.zeros(len(paths.f))
    for chain in paths.whole:
        up_hop[chain[1:]], down_hop[chain[:-1]] = paths.fro[chain[:-1]], paths.to[chain[1:]]
    late = saved * paths.late_share
    return Trip(paths.gradient, up_hop, paths.f, down_hop, least, most, late, none, none, saved, saved)


@dataclass(frozen=True)
class Idle:
    """Idle time of one rank, at least, until some moments; both ascend from 0."""

    until_s: Array
    idle_s: Array

    def by(self, time_s: Array) -> Array:
        """Idle seconds that stand before each time, from 0 on."""
        found: Array = self.idle_s[self.until_s.searchsorted(time_s, side="right") - 1]
        return found


class Flow:
    """Earliest starts of the k-th up and the k-th down of every stage.

    Args:
        trip: what ops take.
        paths: the chains.
        micros: micro-batches per chain.
        limit: bytes per rank.
        origin: the rank whose first op starts at time 0, while others may have started before;
            ``None``: nothing starts before 0.
    """

    def __init__(self, trip: Trip, paths: Paths, micros: int, limit: float, origin: int | None = None) -> None:
        self.trip, self.mine, self.chains = trip, paths.chains, paths.whole
        self.micros, self.limit, self.origin = micros, limit, origin
        stages = len(trip.up_s)
        self.known = min(micros, max(1, CELLS // stages))
        """Micro-batches looked at."""
        self.k = np.arange(1, self.known + 1)
        self.up = np.full((stages, self.known), -np.inf)
        """Shape (stages, k); minus infinity where it may be before time 0."""
        self.down = self.up.copy()
        self._begin()
        self._settle()

    def _begin(self) -> None:
        for number, chain in enumerate(self.chains):
            firsts = chain if self.origin is None else self.mine[self.origin][number]
            if firsts:
                self.up[firsts[0]] = self.trip.lead_s[firsts[0]]
        self._travel()
        self.begin_s = [min(float(self.up[group[0], 0]) for group in groups if group) for groups in self.mine]
        """Earliest first up of each rank."""

    def _settle(self) -> None:
        ranks = [rank for rank, begin_s in enumerate(self.begin_s) if math.isfinite(begin_s)]
        work = {rank: self._own_work(rank) for rank in ranks}
        for _ in range(max(1, min(ROUNDS, RANK_ROUNDS // len(self.mine)))):
            before = self.down.copy()
            for rank in ranks:
                self._wait_for_work(rank, work[rank])
            for group in (group for groups in self.mine for group in groups):
                self._wait_for_memory(group)
            self._travel()
            known = np.where(np.isfinite(before), self.down, 0.0)
            if (self.down <= before + ENOUGH * known).all():
                break

    def _travel(self) -> None:
        """Once up and down all chains."""
        trip, up, down = self.trip, self.up, self.down
        for chain in self.chains:
            for times, took_s in ((up, trip.up_s), (down, trip.down_s)):
                one_by_one = took_s[chain, None] * self.k
                times[chain] = np.maximum.accumulate(times[chain] - one_by_one, axis=1) + one_by_one
            way = np.cumsum(np.r_[0.0, trip.up_s[chain[:-1]] + trip.up_hop_s[chain[1:]]])[:, None]
            up[chain] = np.maximum.accumulate(up[chain] - way, axis=0) + way
            back = chain[::-1]
            down[back[0]] = np.maximum(down[back[0]], up[back[0]] + trip.up_s[back[0]])
            way = np.cumsum(np.r_[0.0, trip.down_s[back[:-1]] + trip.down_hop_s[back[1:]]])[:, None]
            down[back] = np.maximum.accumulate(down[back] - way, axis=0) + way

    def _wait_for_memory(self, group: list[int]) -> None:
        for j, stage in enumerate(group):
            need = self._need(group[: j + 1])
            if need[-1] > 0:
                times, freed = self._frees(group[: j + 1])
                at = freed.searchsorted(need / ROOM)
                after = np.where(need > 0, times[np.minimum(at, len(times) - 1)], -np.inf)
                self.up[stage] = np.maximum(self.up[stage], after)

    def _need(self, stages: list[int]) -> Array:
        """Bytes that must have been freed before the k-th up of the last of these stages; shape (k,)."""
        need: Array = np.maximum(0.0, self.k * self.trip.held[stages].sum() - self.limit * ROOM)
        return need

    def _frees(self, stages: list[int]) -> tuple[Array, Array]:
        """Times at which the stages can free bytes, ascending, and the bytes freed by then."""
        trip = self.trip
        ends = self.down[stages] + trip.down_s[stages, None]
        times = np.concatenate([ends, ends + trip.least_rest_s[stages, None]])
        size = np.concatenate([trip.freed[stages], (trip.held - trip.freed)[stages]])
        times, size = times[size > 0].ravel(), np.repeat(size[size > 0], self.known)
        order = times.argsort(kind="stable")
        return times[order], size[order].cumsum()

    def _own_work(self, rank: int) -> list[tuple[Array, int, float, Array]]:
        """What must precede ops of a rank: the times to raise, the stage, from when on, and seconds of work."""
        begin_s, none = self.begin_s[rank], 0.0 * self.trip.lead_s
        ways = [(begin_s, none)]
        if self.origin in (None, rank) and self.trip.lead_s.any():
            ways.append((0.0, self.trip.lead_s))
        found = []
        for base_s, lead_s in ways:
            for group in self.mine[rank]:
                for j, stage in enumerate(group):
                    up_s, down_s = self._work_before(group, j, lead_s)
                    found += [(self.up, stage, base_s, up_s), (self.down, stage, base_s, down_s)]
        return found

    def _wait_for_work(self, rank: int, work: list[tuple[Array, int, float, Array]]) -> None:
        """No k-th op before the work that its rank must have done, and the idle time that stands before it."""
        idle = self.idle(rank)
        for times, stage, base_s, work_s in work:
            least = np.maximum(times[stage], base_s + work_s)
            times[stage] = np.maximum(least, work_s + np.maximum(base_s, idle.by(least)))

    def _work_before(self, group: list[int], j: int, lead_s: Array) -> tuple[Array, Array]:
        """Seconds of work of a rank before the k-th up, and before the k-th down, of the j-th of its stages of a
        chain: ups of the stages before it, downs of the stages after it, and what frees the bytes it needs."""
        trip, k, here, rest = self.trip, self.k, group[: j + 1], group[j:]
        each_s = lead_s + trip.up_s
        up_s = k * each_s[here].sum() - trip.up_s[group[j]]
        down_s = k * (each_s[group].sum() + trip.down_s[rest].sum()) - trip.down_s[group[j]]
        if self.limit < math.inf:
            more = np.maximum(0.0, self._need(group) - k * trip.freed[rest].sum())
            up_s += self._need(here) * self._price_s(here, after_down=False)
            down_s += more * self._price_s(group, after_down=True)
        return up_s, down_s

    def _price_s(self, stages: list[int], after_down: bool) -> float:
        """Least seconds of work to free one byte; with ``after_down``, where downs may be done already."""
        trip, prices = self.trip, []
        for stage in stages:
            held, freed = trip.held[stage], trip.freed[stage]
            ways = [(trip.down_s[stage] + trip.least_rest_s[stage], held), (trip.down_s[stage], freed)]
            ways += [(trip.least_rest_s[stage], held - freed)] * after_down
            prices += [seconds / size for seconds, size in ways if size > 0]
        return float(min(prices, default=0.0))

    def idle(self, rank: int) -> Idle:
        """Idle time of a rank from time 0 on, at least; it must not have started before."""
        trip, stages = self.trip, [stage for group in self.mine[rank] for stage in group]
        moments = np.sort(np.concatenate([self.up[stages], self.down[stages]]), axis=None)
        if self.known < self.micros:
            moments = moments[moments < self.up[stages, -1].min()]
        moments = moments[:: 1 + len(moments) // POINTS]
        busy_s = self._taking(stages, moments)
        for stage in stages:
            start, took_s = self.down[stage], trip.down_s[stage]
            busy_s += _done(start, took_s, moments) * took_s
            busy_s += _done(start + took_s, trip.rest_s[stage], moments) * trip.rest_s[stage]
        idle_s = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(0.0, moments - busy_s))])
        return Idle(np.concatenate([[0.0], moments]), idle_s)

    def _taking(self, stages: list[int], moments: Array) -> Array:
        """Most seconds of ups and leads until each moment, in the memory that can be free by then."""
        trip, items = self.trip, []
        for stage in stages:
            lead_s, up_s = float(trip.most_lead_s[stage]), float(trip.up_s[stage])
            count = _done(self.up[stage], up_s, moments)
            if lead_s + up_s > 0:
                share = (np.ceil(count) * lead_s + count * up_s) / (lead_s + up_s)
                items.append((lead_s + up_s, float(trip.held[stage]), share))
            if lead_s > 0:
                items.append((lead_s, float(trip.lead_bytes[stage]), np.full(len(moments), float(self.micros))))
        times, freed = self._frees(stages)
        freed = np.concatenate([[0.0], freed])
        room = self.limit * ROOM + freed[times.searchsorted(moments, side="right")]
        return np.minimum(moments, _most_work(items, room))


def _done(start: Array, took_s: float, moments: Array) -> Array:
    """How many ops of one stage can be done by each moment, counting parts of the latest."""
    count = start.searchsorted(moments)
    since = (moments - start[count - 1]).clip(0.0, took_s)
    part = since / took_s if took_s > 0 else 1.0
    return np.where(count > 0, count - 1 + part, 0.0)


def _most_work(items: Sequence[Item], room: Array) -> Array:
    """Most seconds of items in so many bytes at each moment (an upper bound: items may be cut, but for the last)."""
    left, total = room.copy(), np.zeros(len(room))
    for seconds, size, most in sorted(items, key=lambda item: -math.inf if item[1] == 0 else -item[0] / item[1]):
        held = np.minimum(most * size, left)
        total += (held / size if size > 0 else most) * seconds
        left = left - held
    least = min((size for _, size, _ in items), default=0.0)
    if least > 1e-9 * room.max(initial=0.0):
        total = np.minimum(total, np.floor(room / least * ROOM) * max(seconds for seconds, _, _ in items))
    return total


def idle_at_both_ends(start: Idle, end: Idle, least_s: float, work_s: float) -> tuple[float, float]:
    """Idle time of a rank at the start and at the end, apart from each other, in a time of at least ``least_s`` that
    holds so much work."""
    while True:
        apart = start.until_s[start.until_s <= least_s]
        both = start.by(apart) + end.by(least_s - apart)
        best = int(np.argmax(both))
        if work_s + both[best] <= least_s * ROOM:
            return float(start.by(apart)[best]), float(both[best] - start.by(apart)[best])
        least_s = work_s + float(both[best])
