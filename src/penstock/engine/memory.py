"""Memory over time, from what is alive."""

from __future__ import annotations

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
    kind, stage, micro = plan.ops.T
    saved, share = costs.saved_bytes, costs.w_share
    table = np.zeros((len(Kind), len(saved)))
    table[[Kind.F, Kind.B, Kind.I, Kind.W]] = saved, -saved, -saved * (1 - share), -saved * share
    change = table[kind, stage] if plan.trains else np.zeros(len(plan))
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
    kind, stage, _ = plan.ops.T
    table = np.zeros((len(Kind), len(costs.weight_bytes)))
    table[[Kind.UNSHARD, Kind.RESHARD]] = costs.weight_bytes, -costs.weight_bytes
    return _at_ends(plan, start_s, end_s, table[kind, stage])


def _nothing() -> Changes:
    none, at_no_time = np.empty(0, dtype=np.int64), np.empty(0)
    return Changes(none, at_no_time, none, at_no_time)


def _at_ends(
    plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], change: NDArray[np.float64]
) -> Changes:
    """Changes of ops, as they start where they take and as they end where they free."""
    rows = np.flatnonzero(change)
    takes = of_kind(plan.ops[rows, 0], _TAKES)
    when = np.where(takes, start_s[rows], end_s[rows])
    return Changes(plan.rank_of_op[rows], when, 2 * rows + ~takes, change[rows])


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
    rank, time_s, turn, size = (np.concatenate(column) for column in zip(*kinds, strict=True))
    of = np.repeat(np.arange(len(kinds)), [len(one.size) for one in kinds])
    if not ((np.diff(rank) > 0) | (np.diff(time_s) >= 0) & (np.diff(rank) == 0) & (np.diff(turn) > 0)).all():
        order = np.lexsort((turn, time_s, rank))
        rank, time_s, size, of = rank[order], time_s[order], size[order], of[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=ranks))])
    some = [k for k, kind in enumerate(kinds) if len(kind.size)]
    curves = []
    for a, b in pairwise(ends):
        levels = np.zeros((len(kinds), b - a))
        for k in some:
            levels[k] = _level(size[a:b] if len(some) == 1 else np.where(of[a:b] == k, size[a:b], 0.0))
        curves.append(MemoryCurve(time_s[a:b], *levels))
    return tuple(curves)


def _level(change: NDArray[np.float64]) -> NDArray[np.float64]:
    level = np.cumsum(change)
    level[np.abs(level) < 1e-9 * np.abs(change).max(initial=1.0)] = 0.0
    return level
