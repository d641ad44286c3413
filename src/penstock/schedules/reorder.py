"""Orders improved by playing them: a rank that would wait does a later op, as far as memory allows.

The rule is that of Qi et al. 2024 (arXiv:2405.15362): ops move to the front of their lane only, and only if no peak on
the way rises above the limit, so an order that can run can still run. Played backwards in time it draws the cool-down
together as it does the warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import dependencies
from penstock.core.op import Kind
from penstock.core.plan import Lane, Plan
from penstock.schedules.task import Task

COMPILE_FROM_OPS = 5_000
"""Ops to be played in all from which the compiled loop is worth loading (importing numba takes 0.3 s)."""
SLACK = 1e-9
"""Share of a limit that rounding may add."""


@dataclass(frozen=True, eq=False)
class Work:
    """All ops of a task, as arrays over op ids; an order is one array of ids, rank after rank.

    Ids count micro-batches first: ops of one kind and stage stand together and run in this order.

    Args:
        codes: kind, stage and micro-batch of each op, shape (ops, 3).
        rank: of each op; ``begin``: where the lane of each rank starts in an order, and the number of ops last.
        stream: number of each op's kind and stage.
        needed, lag: ids of what each op needs (-1: nothing) and how long its result travels, shape (ops, 2).
        wakes, delay: the same seen from the maker, shape (ops, 3).
        seconds: duration of each op.
        takes, frees: bytes at the start and at the end of each op.
        most: bytes that each rank may hold, shape (ranks,).
    """

    codes: NDArray[np.int64]
    rank: NDArray[np.int64]
    begin: NDArray[np.int64]
    stream: NDArray[np.int64]
    needed: NDArray[np.int64]
    lag: NDArray[np.float64]
    wakes: NDArray[np.int64]
    delay: NDArray[np.float64]
    seconds: NDArray[np.float64]
    takes: NDArray[np.float64]
    frees: NDArray[np.float64]
    most: NDArray[np.float64]

    @classmethod
    def of(cls, task: Task, split: bool = True, most: NDArray[np.float64] | None = None) -> Work:
        """The ops of a task, backwards split into I and W or whole; ``most`` defaults to the task's limit."""
        place, costs, m = task.placement, task.costs, task.micros
        kinds = (Kind.F, Kind.I, Kind.W) if split else (Kind.F, Kind.B)
        codes = np.array([(k, s, i) for k in kinds for s in range(place.stages) for i in range(m)], dtype=np.int64)
        rank = np.array(place.rank_of)[codes[:, 1]]
        lanes = tuple(Lane.of(codes[rank == r]) for r in range(place.ranks))
        needed = _by_code(Plan("", place, m, lanes), np.flatnonzero(rank >= 0)[np.argsort(rank, kind="stable")])
        lag = np.where(needed >= 0, costs.hop_s[rank[needed], rank[:, None]], 0.0)
        wakes, delay = _turned(needed, lag)
        kind, stage, _ = codes.T
        saved, share = costs.saved_bytes[stage], costs.w_share[stage]
        frees = np.select([kind == Kind.B, kind == Kind.I, kind == Kind.W], [saved, saved * (1 - share), saved * share])
        if most is None:
            most = np.full(place.ranks, np.inf if task.memory_limit is None else task.memory_limit)
        begin = np.r_[0, np.cumsum(np.bincount(rank, minlength=place.ranks))]
        return cls(
            *(codes, rank, begin, np.arange(len(codes)) // m, needed, lag, wakes, delay),
            *(costs.seconds[kind, stage], np.where(kind == Kind.F, saved, 0.0), frees, most * (1 + SLACK)),
        )

    @cached_property
    def backwards(self) -> Work:
        """The same work seen backwards in time: the op of id o has the id ops-1-o, and orders turn round."""
        last = len(self.codes) - 1
        needed, wakes = (np.where(ids >= 0, last - ids, -1)[::-1].copy() for ids in (self.wakes, self.needed))
        flip = [values[::-1].copy() for values in (self.delay, self.lag, self.seconds, self.frees, self.takes)]
        lag, delay, seconds, takes, frees = flip
        stream = self.stream[-1] - self.stream[::-1]
        return Work(
            *(self.codes[::-1].copy(), self.rank[::-1].copy(), self.begin, stream, needed, lag, wakes, delay),
            *(seconds, takes, frees, self.most),
        )

    def turn(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """An order as ``backwards`` has it, and back."""
        lanes = np.split(len(order) - 1 - order, self.begin[1:-1])
        return np.concatenate([lane[::-1] for lane in lanes])

    def by_time(self, time: NDArray[np.float64]) -> NDArray[np.int64]:
        """The order in which every rank does its ops at the given times, shape (ops,)."""
        return np.lexsort((time, self.rank))

    def lanes(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows of kind, stage, micro-batch of every rank."""
        return np.split(self.codes[order], self.begin[1:-1])

    def peaks(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Most bytes that each rank holds, shape (ranks,)."""
        change = np.column_stack([self.takes[order], -self.frees[order]])
        lanes = np.split(change, self.begin[1:-1])
        return np.array([np.cumsum(lane.ravel()).max(initial=0.0) for lane in lanes])


def _by_code(plan: Plan, ids: NDArray[np.intp]) -> NDArray[np.int64]:
    """What every op needs, where the op in row k of the plan has the id ``ids[k]``."""
    rows = dependencies(plan)
    needed = np.full(rows.shape, -1, dtype=np.int64)
    needed[ids] = np.where(rows >= 0, ids[rows], -1)
    return needed


def _turned(needed: NDArray[np.int64], lag: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """From what ops need to what needs them: a forward is needed by a forward and a backward, a gradient by two."""
    users, slots = np.nonzero(needed >= 0)
    makers = needed[users, slots]
    by_maker = np.argsort(makers, kind="stable")
    users, slots, makers = users[by_maker], slots[by_maker], makers[by_maker]
    place = np.arange(len(makers)) - np.searchsorted(makers, makers)
    wakes, delay = np.full((len(needed), 2), -1, dtype=np.int64), np.zeros((len(needed), 2))
    wakes[makers, place], delay[makers, place] = users, lag[users, slots]
    return wakes, delay


@dataclass(frozen=True)
class Habit:
    """What a rank does that would wait.

    Args:
        fit: share of an op's time that must fit into the wait for a more urgent one; 0 fills every wait.
        late: weights' gradients only while nothing else can run, or memory is short.
    """

    fit: float = 1.0
    late: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """An order and its times, the makespan (``sync``) and the longest rank's (``span``); infinite if it cannot run."""

    order: NDArray[np.int64]
    start_s: NDArray[np.float64]
    sync: float
    span: float


def play(work: Work, order: NDArray[np.int64], habit: Habit | None = None, compiled: bool = False) -> Run:
    """Run an order as it stands, or improve it by a habit.

    Args:
        work: what there is to do, and the limits that a habit keeps.
        order: ids, rank after rank; without a habit it may break the limits.
        habit: what fills waits; ``None`` keeps the order.
        compiled: by the compiled loop; worth it where many ops are to be played.
    """
    done, start = np.zeros_like(order), np.zeros(len(order))
    walk = _compiled() if compiled else _walk
    walk(
        order,
        (work.rank, work.begin, work.stream, work.needed, work.lag, work.wakes, work.delay),
        (work.seconds, work.takes, work.frees, work.most),
        (habit is not None, (work.codes[:, 0] == Kind.W) & (habit is not None and habit.late), habit.fit if habit else 1.0),
        (done, start),
    )
    if done[-1] < 0 or (done < 0).any():
        return Run(order, start, np.inf, np.inf)
    end = start + work.seconds
    first, last = done[work.begin[:-1]], done[work.begin[1:] - 1]
    return Run(done, start, float(end.max()), float((end[last] - start[first]).max()))


def improve(work: Work, order: NDArray[np.int64], habit: Habit, rounds: int, compiled: bool = False) -> Iterable[Run]:
    """The orders on the way: forwards with a habit, then backwards and forwards in turn."""
    run = play(work, order, habit, compiled)
    yield run
    for _ in range(rounds):
        if not np.isfinite(run.sync):
            return
        turned = play(work.backwards, work.turn(run.order), habit, compiled)
        run = play(work, work.turn(turned.order), None, compiled)
        yield run
        run = play(work, run.order, habit, compiled)
        yield run


@cache
def _compiled() -> Callable[..., None]:
    import numba

    compiled: Callable[..., None] = numba.njit(cache=True)(_walk)
    return compiled


def _walk(order: Any, links: Any, facts: Any, habit: Any, out: Any) -> None:
    """Always let the rank go on that is free first. Plain Python that numba also compiles.

    Ops still to be done form a linked list per rank; ``nobody`` ends it. A rank looks through the list for the first op
    that can run now; an op may overtake others if their peaks still fit with it. ``done`` holds -1 where the order
    stopped.
    """
    rank_of, begin, stream_of, needed, lag, wakes, delay = links
    seconds, takes, frees, most = facts
    reorders, late, fit = habit
    done, start = out
    ops, ranks = len(order), len(begin) - 1
    nobody = ops
    after = np.full(ops + 1, nobody)
    before = np.full(ops + 1, -1)
    head = np.full(ranks, nobody)
    wake = np.zeros(ranks)
    clock = np.zeros(ranks)
    held = np.zeros(ranks)
    at = begin[:-1].copy()
    end = np.full(ops, -1.0)
    next_of = np.full(stream_of.max() + 1, nobody)
    for o in range(ops - 1, -1, -1):
        next_of[stream_of[o]] = o
        done[o] = -1
    for r in range(ranks):
        for k in range(begin[r], begin[r + 1] - 1):
            after[order[k]] = order[k + 1]
            before[order[k + 1]] = order[k]
        if begin[r] < begin[r + 1]:
            head[r] = order[begin[r]]
    streams = np.zeros(ranks, dtype=np.int64)
    for s in range(len(next_of)):
        streams[rank_of[next_of[s]]] += 1
    while True:
        r = -1
        for q in range(ranks):
            if head[q] != nobody and wake[q] < np.inf and (r < 0 or wake[q] < wake[r]):
                r = q
        if r < 0:
            return
        now = wake[r]
        level = peak = held[r]
        chosen = spare = -1
        due = soonest = np.inf
        seen = 0
        o = head[r]
        while o != nobody:
            if next_of[stream_of[o]] == o:
                seen += 1
                arrival = 0.0
                for slot in range(needed.shape[1]):
                    d = needed[o, slot]
                    if d >= 0:
                        arrival = max(arrival, end[d] + lag[o, slot] if end[d] >= 0 else np.inf)
                room = held[r] + takes[o] <= most[r] and peak + takes[o] - frees[o] <= most[r]
                first = o == head[r]
                if (room or first) and arrival <= now:
                    if now + fit * seconds[o] <= due:
                        if late[o]:
                            if spare < 0:
                                spare = o
                        else:
                            chosen = o
                            break
                elif (room or first) and arrival < np.inf:
                    soonest = min(soonest, arrival)
                    due = min(due, arrival)
                if not reorders or seen == streams[r]:
                    break
            level += takes[o]
            peak = max(peak, level)
            level -= frees[o]
            o = after[o]
        if chosen < 0 and spare >= 0 and now + fit * seconds[spare] <= due:
            chosen = spare
        if chosen < 0:
            wake[r] = soonest
            continue
        o = chosen
        start[o] = now
        end[o] = clock[r] = wake[r] = now + seconds[o]
        held[r] += takes[o] - frees[o]
        done[at[r]] = o
        at[r] += 1
        if before[o] >= 0:
            after[before[o]] = after[o]
        else:
            head[r] = after[o]
        before[after[o]] = before[o]
        s = stream_of[o]
        if o + 1 < ops and stream_of[o + 1] == s:
            next_of[s] = o + 1
        else:
            next_of[s] = nobody
            streams[r] -= 1
        for slot in range(wakes.shape[1]):
            u = wakes[o, slot]
            if u >= 0:
                q = rank_of[u]
                wake[q] = min(wake[q], max(clock[q], end[o] + delay[o, slot]))
