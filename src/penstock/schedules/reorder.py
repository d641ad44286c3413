"""Orders improved by playing them: a rank that would wait does a later op, as far as memory allows.

Ops only move towards the front of their lane, and only if no peak on the way rises above the limit, so an order that
can run can still run (the rule of Qi et al. 2024, arXiv:2405.15362, at real costs). Played backwards in time it draws
the cool-down together as it does the warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native, warmed
from penstock.core.op import Kind
from penstock.schedules.task import Objective
from penstock.schedules.work import Work

COMPILE_FROM_PLAYED = 150_000
"""Ops to be played from which on the compiled loop is worth loading; on lists an op takes about 3 us."""
ROUNDS = 2
"""How often an order is played backwards in time for each habit."""


@dataclass(frozen=True)
class Habit:
    """What a rank does that would wait.

    Args:
        fit: share of an op's time that must fit into the wait for a more urgent one; 0 fills every wait.
        late: weights' gradients only while nothing else can run, or memory is short.
    """

    fit: float = 1.0
    late: bool = False


HABITS = (
    *(Habit(0.8), Habit(0.5), Habit(0.5, late=True), Habit(1.0)),
    *(Habit(0.0), Habit(0.8, late=True), Habit(0.0, late=True), Habit(1.0, late=True)),
)
"""What is tried, the most promising first."""
PLAYS_OF_HABIT = 1 + 3 * ROUNDS
"""How often one order is played for one habit."""
PLAYS = len(HABITS) * PLAYS_OF_HABIT
"""How often one order is played for all that is tried."""


@dataclass(frozen=True, eq=False)
class Run:
    """An order, when its ops start, its makespan (``sync``) and its longest rank (``span``); infinite if stuck."""

    order: NDArray[np.int64]
    start_s: NDArray[np.float64]
    sync: float
    span: float

    def score(self, objective: Objective) -> tuple[float, float]:
        """What counts, then what breaks ties."""
        return (self.sync, self.span) if objective == "sync" else (self.span, self.sync)


def play(work: Work, order: NDArray[np.int64], habit: Habit | None = None, played: int = 0) -> Run:
    """Run an order as it stands, or improve it by a habit.

    Args:
        work: what there is to do, and the limit that a habit keeps.
        order: ids, rank after rank. With a habit it must keep the limit itself, or the run gets stuck.
        habit: what fills waits; ``None`` keeps the order, whatever the limit.
        played: how many ops will be played in all; many are worth the compiled loop.
    """
    walk = _loop(len(order), played)
    plain = walk is _walk
    late = np.full(len(order), habit is not None and habit.late) & (work.codes[:, 0] == Kind.W)
    done, start = np.full_like(order, -1), np.zeros(len(order))
    dials = habit is not None, habit.fit if habit else 1.0, late.tolist() if plain else late
    state = [*_begun(work, order), done, start]
    if plain:
        state = [values.tolist() for values in state]
    walk(work.listed if plain else work.flat, dials, tuple(state))
    done, start = np.array(state[-2]), np.array(state[-1])
    if (done < 0).any():
        return Run(order, start, np.inf, np.inf)
    end = start + work.seconds
    first, last = done[work.begin[:-1]], done[work.begin[1:] - 1]
    return Run(done, start, float(end.max()), float((end[last] - start[first]).max()))


def improve(work: Work, order: NDArray[np.int64], habit: Habit, rounds: int, played: int = 0) -> Iterator[Run]:
    """The orders on the way: forwards with a habit, then backwards in time and forwards in turn."""
    run = play(work, order, habit, played)
    yield run
    for _ in range(rounds):
        if run.sync == np.inf:
            return
        turned = play(work.backwards, work.turn(run.order), habit, played)
        order = work.turn(turned.order)
        yield play(work, order, None, played)
        run = play(work, order, habit, played)
        yield run


def best(work: Work, orders: Sequence[NDArray[np.int64]], objective: Objective, plays: int) -> Run:
    """The best of what every habit makes of every order; where that is too much, of the best orders or first habits.

    Args:
        work: what there is to do.
        orders: where to begin; all keep the limit.
        objective: what counts.
        plays: about how often orders may be played in all; one is tried with one habit at least.
    """
    played = plays * len(work.codes)
    runs = sorted((play(work, order, None, played) for order in orders), key=lambda run: run.score(objective))
    tried = [run.order for run in runs[: max(1, plays // PLAYS_OF_HABIT)]]
    habits = HABITS[: max(1, plays // (PLAYS_OF_HABIT * len(tried)))]
    runs += [run for habit in habits for order in tried for run in improve(work, order, habit, ROUNDS, played)]
    return min(runs, key=lambda run: run.score(objective))


def sifted(work: Work, orders: Sequence[NDArray[np.int64]], objective: Objective, plays: int) -> Run:
    """The best of what habits make of orders: every habit once of each, then the most promising of these further.

    Args:
        work: what there is to do.
        orders: where to begin; all keep the limit.
        objective: what counts.
        plays: about how often orders may be played in all; each is tried with each habit in any case.
    """
    played = plays * len(work.codes)
    runs = [play(work, order, None, played) for order in orders]
    once = [(play(work, order, habit, played), habit, order) for order in orders for habit in HABITS]
    once.sort(key=lambda one: one[0].score(objective))
    most = max(1, (plays - len(runs) - len(once)) // (PLAYS_OF_HABIT - 1))
    runs += [run for run, _, _ in once]
    runs += [run for _, habit, order in once[:most] for run in improve(work, order, habit, ROUNDS, played)]
    return min(runs, key=lambda run: run.score(objective))


def _loop(ops: int, played: int) -> Callable[..., None]:
    """The loop for so many ops, of so many in all; the compiled one also where loops are compiled anyway."""
    known = played >= COMPILE_FROM_PLAYED or native.cache_info().currsize > 0
    return native(_walk) if known else warmed(_walk, ops, COMPILE_FROM_PLAYED)


def _begun(work: Work, order: NDArray[np.int64]) -> list[NDArray[Any]]:
    """What ``_walk`` changes, before its first op."""
    ops, ranks = len(order), len(work.begin) - 1
    after, before = np.full(ops + 1, ops), np.full(ops + 1, -1)
    one, other = order[:-1], order[1:]
    follows = work.rank[one] == work.rank[other]
    after[one[follows]], before[other[follows]] = other[follows], one[follows]
    head = np.where(np.diff(work.begin) > 0, np.append(order, ops)[work.begin[:-1]], ops)
    counts = [values.copy() for values in (*work.streams, work.begin[:-1])]
    return [after, before, head, *counts, *(np.zeros(ranks) for _ in range(3)), np.full(ops, np.inf)]


def _walk(work: Any, dials: Any, state: Any) -> None:
    """Let the rank go on that is free first, again and again. Plain Python that numba also compiles.

    What a rank has still to do is a linked list in order of ``order``, which ``nobody`` ends. The rank looks through it
    for the first op that can run now; an op may overtake others if their peaks leave room for it. An op that will be
    able to run soon, and comes earlier in the list, makes later ones wait unless enough of them fits before it.
    Where an order gets stuck, ``done`` keeps its last entries.
    """
    rank_of, stream_of, needed, lag, wakes, delay, seconds, takes, frees, most = work
    reorders, fit, late = dials
    after, before, head, next_of, streams, at, wake, clock, held, end, done, start = state
    ops, ranks = len(rank_of), len(head)
    nobody = ops
    while True:
        r = 0
        for q in range(1, ranks):
            if wake[q] < wake[r]:
                r = q
        now = wake[r]
        if now == np.inf:
            return
        level = peak = held[r]
        chosen = spare = -1
        due = np.inf
        seen = 0
        o = head[r]
        while o != nobody:
            if next_of[stream_of[o]] == o:
                seen += 1
                arrival = now
                for slot in (2 * o, 2 * o + 1):
                    d = needed[slot]
                    if d >= 0:
                        arrival = max(arrival, end[d] + lag[slot])
                room = held[r] + takes[o] <= most and peak + takes[o] - frees[o] <= most
                if room or not reorders:
                    if arrival > now:
                        due = min(due, arrival)
                    elif now + fit * seconds[o] <= due:
                        if not late[o]:
                            chosen = o
                            break
                        if spare < 0:
                            spare = o
                if seen == streams[r] or not reorders:
                    break
            level += takes[o]
            peak = max(peak, level)
            level -= frees[o]
            o = after[o]
        if chosen < 0 and spare >= 0 and now + fit * seconds[spare] <= due:
            chosen = spare
        if chosen < 0:
            wake[r] = due
            continue
        start[chosen] = now
        end[chosen] = clock[r] = wake[r] = now + seconds[chosen]
        held[r] += takes[chosen] - frees[chosen]
        done[at[r]] = chosen
        at[r] += 1
        if before[chosen] >= 0:
            after[before[chosen]] = after[chosen]
        else:
            head[r] = after[chosen]
        before[after[chosen]] = before[chosen]
        if head[r] == nobody:
            wake[r] = np.inf
        s = stream_of[chosen]
        next_of[s] = nobody
        if chosen + 1 < ops and stream_of[chosen + 1] == s:
            next_of[s] = chosen + 1
        else:
            streams[r] -= 1
        for slot in (2 * chosen, 2 * chosen + 1):
            u = wakes[slot]
            if u >= 0 and head[rank_of[u]] != nobody:
                q = rank_of[u]
                wake[q] = min(wake[q], max(clock[q], end[chosen] + delay[slot]))
