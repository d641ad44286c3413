"""The dependency rule applied to a whole plan at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import AMONG_RANKS, HOST, NEEDS, SENDS, Kind, Need
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan

NOTHING = -1
"""Stands in a dependency slot that the op does not use."""
MISSING = -2
"""Stands in a dependency slot whose value no op of the plan makes."""
SPARSE = 1000
"""Plans that lack all but one in so many of their forwards are refused rather than given a table that large."""


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
    """Ids of the ops that each op needs, in the order of its ``NEEDS``: shape (ops, slots), ``NOTHING`` or ``MISSING``
    where there is no id. There are as many slots as the plan uses.

    In a plan with sends, a value made on another rank comes through the receive that brings it.
    """
    ids = index(plan)
    needed = np.full((len(plan), max(map(len, NEEDS.values()))), NOTHING, dtype=np.int32)
    used = 1
    present = np.bincount(plan.ops[:, 0], minlength=len(Kind)) > 0
    for kind, rule in NEEDS.items():
        rows = np.flatnonzero(plan.ops[:, 0] == kind)
        for slot, need in enumerate(rule):
            asked = not need.if_any or present[list(need.made_by)].any()
            if len(rows) and asked and not (need.slices and plan.slices == 1):
                needed[rows, slot] = _latest(plan, rows, need) if need.latest else _makers(plan, ids, rows, need)
                used = max(used, slot + 1)
    return needed[:, :used]


def _makers(plan: Plan, ids: NDArray[np.int32], rows: NDArray[np.intp], need: Need) -> NDArray[np.int32]:
    _, stage, micro = plan.ops[rows].T
    at = plan.placement.hops[need.at, stage]
    absent = at == NO_STAGE
    if need.slices:
        other = micro + need.slices
        absent = absent | (other // plan.slices != micro // plan.slices)
        micro = np.where(absent, micro, other)
    made = ids[np.array(need.made_by)[:, None], at, micro].max(axis=0)
    if need.via is not None and plan.lowered:
        rank_of = np.array(plan.placement.rank_of)
        made = np.where(rank_of[at] == rank_of[stage], made, ids[need.via, stage, micro])
    if not need.if_any:
        made = np.where(made == NOTHING, MISSING, made)
    return np.where(absent, NOTHING, made).astype(np.int32)


def _latest(plan: Plan, rows: NDArray[np.intp], need: Need) -> NDArray[np.int32]:
    """Id of the last maker before each op in its lane; ``MISSING`` where the stage has some, but none before."""
    stage = plan.ops[:, 1]
    makers = np.flatnonzero(np.isin(plan.ops[:, 0], need.made_by))
    order = makers[np.lexsort((makers, stage[makers]))]
    width = len(plan) + 1
    before = np.searchsorted(stage[order].astype(np.int64) * width + order, stage[rows].astype(np.int64) * width + rows)
    found = order[np.maximum(before - 1, 0)] if len(order) else np.zeros(len(rows), dtype=np.intp)
    same = (before > 0) & (stage[found] == stage[rows])
    lacks = NOTHING if need.if_any else MISSING
    none = np.where(np.isin(stage[rows], stage[makers]), MISSING, lacks)
    return np.where(same, found, none).astype(np.int32)


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


def rings(plan: Plan, partner: NDArray[np.int32]) -> NDArray[np.int32]:
    """Id of the next op among those that end together, round in a ring: the other end of a message, the other replicas
    of a sum of gradients, the other ranks of a vocabulary collective; itself for what a rank does alone. ``MISSING`` if
    the plan lacks one of them, ``NOTHING`` for ops that hold their rank. Shape (ops,).

    Args:
        plan: any.
        partner: what ``partners`` gives.
    """
    ring = partner.copy()
    kind, stage, micro = plan.ops.T
    alone = np.isin(kind, (*HOST, Kind.UNSHARD))
    ring[alone] = np.flatnonzero(alone)
    place = plan.placement
    part = np.array(place.part_of)
    rows = np.flatnonzero(kind == Kind.REDUCE_GRAD)
    if len(rows):
        nth = _nth(stage[rows])
        _close(ring, rows, part[stage[rows]] * (nth.max() + 1) + nth, np.bincount(part)[part[stage[rows]]])
    for collective in AMONG_RANKS:
        rows = np.flatnonzero(kind == collective)
        _close(ring, rows, micro[rows], np.full(len(rows), place.ranks))
    return ring


def _nth(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """How often each entry's value stood before it."""
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    nth = np.empty(len(values), dtype=np.int64)
    nth[order] = np.arange(len(values)) - np.repeat(first, counts)
    return nth


def _close(ring: NDArray[np.int32], rows: NDArray[np.intp], group: NDArray[Any], size: NDArray[Any]) -> None:
    """Join rows of equal group into rings (in place); ``MISSING`` where a group is not of its size."""
    if not len(rows):
        return
    order = np.lexsort((rows, group))
    rows, group, size = rows[order], group[order], size[order]
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    counts = np.diff(np.r_[first, len(rows)])
    after = np.arange(1, len(rows) + 1)
    after[first + counts - 1] = first
    ring[rows] = np.where(np.repeat(counts, counts) == size, rows[after], MISSING)


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
