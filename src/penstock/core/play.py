"""The one loop that walks every lane in order, never ahead of what an op needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import warmed
from penstock.core.needs import NOTHING, dependencies, of_kind, partners, predecessors, rings
from penstock.core.op import HOST, POSTED, RECVS, SENDS, Kind
from penstock.core.plan import Plan

HOLDS, SENT, RECEIVED, STARTED = 0, 1, 2, 3
"""Roles of ops: what keeps its rank until it ends, both ends of a message, and other work that a rank only starts."""


@dataclass(frozen=True, eq=False)
class Played:
    """When every op ran.

    ``start_s`` and ``end_s`` have one entry per op id: for compute, the time it holds its rank; for a message or other
    work on a link, from posting to arrival. ``waited_for`` is the id of the op whose result came last, ``NOTHING`` if
    its rank was the last to be free. ``stopped_at`` holds per rank the id it could not pass, or the end of its lane.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    waited_for: NDArray[np.int32]
    stopped_at: NDArray[np.int64]


def play(
    plan: Plan, seconds: NDArray[np.float64], hop_s: NDArray[np.float64], host_of: NDArray[np.int64] | None = None
) -> Played:
    """Run the lanes on clocks that start at zero.

    Each rank's compute, each link from rank to rank, each direction of each host link, and each rank's collectives are
    resources that do one thing at a time: a link in the order of time in which it is asked, collectives of a rank in
    the order of its lane.

    Args:
        plan: need not be legal; what cannot run is left with NaN times.
        seconds: duration of each op id, shape (ops,), of both ops of a block the block's; ignored for messages.
        hop_s: time of a message between two ranks, shape (ranks, ranks). In a plan without sends, every need met on
            another rank arrives that much later and messages never wait for each other; in a plan with sends, a
            message starts when it is sent, its receive is posted and the link from rank to rank is free; a send holds
            its rank until the link has room (``plan.in_flight``).
        host_of: the host link of each rank, shape (ranks,); default one each.
    """
    role = plan.memo(_roles)
    stop = _first_step(plan)
    at = plan.first[:-1].copy()
    start, end = np.full(len(plan), np.nan), np.full(len(plan), np.nan)
    waited = np.full(len(plan), NOTHING, dtype=np.int32)
    warmed(_walk, len(plan))(
        (at, stop, plan.rank_of_op, plan.fused),
        (dependencies(plan), predecessors(plan), rings(plan), not plan.lowered),
        (role, *(_ways(plan, role, host_of) if plan.holds(*HOST) else plan.memo(_own_ways))),
        (seconds, hop_s),
        (start, end, waited),
    )
    _step(plan, seconds, at, stop, (start, end, waited))
    return Played(start, end, waited, at)


def _roles(plan: Plan) -> NDArray[np.int8]:
    of_kind = np.zeros(len(Kind), dtype=np.int8)
    for kinds, role in ((POSTED, STARTED), (SENDS, SENT), (RECVS, RECEIVED)):
        of_kind[list(kinds)] = role
    found: NDArray[np.int8] = of_kind[plan.ops[:, 0]]
    return found


def _resources(plan: Plan, role: NDArray[np.int8], host_of: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Number of the link that each op occupies (for compute, of no meaning): from rank to rank, to a host, from a host,
    or collectives."""
    if not role.any():
        return np.zeros(len(plan), dtype=np.int64)
    ranks, partner = plan.placement.ranks, partners(plan)
    rank, kind = plan.rank_of_op.astype(np.int64), plan.ops[:, 0]
    peer = rank[np.maximum(partner, 0)]
    link = np.where(role == SENT, rank * ranks + peer, peer * ranks + rank)
    if (role == STARTED).any():
        host = np.arange(ranks) if host_of is None else host_of
        copies = of_kind(kind, HOST)
        link = np.where(copies, ranks * ranks + 2 * host[rank] + (kind == Kind.FETCH), link)
        link = np.where((role == STARTED) & ~copies, ranks * ranks + 2 * ranks + rank, link)
    return link


def _ways(plan: Plan, role: NDArray[np.int8], host_of: NDArray[np.int64] | None) -> tuple[Any, ...]:
    """Link of each op; its batch; the collective before and the one behind it on its rank; whether hosts are shared."""
    follows, followed = np.full((2, len(plan)), NOTHING, dtype=np.int64)
    shared = False
    if (role == STARTED).any():
        copies = of_kind(plan.ops[:, 0], HOST)
        rows = np.flatnonzero((role == STARTED) & ~copies)
        same = plan.rank_of_op[rows[1:]] == plan.rank_of_op[rows[:-1]]
        follows[rows[1:][same]], followed[rows[:-1][same]] = rows[:-1][same], rows[1:][same]
        for row in rows[1:][same & (rings(plan)[rows[:-1]] == rows[1:])]:  # replicas on one rank end together
            follows[row] = follows[follows[row]]
        shared = host_of is not None and len(np.unique(host_of)) < len(host_of) and bool(copies.any())
    return _resources(plan, role, host_of), batches(plan), follows, followed, shared


def _own_ways(plan: Plan) -> tuple[Any, ...]:
    return _ways(plan, plan.memo(_roles), None)


def batches(plan: Plan) -> NDArray[np.int64]:
    """For each message that holds its rank, how many stand before and how many behind it in its batch: shape (ops, 2);
    -1 for all else."""
    return plan.memo(_batches)


def _batches(plan: Plan) -> NDArray[np.int64]:
    role, found = plan.memo(_roles), np.full((len(plan), 2), -1, dtype=np.int64)
    message = (role == SENT) | (role == RECEIVED)
    if not plan.blocking or not message.any():
        return found
    found[message] = 0
    if plan.sends == "batched":
        begins = message & ~np.r_[False, message[:-1] & (np.diff(plan.rank_of_op) == 0)]
        rows = np.flatnonzero(message)
        first = np.flatnonzero(begins)[np.cumsum(begins)[rows] - 1]
        last = rows[np.searchsorted(first, first, side="right") - 1]
        found[rows] = np.stack([rows - first, last - rows], axis=1)
    return found


def _first_step(plan: Plan) -> NDArray[np.int64]:
    """Id of the first op of each lane's closing steps (the end of the lane if it has none)."""
    if not plan.holds(Kind.STEP):
        return plan.first[1:].copy()
    is_step = plan.ops[:, 0] == Kind.STEP
    last_other = [np.flatnonzero(~is_step[a:b]) for a, b in zip(plan.first[:-1], plan.first[1:], strict=True)]
    return np.array([a + (rows[-1] + 1 if len(rows) else 0) for a, rows in zip(plan.first, last_other, strict=False)])


def _step(plan: Plan, seconds: NDArray[Any], at: NDArray[Any], stop: NDArray[Any], out: tuple[Any, ...]) -> None:
    """Run the closing steps once every rank, or without ``plan.barrier`` its own, has done all else."""
    start, end, waited = out
    if not plan.holds(Kind.STEP) or (at < stop).any():
        return
    last = [_latest(end, x, y) for x, y in zip(plan.first, stop, strict=False)]
    last_of_all = max(last, key=lambda op: end[op] if op != NOTHING else 0.0)
    for rank, (a, b) in enumerate(zip(stop, plan.first[1:], strict=True)):
        latest = last_of_all if plan.barrier else last[rank]
        end[a:b] = (end[latest] if latest != NOTHING else 0.0) + np.cumsum(seconds[a:b])
        start[a:b] = end[a:b] - seconds[a:b]
        if a < b and latest != NOTHING and plan.rank_of_op[latest] != rank:
            waited[a] = latest
        at[rank] = b


def _latest(end: NDArray[np.float64], a: int, b: int) -> int:
    """Id of the op that ends last among ids from a to b."""
    return a + int(np.argmax(end[a:b])) if a < b else NOTHING


def _walk(lanes: Any, rules: Any, ways: Any, times: Any, out: Any) -> None:
    """Advance each rank until it lacks something; a finished op wakes the ranks that wait for it.

    Plain Python that numba also compiles. ``at`` (advanced in place) and ``stop`` bound each lane. Ranks that wait for
    an op form a linked list that starts at ``first_waiter[op]``. Where ranks share a host link, the rank whose clock is
    least goes first, one op at a time, so that the link is asked in the order of time.
    """
    at, stop, rank_of, fused = lanes
    needed, before, ring, lags = rules
    role, resource, batch, follows, followed, shared = ways
    seconds, hop_s = times
    start, end, waited = out
    ranks, ops = len(at), len(role)
    clock = np.zeros(ranks)
    free = np.zeros(ranks * (ranks + 3))
    ready = np.zeros(ops)
    done = np.zeros(ops, dtype=np.bool_)
    posted = np.zeros(ops, dtype=np.bool_)
    first_waiter = np.full(ops, -1, dtype=np.int32)
    next_waiter = np.full(ranks, -1, dtype=np.int32)
    awake_ranks = np.arange(ranks)[::-1].copy()
    awake = ranks
    finished = np.empty(ops + 2, dtype=np.int64)
    tries = np.empty(ops + 1, dtype=np.int64)
    while awake:
        awake -= 1
        if shared:
            least = awake
            for k in range(awake):
                x, y = awake_ranks[k], awake_ranks[least]
                if clock[x] < clock[y] or (clock[x] == clock[y] and x < y):
                    least = k
            awake_ranks[least], awake_ranks[awake] = awake_ranks[awake], awake_ranks[least]
        r = awake_ranks[awake]
        while at[r] < stop[r]:
            o = at[r]
            size = 2 if fused[o] else 1
            t = clock[r]
            lacks = -1
            count = trying = 0
            if not posted[o]:
                arrival = t
                latest = -1
                if role[o] != 2:
                    for x in range(o, o + size):
                        for slot in range(needed.shape[1]):
                            d = needed[x, slot]
                            if d == -1:
                                continue
                            if d < 0 or not done[d]:
                                lacks = d if d >= 0 else x
                                break
                            came = end[d] + hop_s[rank_of[d], r] if lags else end[d]
                            if came > arrival:
                                arrival = came
                                latest = d
                        if lacks >= 0:
                            break
                    d = before[o]
                    if lacks < 0 and d >= 0:
                        if not done[d]:
                            lacks = d
                        elif end[d] > t:
                            t = end[d]
                            waited[o] = d
                if lacks < 0:
                    posted[o] = True
                    if role[o] == 0:
                        for x in range(o, o + size):
                            start[x] = arrival
                            end[x] = arrival + seconds[x]
                            waited[x] = latest
                            finished[count] = x
                            count += 1
                        clock[r] = end[o]
                    else:
                        start[o] = clock[r] = t
                        ready[o] = max(t, arrival)
                        tries[0] = o
                        trying = 1
            while trying:
                trying -= 1
                first = q = tries[trying]
                while q >= 0 and posted[q] and not done[q] and (follows[q] < 0 or done[follows[q]]):
                    q = ring[q]
                    if q == first:
                        break
                if q != first or done[q] or not posted[q] or (follows[q] >= 0 and not done[follows[q]]):
                    continue
                begin = takes = 0.0
                while True:
                    begin = max(begin, ready[q], free[resource[q]])
                    takes = max(takes, hop_s[rank_of[q], rank_of[ring[q]]] if role[q] == 1 else seconds[q])
                    q = ring[q]
                    if q == first:
                        break
                while True:
                    end[q] = free[resource[q]] = begin + takes
                    done[q] = True
                    finished[count] = q
                    count += 1
                    if followed[q] >= 0:
                        tries[trying] = followed[q]
                        trying += 1
                    q = ring[q]
                    if q == first:
                        break
            for k in range(count):
                x = finished[k]
                done[x] = True
                w = first_waiter[x]
                first_waiter[x] = -1
                while w >= 0:
                    awake_ranks[awake] = w
                    awake += 1
                    w = next_waiter[w]
            if lacks < 0 and batch[o, 1] == 0:
                for x in range(o - batch[o, 0], o + 1):
                    if not done[x]:
                        lacks = x
                        break
                    if end[x] > clock[r]:
                        clock[r] = end[x]
                    if start[ring[x]] > start[x]:
                        waited[x] = ring[x]
            if lacks >= 0:
                next_waiter[r] = first_waiter[lacks]
                first_waiter[lacks] = r
                break
            at[r] += size
            if shared and at[r] < stop[r]:
                awake_ranks[awake] = r
                awake += 1
                break
