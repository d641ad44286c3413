"""The one loop that walks every lane in order, never ahead of what an op needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import NOTHING, dependencies, partners, predecessors
from penstock.core.op import RECVS, SENDS, Kind
from penstock.core.plan import Plan

COMPILE_FROM_OPS = 20_000
"""Plans of at least so many ops are worth loading the compiled loop for (importing numba takes 0.3 s)."""


@dataclass(frozen=True, eq=False)
class Played:
    """When every op ran.

    ``start_s`` and ``end_s`` have one entry per op id: for compute, the time it holds its rank; for a message, from
    posting to arrival. ``waited_for`` is the id of the op whose result came last, ``NOTHING`` if its rank was the
    last to be free. ``stopped_at`` holds per rank the id it could not pass, or the end of its lane.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    waited_for: NDArray[np.int32]
    stopped_at: NDArray[np.int64]


def play(plan: Plan, seconds: NDArray[np.float64], hop_s: NDArray[np.float64]) -> Played:
    """Run the lanes on clocks that start at zero.

    Args:
        plan: need not be legal; what cannot run is left with NaN times.
        seconds: duration of each op id, shape (ops,); ignored for sends and receives.
        hop_s: time of a message between two ranks, shape (ranks, ranks). In a plan without sends, every need met on
            another rank arrives that much later and messages never wait for each other; in a plan with sends, a
            message starts when it is sent, its receive is posted and the link from rank to rank is free; a send holds
            its rank until the link has room (``plan.in_flight``).
    """
    partner = partners(plan)
    needed = np.column_stack([dependencies(plan), predecessors(plan, partner)])
    lag = np.zeros(needed.shape)
    if not plan.lowered:
        rank = plan.rank_of_op
        lag = np.where(needed >= 0, hop_s[rank[np.maximum(needed, 0)], rank[:, None]], 0.0)
    role = np.isin(plan.ops[:, 0], SENDS).astype(np.int8) + 2 * np.isin(plan.ops[:, 0], RECVS).astype(np.int8)
    start, end = np.full(len(plan), np.nan), np.full(len(plan), np.nan)
    waited = np.full(len(plan), NOTHING, dtype=np.int32)
    stop = _first_step(plan)
    at = plan.first[:-1].copy()
    walk = _compiled() if len(plan) >= COMPILE_FROM_OPS else _walk
    walk(
        (at, stop),
        (needed, lag, role, partner, plan.rank_of_op),
        (seconds, hop_s),
        plan.blocking,
        (start, end, waited),
    )
    _step(plan, seconds, at, stop, (start, end, waited))
    return Played(start, end, waited, at)


def _first_step(plan: Plan) -> NDArray[np.int64]:
    """Id of the first op of each lane's closing steps (the end of the lane if it has none)."""
    is_step = plan.ops[:, 0] == Kind.STEP
    last_other = [np.flatnonzero(~is_step[a:b]) for a, b in zip(plan.first[:-1], plan.first[1:], strict=True)]
    return np.array([a + (rows[-1] + 1 if len(rows) else 0) for a, rows in zip(plan.first, last_other, strict=False)])


def _step(plan: Plan, seconds: NDArray[Any], at: NDArray[Any], stop: NDArray[Any], out: tuple[Any, ...]) -> None:
    """Run the closing steps once every rank has done all else."""
    start, end, waited = out
    if (at < stop).any() or len(plan) == 0:
        return
    others = np.concatenate([np.arange(a, b) for a, b in zip(plan.first, stop, strict=False)])
    latest = int(others[np.argmax(end[others])]) if len(others) else NOTHING
    begin = end[latest] if len(others) else 0.0
    for rank, (a, b) in enumerate(zip(stop, plan.first[1:], strict=True)):
        end[a:b] = begin + np.cumsum(seconds[a:b])
        start[a:b] = end[a:b] - seconds[a:b]
        if a < b and len(others) and plan.rank_of_op[latest] != rank:
            waited[a] = latest
        at[rank] = b


@cache
def _compiled() -> Callable[..., None]:
    import numba

    compiled: Callable[..., None] = numba.njit(cache=True)(_walk)
    return compiled


def _walk(lanes: Any, rules: Any, times: Any, blocking: bool, out: Any) -> None:
    """Advance each rank until it lacks something; a finished op wakes the ranks that wait for it.

    Plain Python that numba also compiles. ``at`` (advanced in place) and ``stop`` bound each lane; roles are 0 compute,
    1 send, 2 receive. Ranks that wait for an op form a linked list that starts at ``first_waiter[op]``.
    """
    at, stop = lanes
    needed, lag, role, partner, rank_of = rules
    seconds, hop_s = times
    start, end, waited = out
    ranks, ops = len(at), len(role)
    clock = np.zeros(ranks)
    link_free = np.zeros((ranks, ranks))
    done = np.zeros(ops, dtype=np.bool_)
    posted = np.zeros(ops, dtype=np.bool_)
    first_waiter = np.full(ops, -1, dtype=np.int32)
    next_waiter = np.full(ranks, -1, dtype=np.int32)
    awake_ranks = np.arange(ranks)[::-1].copy()
    awake = ranks
    while awake:
        awake -= 1
        r = awake_ranks[awake]
        while at[r] < stop[r]:
            o = at[r]
            t = clock[r]
            lacks = finished = partner_finished = -1
            if role[o] != 2 and not posted[o]:
                for slot in range(needed.shape[1]):
                    d = needed[o, slot]
                    if d == -1:
                        continue
                    if d < 0 or not done[d]:
                        lacks = d if d >= 0 else o
                        break
                    arrival = end[d] + lag[o, slot]
                    if arrival > t:
                        t = arrival
                        waited[o] = d
            if lacks < 0 and role[o] == 0:
                start[o] = t
                end[o] = clock[r] = t + seconds[o]
                finished = o
            elif lacks < 0 and not posted[o]:
                posted[o] = True
                start[o] = clock[r] = t
                q = partner[o]
                if q >= 0 and posted[q]:
                    a, b = (rank_of[o], rank_of[q]) if role[o] == 1 else (rank_of[q], rank_of[o])
                    end[o] = end[q] = link_free[a, b] = max(start[o], start[q], link_free[a, b]) + hop_s[a, b]
                    finished, partner_finished = o, q
            for x in (finished, partner_finished):
                if x >= 0:
                    done[x] = True
                    w = first_waiter[x]
                    first_waiter[x] = -1
                    while w >= 0:
                        awake_ranks[awake] = w
                        awake += 1
                        w = next_waiter[w]
            if blocking and role[o] != 0 and lacks < 0:
                if done[o]:
                    clock[r] = end[o]
                    if start[partner[o]] > start[o]:
                        waited[o] = partner[o]
                else:
                    lacks = o
            if lacks >= 0:
                next_waiter[r] = first_waiter[lacks]
                first_waiter[lacks] = r
                break
            at[r] += 1
