"""What the places of vocabulary passes depend on: which passes there are, who waits for whom, and what all takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import dependencies
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.lower.units import Units

PASSES = (Kind.S, Kind.T, Kind.IF, Kind.IB)
COLLECTIVES = (Kind.BCAST_H, Kind.REDUCE_S, Kind.REDUCE_T, Kind.BCAST_E, Kind.REDUCE_E)
"""As the loop numbers them: the code of one is its place here times the number of micro-batches, plus its own."""
URGENT, NEEDED, LATE = 0, 1, 2
"""Queues of passes that may run: inputs, those that all ranks wait for, and those that nobody waits for."""


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

    @property
    def rules(self) -> tuple[list[int], list[int], list[int]]:
        """Per pass the collective that takes its result and its queue; per collective the pass that takes its own."""
        summed = [Kind.REDUCE_S, Kind.REDUCE_T if self.late else None, Kind.REDUCE_E, None]
        taken = [Kind.S, *((Kind.T, None, Kind.IB) if self.trains else (None,) * 3), None]
        queues = [NEEDED, NEEDED if self.late else LATE, URGENT, LATE]
        return [_place(COLLECTIVES, kind) for kind in summed], queues, [_place(PASSES, kind) for kind in taken]


def _place(kinds: tuple[Kind, ...], kind: Kind | None) -> int:
    return -1 if kind is None else kinds.index(kind)


@dataclass(frozen=True, eq=False)
class Score:
    """What the loop reads of a plan, whatever the order of its units.

    Args:
        ops: per op id its rank, the collectives that it waits for and that it gives to (-1: none), and whether it is a
            forward of the first stage: arrays of shape (ops,); what it needs, shape (ops x slots,); and where the other
            ranks that need it stand in ``after``, shape (ops + 1,).
        prices: seconds of passes, shape (4 x ranks,), of collectives, shape (5,), and of hops, shape (ranks x ranks,).
        inputs: micro-batches of the forwards of the first stage, in the order of its lane.
    """

    plan: Plan
    units: Units
    passes: Passes
    costs: Costs
    micros: int
    ops: tuple[NDArray[Any], ...]
    after: NDArray[Any]
    prices: tuple[NDArray[np.float64], ...]
    inputs: NDArray[Any]

    @classmethod
    def of(cls, plan: Plan, units: Units, passes: Passes, costs: Costs) -> Score:
        """Looked up once for all orders."""
        kind, stage, micro = plan.ops.T.astype(np.int64)
        place, rank = plan.placement, plan.rank_of_op.astype(np.int64)
        micros = int(max(plan.micros, micro.max(initial=0) + 1))
        first, last = stage == place.prev.index(NO_STAGE), stage == place.next.index(NO_STAGE)
        forward, gradient = kind == Kind.F, (kind == Kind.B) | (kind == Kind.I)
        waits, gives = np.full((2, len(plan)), -1)
        for table, where, what in (
            (waits, gradient & last, passes.gate),
            (waits, forward & first & passes.inputs, Kind.REDUCE_E),
            (gives, forward & last, Kind.BCAST_H),
            (gives, gradient & first & passes.inputs, Kind.BCAST_E),
        ):
            table[where] = COLLECTIVES.index(what) * micros + micro[where]
        feeds = forward & first & passes.inputs
        needed, after_first, after = _links(plan, rank)
        parts = [place.on(one)[0] for one in range(place.ranks)]
        seconds = costs.seconds[:, parts]
        prices = seconds[list(PASSES)].ravel(), seconds[list(COLLECTIVES)].max(axis=1), costs.hop_s.ravel()
        ops = (rank, waits, gives, feeds, needed, after_first)
        return cls(plan, units, passes, costs, micros, ops, after, prices, micro[feeds])


def _links(plan: Plan, rank: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What each op needs, and the other ranks that need it: where those of an op begin, and all of them."""
    table = dependencies(plan).astype(np.int64)
    consumer, slot = np.nonzero((table >= 0) & (rank[np.maximum(table, 0)] != rank[:, None]))
    maker = table[consumer, slot]
    by_maker = np.argsort(maker, kind="stable")
    begins = np.searchsorted(maker[by_maker], np.arange(len(plan) + 1))
    return table.ravel(), begins, rank[consumer[by_maker]]
