"""Memory over time, from what is alive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, dependencies, index, partners, predecessors
from penstock.core.op import RECVS, SENDS, Hop, Kind
from penstock.core.plan import Plan
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
    saved, share = costs.saved_bytes[stage], costs.w_share[stage]
    kept = saved
    if (kind == Kind.R).any():
        again = index(plan)[Kind.R, stage, micro] != NOTHING
        kept = np.where(again, saved * costs.kept_share[stage], saved)
    moved = kept * costs.host_share[stage]
    changes = {
        Kind.F: kept,
        Kind.R: saved - kept,
        Kind.B: -saved,
        Kind.I: -saved * (1 - share),
        Kind.W: -saved * share,
        Kind.OFFLOAD: -moved,
        Kind.FETCH: moved,
    }
    change = np.select([kind == one for one in changes], list(changes.values()), 0.0)
    if not plan.trains:
        change[:] = 0.0
    return _at_ends(plan, start_s, end_s, change)


def _gathered(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    kind, stage, _ = plan.ops.T
    sign = (kind == Kind.UNSHARD).astype(np.float64) - (kind == Kind.RESHARD)
    return _at_ends(plan, start_s, end_s, sign * costs.weight_bytes[stage])


def _at_ends(
    plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], change: NDArray[np.float64]
) -> Changes:
    """Changes of ops, as they start where they take and as they end where they free."""
    rows = np.flatnonzero(change)
    takes = np.isin(plan.ops[rows, 0], _TAKES)
    when = np.where(takes, start_s[rows], end_s[rows])
    return Changes(plan.rank_of_op[rows], when, 2 * rows + ~takes, change[rows])


def _buffers(plan: Plan, start_s: NDArray[np.float64], end_s: NDArray[np.float64], costs: Costs) -> Changes:
    none, at_no_time = np.empty(0, dtype=np.int64), np.empty(0)
    parts = [Changes(none, at_no_time, none, at_no_time)]
    hop = np.full(len(Kind), Hop.SAME)
    hop[[Kind.RECV_F, Kind.SEND_B]] = Hop.PREV  # these carry the output, or its gradient, of the stage before
    for kinds, until in ((SENDS, _released), (RECVS, _consumed)):
        rows = np.flatnonzero(np.isin(plan.ops[:, 0], kinds))
        kind, stage, _ = plan.ops[rows].T
        size = costs.boundary_bytes[plan.placement.hops[hop[kind], stage]]
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
    before = predecessors(plan, partners(plan))
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
    change = np.zeros((len(size), len(kinds)))
    change[np.arange(len(size)), np.repeat(np.arange(len(kinds)), [len(one.size) for one in kinds])] = size
    if not ((np.diff(rank) > 0) | (np.diff(time_s) >= 0) & (np.diff(rank) == 0) & (np.diff(turn) > 0)).all():
        order = np.lexsort((turn, time_s, rank))
        rank, time_s, change = rank[order], time_s[order], change[order]
    ends = np.cumsum(np.bincount(rank, minlength=ranks))[:-1]
    return tuple(map(_curve, np.split(time_s, ends), np.split(change, ends)))


def _curve(time_s: NDArray[np.float64], change: NDArray[np.float64]) -> MemoryCurve:
    level = np.cumsum(change, axis=0)
    level = np.where(np.abs(level) < 1e-9 * np.abs(change).max(initial=1.0), 0.0, level)
    return MemoryCurve(time_s, *level.T)
