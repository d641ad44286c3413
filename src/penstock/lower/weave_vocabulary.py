"""Where each rank comes to its vocabulary passes: the ranks played on clocks, each taking what is most urgent."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np

from penstock.core.costs import Costs
from penstock.core.needs import dependencies
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.lower.units import Unit

EARLY = 3
"""Micro-batches whose input is embedded before the first stage needs it."""
MOST_LATE = 2
"""Passes nobody waits for that a rank puts off at most; each keeps the logits or a gradient of a micro-batch."""

Pass = tuple[Kind, int]
"""A vocabulary pass or collective: kind and micro-batch."""


@dataclass(frozen=True)
class Passes:
    """Which passes a plan gets."""

    late: bool
    """Whether the gradient of the head's input comes with ``T`` (algorithm 1)."""
    inputs: bool
    trains: bool

    @classmethod
    def of(cls, plan: Plan, algorithm: int, inputs: bool) -> Passes:
        """Those of an algorithm; a plan of forwards alone needs no gradients."""
        return cls(algorithm == 1, inputs, plan.trains)

    @property
    def gate(self) -> Kind:
        """What the backward of the last stage waits for."""
        return Kind.REDUCE_T if self.late else Kind.REDUCE_S


@dataclass(eq=False)
class Woven:
    """The order of every rank, units and passes, collectives included; and when the last rank is done."""

    lanes: list[list[Unit | Pass]]
    makespan_s: float


@dataclass(eq=False)
class _Rank:
    """What one rank has done and what waits for it."""

    lane: list[Unit]
    at: int = 0
    free_s: float = 0.0
    urgent: list[tuple[float, int, Pass]] = field(default_factory=list)
    lazy: list[tuple[float, int, Pass]] = field(default_factory=list)
    done: list[Unit | Pass] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    row: dict[Pass, int] = field(default_factory=dict)
    """Place in ``done`` of the op whose result each collective takes from this rank."""


def weave(plan: Plan, lanes: list[list[Unit]], passes: Passes, costs: Costs) -> Woven | None:
    """The order in which ranks come to units and passes; None if they cannot come to their end."""
    play = _Play(plan, lanes, passes, costs)
    play.run()
    if any(rank.at < len(rank.lane) for rank in play.ranks):
        return None
    return Woven([_with_collectives(rank, play.order) for rank in play.ranks], max(r.free_s for r in play.ranks))


def _with_collectives(rank: _Rank, order: list[tuple[Pass, float]]) -> list[Unit | Pass]:
    """Each collective goes before the op that runs as it begins, behind what it needs here and behind all earlier
    collectives. Whoever waits for it starts no sooner than it ends, hence stands behind it."""
    lane: list[Unit | Pass] = []
    at = 0
    for collective, begin_s in order:
        place = max(at, rank.row.get(collective, -1) + 1, bisect_left(rank.starts, begin_s) - 1)
        lane += rank.done[at:place]
        at = place
        lane.append(collective)
    return lane + rank.done[at:]


class _Play:
    """Events in order of time: a rank looks for work, or a collective has all it needs."""

    def __init__(self, plan: Plan, lanes: list[list[Unit]], passes: Passes, costs: Costs) -> None:
        self.plan, self.passes = plan, passes
        self.ranks = [_Rank(lane) for lane in lanes]
        place = plan.placement
        self.parts = [place.on(rank)[0] for rank in range(place.ranks)]
        self.pass_s = costs.seconds[:, self.parts].tolist()
        self.order: list[tuple[Pass, float]] = []
        self._came: dict[Pass, float] = {}
        self._waits: dict[Pass, tuple[int, float]] = {}
        self._link_s, self._begun = 0.0, 0
        self._events: list[tuple[float, int, int, Pass | None]] = []
        self._nth = count()
        self._ops = plan.ops.tolist()
        self._rank_of = plan.rank_of_op.tolist()
        self._costs, self._hop_s = costs, costs.hop_s.tolist()
        self._seconds = costs.seconds[plan.ops[:, 0], plan.ops[:, 1]].tolist()
        self._end: list[float | None] = [None] * len(plan)
        self._needed, self._after = _links(plan)
        self._first, self._last = place.prev.index(NO_STAGE), place.next.index(NO_STAGE)
        home = self.ranks[place.rank_of[self._first]].lane
        self._inputs = [i for unit in home for k, s, i in self._of(unit) if k == Kind.F and s == self._first]

    def run(self) -> None:
        """Until nothing is left that can happen."""
        if self.passes.inputs:
            for micro in self._inputs[:EARLY]:
                self._release((Kind.IF, micro), 0.0)
        for rank in range(len(self.ranks)):
            self._wake(0.0, rank)
        while self._events:
            time_s, _, rank, collective = heappop(self._events)
            if collective is not None:
                self._collect(collective, time_s)
            elif time_s >= self.ranks[rank].free_s:
                self._look(rank, time_s)

    def _of(self, unit: Unit) -> list[list[int]]:
        return [self._ops[x] for x in unit.ids]

    def _wake(self, time_s: float, rank: int, collective: Pass | None = None) -> None:
        heappush(self._events, (time_s, next(self._nth), rank, collective))

    def _look(self, rank: int, now_s: float) -> None:
        """Start what is most urgent: what all ranks wait for, then the lane, then what nobody waits for."""
        state = self.ranks[rank]
        arrives_s = self._arrives(rank)
        if state.urgent and state.urgent[0][0] <= now_s:
            self._start_pass(rank, now_s, heappop(state.urgent)[2])
        elif len(state.lazy) > MOST_LATE and state.lazy[0][0] <= now_s:
            self._start_pass(rank, now_s, heappop(state.lazy)[2])
        elif arrives_s is not None and arrives_s <= now_s:
            self._start_unit(rank, now_s)
        elif state.lazy and state.lazy[0][0] <= now_s and self._fits(rank, now_s, arrives_s):
            self._start_pass(rank, now_s, heappop(state.lazy)[2])
        elif arrives_s is not None:
            self._wake(arrives_s, rank)

    def _fits(self, rank: int, now_s: float, arrives_s: float | None) -> bool:
        """Whether a pass that nobody waits for ends before the lane goes on, as far as one can tell."""
        state = self.ranks[rank]
        takes_s = self.pass_s[state.lazy[0][2][0]][rank]
        return state.at == len(state.lane) or arrives_s is None or now_s + takes_s <= arrives_s

    def _arrives(self, rank: int) -> float | None:
        """When the next unit has all it needs; None if that is not known yet, or there is no unit."""
        state = self.ranks[rank]
        if state.at == len(state.lane):
            return None
        latest_s = 0.0
        for x in state.lane[state.at].ids:
            for needed in self._needed[x]:
                end_s = self._end[needed]
                if end_s is None:
                    if needed in state.lane[state.at].ids:
                        continue
                    return None
                latest_s = max(latest_s, end_s + self._hop_s[self._rank_of[needed]][rank])
            gate = self._gate(x)
            if gate is not None:
                if gate not in self._came:
                    return None
                latest_s = max(latest_s, self._came[gate])
        return latest_s

    def _gate(self, x: int) -> Pass | None:
        """The collective that an op waits for."""
        kind, stage, micro = self._ops[x]
        if kind == Kind.F and stage == self._first and self.passes.inputs:
            return Kind.REDUCE_E, micro
        if kind in (Kind.B, Kind.I) and stage == self._last:
            return self.passes.gate, micro
        return None

    def _start_unit(self, rank: int, now_s: float) -> None:
        state = self.ranks[rank]
        unit = state.lane[state.at]
        state.at += 1
        takes_s = self._seconds[unit.ids[-1]]
        if unit.block:
            takes_s = float(self._costs.fused_s(self._seconds[unit.ids[-2]], takes_s))
        end_s = now_s + takes_s
        self._do(rank, unit, now_s, end_s)
        for x in unit.ids:
            self._end[x] = end_s
            for other in self._after[x]:
                self._wake(end_s + self._hop_s[rank][other], other)
            self._follow(rank, x, now_s, end_s)

    def _follow(self, rank: int, x: int, now_s: float, end_s: float) -> None:
        """What the ends of the chain hand to all ranks, and inputs that may be embedded now."""
        kind, stage, micro = self._ops[x]
        if kind == Kind.F and stage == self._last:
            self._give((Kind.BCAST_H, micro), rank, end_s, parties=1)
        if not self.passes.inputs:
            return
        if kind in (Kind.B, Kind.I) and stage == self._first:
            self._give((Kind.BCAST_E, micro), rank, end_s, parties=1)
        if kind == Kind.F and stage == self._first:
            self._begun += 1
            for later in self._inputs[self._begun + EARLY - 1 : self._begun + EARLY]:
                self._release((Kind.IF, later), now_s)

    def _start_pass(self, rank: int, now_s: float, work: Pass) -> None:
        end_s = now_s + self.pass_s[work[0]][rank]
        self._do(rank, work, now_s, end_s)
        summed = _SUMMED.get(work[0])
        if summed is not None and (summed != Kind.REDUCE_T or self.passes.late):
            self._give((summed, work[1]), rank, end_s, parties=len(self.ranks))

    def _do(self, rank: int, entry: Unit | Pass, now_s: float, end_s: float) -> None:
        state = self.ranks[rank]
        state.done.append(entry)
        state.starts.append(now_s)
        state.free_s = end_s
        self._wake(end_s, rank)

    def _give(self, collective: Pass, rank: int, end_s: float, parties: int) -> None:
        """A rank's part in a collective, which begins when all have given theirs."""
        self.ranks[rank].row[collective] = len(self.ranks[rank].done) - 1
        given, latest_s = self._waits.pop(collective, (0, 0.0))
        if given + 1 == parties:
            self._wake(max(latest_s, end_s), 0, collective)
        else:
            self._waits[collective] = given + 1, max(latest_s, end_s)

    def _collect(self, collective: Pass, ready_s: float) -> None:
        """A collective runs, one after the other; then what waits for it may."""
        kind, micro = collective
        begin_s = max(ready_s, self._link_s)
        self._link_s = self._came[collective] = begin_s + max(self.pass_s[kind])
        self.order.append((collective, begin_s))
        follower = _FOLLOWER.get(kind)
        if follower is not None and (self.passes.trains or follower == Kind.S):
            self._release((follower, micro), self._link_s)
        for rank in range(len(self.ranks)):
            self._wake(self._link_s, rank)

    def _release(self, work: Pass, time_s: float) -> None:
        """Every rank may run a pass from now on."""
        lazy = work[0] == Kind.IB or (work[0] == Kind.T and not self.passes.late)
        for rank, state in enumerate(self.ranks):
            heappush(state.lazy if lazy else state.urgent, (time_s, next(self._nth), work))
            self._wake(time_s, rank)


_SUMMED = {Kind.S: Kind.REDUCE_S, Kind.T: Kind.REDUCE_T, Kind.IF: Kind.REDUCE_E}
"""The collective that takes a pass's result."""
_FOLLOWER = {Kind.BCAST_H: Kind.S, Kind.REDUCE_S: Kind.T, Kind.BCAST_E: Kind.IB}
"""The pass that takes a collective's result."""


def _links(plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    """Per op id, the ids it needs, and the other ranks that need it."""
    table, rank = dependencies(plan), plan.rank_of_op
    needed = [[x for x in row if x >= 0] for row in table.tolist()]
    after: list[list[int]] = [[] for _ in needed]
    consumer, slot = np.nonzero((table >= 0) & (rank[np.maximum(table, 0)] != rank[:, None]))
    for one, x in zip(consumer.tolist(), table[consumer, slot].tolist(), strict=True):
        after[x].append(int(rank[one]))
    return needed, after
