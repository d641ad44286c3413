"""Memory over time, from what is alive."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, dependencies, index, of_kind, predecessors
from penstock.core.op import HOST, RECVS, SENDS, Hop, Kind
from penstock.core.plan import Plan
from penstock.core.slicing import by_mean
from penstock.core.timeline import MemoryCurve


class Changes(NamedTuple):
    """Bytes taken and freed, one entry each."""

    rank: NDArray[np.integer[Any]]
    time_s: NDArray[np.float64]
    turn: NDArray[np.integer[Any]]
    """Order of what happens at the same time: 2k for what op k takes, 2k + 1 for what it frees."""
    size: NDArray[np.float64]
    """Signed bytes."""


def memory(
    plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs
) -> tuple[MemoryCurve, ...]:
    """What each rank holds, given when its ops ran.

    ``F`` takes ``saved_bytes`` as it starts, or ``kept_share`` of them where ``R`` makes the rest again as it starts;
    ``B`` frees them as it ends, ``I`` all but the share that ``W`` needs, ``W`` the rest. ``OFFLOAD`` frees
    ``host_share`` of what is kept as it ends, ``FETCH`` takes it again as it is asked for. ``UNSHARD`` takes the
    gathered weights as it is asked for, ``RESHARD`` frees them. A receive holds its buffer from posting until its
    consumer ends (a consumer that keeps it counts it in ``saved_bytes``), a send from posting until it has arrived.
    """
    kinds = (
        _activations(plan, start_s, end_s, costs),
        _buffers(plan, start_s, end_s, costs),
        _gathered(plan, start_s, end_s, costs),
    )
    return _curves(plan.placement.ranks, kinds)


_TAKES = (Kind.F, Kind.R, Kind.FETCH, Kind.UNSHARD)
"""What takes memory as it starts; all else frees it as it ends."""


def _activations(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    saved, share = costs.saved_bytes, costs.w_share
    table = np.zeros((len(Kind), len(saved)))
    table[[Kind.F, Kind.B, Kind.I, Kind.W]] = saved, -saved, -saved * (1 - share), -saved * share
    change = table.take(plan.cells) if plan.trains else np.zeros(len(plan))
    kind, stage, micro = plan.ops.T
    if plan.holds(Kind.R, *HOST):
        again = index(plan)[Kind.R, stage, micro] != NOTHING
        kept = saved[stage] * np.where(again, costs.kept_share[stage], 1.0)
        moved = kept * costs.host_share[stage]
        for one, size in ((Kind.F, kept), (Kind.R, saved[stage] - kept), (Kind.OFFLOAD, -moved), (Kind.FETCH, moved)):
            change = np.where(kind == one, size, change)
    if plan.slice_lengths:
        change = change * by_mean(plan.slice_lengths, plan.slices)[micro % plan.slices]
    return _at_ends(plan, start_s, end_s, change)


def _gathered(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    if not costs.weight_bytes.any():
        return _nothing()
    table = np.zeros((len(Kind), len(costs.weight_bytes)))
    table[[Kind.UNSHARD, Kind.RESHARD]] = costs.weight_bytes, -costs.weight_bytes
    return _at_ends(plan, start_s, end_s, table.take(plan.cells))


def _nothing() -> Changes:
    none, at_no_time = np.empty(0, dtype=np.int64), np.empty(0)
    return Changes(none, at_no_time, none, at_no_time)


def _at_ends(
    plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], change: NDArray[np.float64]
) -> Changes:
    """Changes of ops, as they start where they take and as they end where they free."""
    takes, rows = plan.memo(_taking), np.flatnonzero(change)
    when, turn = np.where(takes, start_s, end_s), np.arange(0, 2 * len(plan), 2) + ~takes
    if len(rows) == len(plan):
        return Changes(plan.rank_of_op, when, turn, change)
    return Changes(plan.rank_of_op[rows], when[rows], turn[rows], change[rows])


def _taking(plan: Plan) -> NDArray[np.bool_]:
    return of_kind(plan.ops[:, 0], _TAKES)


def _buffers(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    parts = [_nothing()]
    if not plan.lowered or not costs.boundary_bytes.any():
        return parts[0]
    hop = np.full(len(Kind), Hop.SAME)
    hop[[Kind.RECV_F, Kind.SEND_B]] = Hop.PREV  # these carry the output, or its gradient, of the stage before
    for kinds, until in ((SENDS, _released), (RECVS, _consumed)):
        rows = np.flatnonzero(of_kind(plan.ops[:, 0], kinds))
        kind, stage, micro = plan.ops[rows].T
        size = costs.boundary_bytes[plan.placement.hops[hop[kind], stage]]
        size = size * by_mean(plan.slice_lengths, plan.slices)[micro % plan.slices]
        rows, size = rows[size > 0], size[size > 0]
        if len(rows):
            rank, (free, turn) = plan.rank_of_op[rows], until(plan, rows, start_s, end_s)
            parts.append(Changes(rank, start_s[rows], 2 * rows, size))
            parts.append(Changes(rank, free, turn, -size))
    return Changes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


When = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Time and turn."""


def _released(plan: Plan, sends: NDArray[np.int64], start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> When:
    """When the runtime lets go of sent tensors: at arrival; else when it waits for the link, or at the lane's end."""
    if plan.in_flight is None:
        return end_s[sends], 2 * sends + 1
    lane_end = np.zeros(plan.placement.ranks)
    not_step = plan.ops[:, 0] != Kind.STEP
    np.maximum.at(lane_end, plan.rank_of_op[not_step], end_s[not_step])
    released = lane_end[plan.rank_of_op]
    turn = np.full(len(plan), 2 * len(plan))
    before = predecessors(plan)
    waits = np.flatnonzero(before >= 0)
    released[before[waits]] = start_s[waits]
    turn[before[waits]] = 2 * waits - 1
    return released[sends], turn[sends]


def _consumed(
    plan: Plan, receives: NDArray[np.int64], start_s: NDArray[np.float64], end_s: NDArray[np.float64]
) -> When:
    """When what was received has been used."""
    needed = dependencies(plan)
    consumer = np.full(len(plan), NOTHING, dtype=np.int64)
    for slot in range(needed.shape[1]):
        rows = np.flatnonzero(needed[:, slot] > NOTHING)
        consumer[needed[rows, slot]] = rows
    consumer = consumer[receives]
    return end_s[consumer], 2 * consumer + 1


def _curves(ranks: int, kinds: tuple[Changes, ...]) -> tuple[MemoryCurve, ...]:
    some = [k for k, kind in enumerate(kinds) if len(kind.size)]
    rank, time_s, turn, size = _together([kinds[k] for k in some] or [_nothing()])
    of = np.repeat(some, [len(kinds[k].size) for k in some])
    same = rank[1:] == rank[:-1]
    later = (time_s[1:] >= time_s[:-1]) & (turn[1:] > turn[:-1])
    if not np.where(same, later, rank[1:] > rank[:-1]).all():
        order = np.lexsort((turn, time_s, rank))
        rank, time_s, size, of = rank[order], time_s[order], size[order], of[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=ranks))]).tolist()
    levels = np.zeros((len(kinds), len(size)))
    for k in some:
        levels[k] = _levels(size if len(some) == 1 else np.where(of == k, size, 0.0), ends)
    return tuple(MemoryCurve(time_s[a:b], *levels[:, a:b]) for a, b in pairwise(ends))


def _together(kinds: Sequence[Changes]) -> Changes:
    return kinds[0] if len(kinds) == 1 else Changes(*map(np.concatenate, zip(*kinds, strict=True)))


def _levels(change: NDArray[np.float64], ends: list[int]) -> NDArray[np.float64]:
    """What is there after each change, by ranks that end at ``ends``; what rounding leaves of nothing is none."""
    level, least = np.empty_like(change), np.empty_like(change)
    for a, b in pairwise(ends):
        change[a:b].cumsum(out=level[a:b])
        least[a:b] = 1e-9 * np.abs(change[a:b]).max(initial=1.0)
    level[np.abs(level) < least] = 0.0
    return level
