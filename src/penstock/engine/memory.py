"""Memory over time, from what is alive."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, dependencies, partners, predecessors
from penstock.core.op import RECVS, SENDS, Hop, Kind
from penstock.core.plan import Plan
from penstock.core.timeline import MemoryCurve

Changes = tuple[NDArray[np.integer[Any]], NDArray[np.float64], NDArray[np.float64]]
"""Rank, time and signed bytes of each change."""


def memory(
    plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs
) -> tuple[MemoryCurve, ...]:
    """What each rank holds, given when its ops ran.

    ``F`` takes ``saved_bytes`` as it starts; ``B`` frees them as it ends, ``I`` all but the share that ``W`` needs,
    ``W`` the rest. A receive holds its buffer from posting until its consumer ends (a consumer that keeps it counts
    it in ``saved_bytes``), a send from posting until it has arrived.
    """
    activations = _activations(plan, start_s, end_s, costs)
    buffers = _buffers(plan, start_s, end_s, costs)
    return tuple(_curve(rank, activations, buffers) for rank in range(plan.placement.ranks))


def _activations(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    kind, stage, _ = plan.ops.T
    saved, share = costs.saved_bytes[stage], costs.w_share[stage]
    change = np.select(
        [kind == Kind.F, kind == Kind.B, kind == Kind.I, kind == Kind.W],
        [saved, -saved, -saved * (1 - share), -saved * share],
        0.0,
    )
    if not plan.trains:
        change[:] = 0.0
    rows = np.flatnonzero(change)
    when = np.where(kind == Kind.F, start_s, end_s)
    return plan.rank_of_op[rows], when[rows], change[rows]


def _buffers(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    parts: list[Changes] = []
    rank, hops = plan.rank_of_op, plan.placement.hops
    for kind in SENDS + RECVS:
        rows = np.flatnonzero(plan.ops[:, 0] == kind)
        output_of = hops[_carries(kind), plan.ops[rows, 1]]
        size = costs.boundary_bytes[output_of]
        free = _released_s(plan, rows, start_s, end_s) if kind in SENDS else _consumed_s(plan, rows, end_s)
        parts += [(rank[rows], start_s[rows], size), (rank[rows], free, -size)]
    who, when, change = (np.concatenate(column) for column in zip(*parts, strict=True))
    return who, when, change


def _carries(kind: Kind) -> Hop:
    """Whose output (or the gradient of whose output) a message about a stage is."""
    return Hop.PREV if kind in (Kind.RECV_F, Kind.SEND_B) else Hop.SAME


def _released_s(
    plan: Plan, sends: NDArray[np.int64], start_s: NDArray[np.float64], end_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """When the runtime lets go of sent tensors."""
    if plan.in_flight is None:
        found: NDArray[np.float64] = end_s[sends]
        return found
    lane_end = np.zeros(plan.placement.ranks)
    not_step = plan.ops[:, 0] != Kind.STEP
    np.maximum.at(lane_end, plan.rank_of_op[not_step], end_s[not_step])
    released = lane_end[plan.rank_of_op]
    before = predecessors(plan, partners(plan))
    waits = np.flatnonzero(before >= 0)
    released[before[waits]] = start_s[waits]
    found = released[sends]
    return found


def _consumed_s(plan: Plan, receives: NDArray[np.int64], end_s: NDArray[np.float64]) -> NDArray[np.float64]:
    needed = dependencies(plan)
    consumed = np.full(len(plan), np.nan)
    for slot in range(needed.shape[1]):
        rows = np.flatnonzero(needed[:, slot] > NOTHING)
        consumed[needed[rows, slot]] = end_s[rows]
    found: NDArray[np.float64] = consumed[receives]
    return found


def _curve(rank: int, activations: Changes, buffers: Changes) -> MemoryCurve:
    columns = []
    for who, when, change in (activations, buffers):
        mine = who == rank
        columns.append((when[mine], change[mine]))
    time = np.concatenate([when for when, _ in columns])
    change = np.zeros((len(time), 2))
    split = len(columns[0][0])
    change[:split, 0], change[split:, 1] = columns[0][1], columns[1][1]
    order = np.lexsort((change.sum(axis=1), time))
    level = np.cumsum(change[order], axis=0)
    level = np.where(np.abs(level) < 1e-9 * np.abs(change).max(initial=1.0), 0.0, level)
    return MemoryCurve(time[order], level[:, 0], level[:, 1])
