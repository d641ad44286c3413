"""The dependency rule applied to a whole plan at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import NEEDS, SENDS, Kind, Need
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan

NOTHING = -1
"""Stands in a dependency slot that the op does not use."""
MISSING = -2
"""Stands in a dependency slot whose value no op of the plan makes."""
SPARSE = 1000
"""Plans that lack all but one in so many of their forwards are refused rather than given a table that large."""
SLOTS = max(map(len, NEEDS.values()))


def index(plan: Plan) -> NDArray[np.int32]:
    """Id of every op by (kind, stage, micro-batch): shape (kinds, stages, micros), ``NOTHING`` where there is none.

    Ops without a micro-batch, and ops out of range, are left out.
    """
    if plan.placement.stages * plan.micros > SPARSE * (len(plan) + SPARSE):
        raise ValueError(
            f"{plan.placement.stages} stages x {plan.micros} micro-batches, but only {len(plan)} ops: "
            f"each micro-batch needs at least a forward on every stage"
        )
    kind, stage, micro = plan.ops.T
    ids = np.full((len(Kind), plan.placement.stages, plan.micros), NOTHING, dtype=np.int32)
    inside = (micro >= 0) & (micro < plan.micros) & (stage >= 0) & (stage < plan.placement.stages)
    ids[kind[inside], stage[inside], micro[inside]] = np.flatnonzero(inside)
    return ids


def dependencies(plan: Plan) -> NDArray[np.int32]:
    """Ids of the ops that each op needs: shape (ops, SLOTS), ``NOTHING`` or ``MISSING`` where there is no id.

    In a plan with sends, a value made on another rank comes through the receive that brings it.
    """
    ids = index(plan)
    needed = np.full((len(plan), SLOTS), NOTHING, dtype=np.int32)
    for kind, rule in NEEDS.items():
        rows = np.flatnonzero(plan.ops[:, 0] == kind)
        for slot, need in enumerate(rule):
            if len(rows):
                needed[rows, slot] = _makers(plan, ids, rows, need)
    return needed


def _makers(plan: Plan, ids: NDArray[np.int32], rows: NDArray[np.intp], need: Need) -> NDArray[np.int32]:
    _, stage, micro = plan.ops[rows].T
    at = plan.placement.hops[need.at, stage]
    made = ids[np.array(need.made_by)[:, None], at, micro].max(axis=0)
    if need.via is not None and plan.lowered:
        rank_of = np.array(plan.placement.rank_of)
        made = np.where(rank_of[at] == rank_of[stage], made, ids[need.via, stage, micro])
    made = np.where(made == NOTHING, MISSING, made)
    return np.where(at == NO_STAGE, NOTHING, made).astype(np.int32)


def partners(plan: Plan) -> NDArray[np.int32]:
    """Id of the other end of each send and receive: ``MISSING`` if the plan lacks it, ``NOTHING`` for other ops."""
    ids = index(plan)
    partner = np.full(len(plan), NOTHING, dtype=np.int32)
    for recv, send in ((Kind.RECV_F, Kind.SEND_F), (Kind.RECV_B, Kind.SEND_B)):
        hop = NEEDS[recv][0].at
        rows = np.flatnonzero(plan.ops[:, 0] == recv)
        partner[plan.ops[:, 0] == send] = MISSING
        partner[rows] = _makers(plan, ids, rows, NEEDS[recv][0])
        sender = plan.placement.hops[hop, plan.ops[rows, 1]]
        found = rows[(partner[rows] >= 0) & (sender != NO_STAGE)]
        partner[partner[found]] = found
    return partner


def predecessors(plan: Plan, partner: NDArray[np.int32]) -> NDArray[np.int32]:
    """Id of the send that must have arrived before each send may start, so that its link holds no more than
    ``plan.in_flight`` messages; ``NOTHING`` for other ops and where there is no bound. Shape (ops,).

    Args:
        plan: with sends.
        partner: what ``partners`` gives.
    """
    before = np.full(len(plan), NOTHING, dtype=np.int32)
    if plan.in_flight is None:
        return before
    sends = np.flatnonzero(np.isin(plan.ops[:, 0], SENDS) & (partner >= 0))
    link = plan.rank_of_op[sends].astype(np.int64) * plan.placement.ranks + plan.rank_of_op[partner[sends]]
    order = np.argsort(link, kind="stable")
    later, earlier = order[plan.in_flight :], order[: -plan.in_flight]
    same = link[later] == link[earlier]
    before[sends[later[same]]] = sends[earlier[same]]
    return before
