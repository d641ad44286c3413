"""The dependency rule applied to a whole plan at once. What is found is kept with the plan, which never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import warmed
from penstock.core.op import AMONG_RANKS, HOST, NEEDS, RECVS, SENDS, Kind, Need
from penstock.core.plan import Plan

NOTHING = -1
"""Stands in a dependency slot that the op does not use."""
MISSING = -2
"""Stands in a dependency slot whose value no op of the plan makes."""
SPARSE = 1000
"""Plans that lack all but one in so many of their forwards are refused rather than given a table that large."""


def of_kind(kinds: NDArray[np.int32], among: tuple[Kind, ...]) -> NDArray[np.bool_]:
    """Whether each kind is one of a few."""
    table = np.zeros(len(Kind), dtype=np.bool_)
    table[list(among)] = True
    found: NDArray[np.bool_] = table[kinds]
    return found


def index(plan: Plan) -> NDArray[np.int32]:
    """Id of every op by (kind, stage, micro-batch): shape (kinds, stages, micros), ``NOTHING`` where there is none.

    Ops without a micro-batch, and ops out of range, are left out.
    """
    return plan.memo(_index)


def dependencies(plan: Plan) -> NDArray[np.int32]:
    """Ids of the ops that each op needs, in the order of ``active``: shape (ops, slots), ``NOTHING`` or ``MISSING``
    where there is no id.

    In a plan with sends, a value made on another rank comes through the receive that brings it.
    """
    return plan.memo(_dependencies)


def partners(plan: Plan) -> NDArray[np.int32]:
    """Id of the other end of each send and receive: ``MISSING`` if the plan lacks it, ``NOTHING`` for other ops."""
    return plan.memo(_partners)


def rings(plan: Plan) -> NDArray[np.int32]:
    """Id of the next op among those that end together, round in a ring: the other end of a message, the other replicas
    of a sum of gradients, the other ranks of a vocabulary collective; itself for what a rank does alone. ``MISSING`` if
    the plan lacks one of them, ``NOTHING`` for ops that hold their rank. Shape (ops,).
    """
    return plan.memo(_rings)


def predecessors(plan: Plan) -> NDArray[np.int32]:
    """Id of the send that must have arrived before each send may start, so that its link holds no more than
    ``plan.in_flight`` messages; ``NOTHING`` for other ops and where there is no bound. Shape (ops,).

    Within a batch nothing arrives before all of it is posted; the check refuses one that asks for more of a link.
    """
    return plan.memo(_predecessors)


def active(plan: Plan) -> dict[Kind, tuple[Need, ...]]:
    """The needs of each kind that can apply in a plan: those that are there at times, only if it holds what makes
    them."""
    return plan.memo(_active)


def _active(plan: Plan) -> dict[Kind, tuple[Need, ...]]:
    kinds = plan.ops[:, 0]
    present = np.bincount(kinds[(kinds >= 0) & (kinds < len(Kind))], minlength=len(Kind)) > 0

    def applies(need: Need) -> bool:
        return bool((not need.if_any or present[list(need.made_by)].any()) and not (need.slices and plan.slices == 1))

    return {kind: tuple(filter(applies, rule)) for kind, rule in NEEDS.items() if present[kind]}


def _index(plan: Plan) -> NDArray[np.int32]:
    if plan.placement.stages * plan.micros > SPARSE * (len(plan) + SPARSE):
        raise ValueError(
            f"{plan.placement.stages} stages x {plan.micros} micro-batches, but only {len(plan)} ops: "
            f"each micro-batch needs at least a forward on every stage"
        )
    kind, stage, micro = np.ascontiguousarray(plan.ops.T)
    ids = np.full((len(Kind), plan.placement.stages, plan.micros), NOTHING, dtype=np.int32)
    inside = (micro >= 0) & (micro < plan.micros) & (stage >= 0) & (stage < plan.placement.stages)
    if inside.all():
        ids.ravel()[plan.cells * plan.micros + micro] = np.arange(len(plan), dtype=np.int32)
    else:
        ids[kind[inside], stage[inside], micro[inside]] = np.flatnonzero(inside)
    return ids


def _dependencies(plan: Plan) -> NDArray[np.int32]:
    rules = active(plan)
    table = np.full((len(Kind), max([1, *map(len, rules.values())]), 7), -1, dtype=np.int32)
    for kind, rule in rules.items():
        for slot, need in enumerate(rule):
            makers = (*need.made_by, need.made_by[0])[:2]
            table[kind, slot] = (*makers, need.at, -1 if need.via is None else need.via, need.if_any, need.slices,
                                 need.latest)  # fmt: skip
    needed = np.full((len(plan), table.shape[1]), NOTHING, dtype=np.int32)
    place = plan.placement
    fill = warmed(_fill, len(plan))
    where = (place.hops, np.array(place.rank_of), plan.lowered, plan.slices, int(Kind.UNSHARD))
    fill(plan.ops, index(plan), table, where, needed)
    return needed


def _fill(ops: Any, ids: Any, table: Any, place: Any, needed: Any) -> None:
    """Look up what each op needs (plain Python that numba also compiles); ``needed`` is filled in place."""
    hops, rank_of, lowered, slices, gather = place
    latest = np.full(len(rank_of), -1, dtype=np.int64)
    has_some = np.zeros(len(rank_of), dtype=np.bool_)
    for o in range(len(ops)):
        if ops[o, 0] == gather:
            has_some[ops[o, 1]] = True
    for o in range(len(ops)):
        kind, stage, micro = ops[o, 0], ops[o, 1], ops[o, 2]
        for slot in range(table.shape[1]):
            first, second, hop, via, if_any, later, last = table[kind, slot]
            if first < 0:
                break
            if last > 0:
                if latest[stage] >= 0:
                    needed[o, slot] = latest[stage]
                elif has_some[stage] or if_any == 0:
                    needed[o, slot] = -2
                continue
            at = hops[hop, stage]
            number = micro + later
            if at < 0 or (later != 0 and number // slices != micro // slices):
                continue
            if via >= 0 and lowered and rank_of[at] != rank_of[stage]:
                made = ids[via, stage, micro]
            else:
                made = max(ids[first, at, number], ids[second, at, number])
            if made >= 0:
                needed[o, slot] = made
            elif if_any == 0:
                needed[o, slot] = -2
        if kind == gather:
            latest[stage] = o


def _partners(plan: Plan) -> NDArray[np.int32]:
    kind = plan.ops[:, 0]
    partner = np.full(len(plan), NOTHING, dtype=np.int32)
    rows = np.flatnonzero(of_kind(kind, RECVS))
    if plan.lowered:
        partner[of_kind(kind, SENDS)] = MISSING
    partner[rows] = dependencies(plan)[rows, 0]
    found = rows[partner[rows] >= 0]
    partner[partner[found]] = found
    return partner


def _rings(plan: Plan) -> NDArray[np.int32]:
    ring = partners(plan).copy()
    kind, stage, micro = plan.ops.T
    if plan.holds(*HOST, Kind.UNSHARD):
        alone = of_kind(kind, (*HOST, Kind.UNSHARD))
        ring[alone] = np.flatnonzero(alone)
    place = plan.placement
    if plan.holds(Kind.REDUCE_GRAD):
        part, rows = np.array(place.part_of), np.flatnonzero(kind == Kind.REDUCE_GRAD)
        nth = count_up(stage[rows])
        _close(ring, rows, part[stage[rows]] * (nth.max() + 1) + nth, np.bincount(part)[part[stage[rows]]])
    if plan.holds(*AMONG_RANKS):
        for collective in AMONG_RANKS:
            rows = np.flatnonzero(kind == collective)
            _close(ring, rows, micro[rows], np.full(len(rows), place.ranks))
    return ring


def count_up(values: NDArray[Any]) -> NDArray[np.int64]:
    """How often each entry's value stood before it.

    Example:
        >>> count_up(np.array([7, 3, 7, 7])).tolist()
        [0, 0, 1, 2]
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.ones(len(values), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    counted = np.empty(len(values), dtype=np.int64)
    counted[order] = np.arange(len(values)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    return counted


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


def _predecessors(plan: Plan) -> NDArray[np.int32]:
    before = np.full(len(plan), NOTHING, dtype=np.int32)
    if plan.in_flight is None or not plan.lowered:
        return before
    partner = partners(plan)
    sends = np.flatnonzero(of_kind(plan.ops[:, 0], SENDS) & (partner >= 0))
    link = plan.rank_of_op[sends].astype(np.int64) * plan.placement.ranks + plan.rank_of_op[partner[sends]]
    order = np.argsort(link, kind="stable")
    later, earlier = order[plan.in_flight :], order[: -plan.in_flight]
    same = link[later] == link[earlier]
    before[sends[later[same]]] = sends[earlier[same]]
    return before
