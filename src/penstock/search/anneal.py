"""Orders improved op by op: one op passes a few others of its rank, and what follows is timed again.

Moves that lengthen the step are taken with a probability that falls (simulated annealing: Kirkpatrick et al. 1983,
doi:10.1126/science.220.4598.671). Times are mended only as far as they change. Where ops take other times in each of
several draws, what counts is the mean over the draws.

Importing this module loads numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native
from penstock.engine.noise import starts
from penstock.schedules.reorder import Run, play
from penstock.schedules.task import Objective
from penstock.schedules.work import Work
from penstock.search.moves import Facts, State, move, target, undo

HEATS = 0.05, 0.005
"""By how much a move that is likely taken may lengthen a step, at first and at last, in times of the longest op."""
DRAWN_HEATS = 0.004, 0.0005
"""The same of a mean over draws, which is smoother."""
FARTHEST, ONWARD = 12, 0.6
"""Ops that one may pass at most, and the probability that it passes one more."""
MEAN = 0.1
"""How much the mean time of the ranks counts beside the longest, so that moves on the others are judged too."""
CRITICAL = 0.3
"""Share of the moves that touch what the longest rank waits for."""
STALE = 200
"""Moves after which what the longest rank waits for is looked up anew."""
EXACT = 1e-9
"""Differences of time, in times of the longest op, that count as none."""


def anneal(
    work: Work, run: Run, objective: Objective, moves: int, seed: int = 0, drawn: NDArray[np.float64] | None = None
) -> Run:
    """The best order found in so many moves; always the same for the same arguments.

    Args:
        work: what there is to do, and the limit that is kept.
        run: where to begin; keeps the limit.
        objective: what counts.
        moves: how many are tried; one takes about as long as a few hundred ops.
        seed: of what is tried.
        drawn: what ops take in each of several draws, shape (ops, draws); then the mean over the draws is the least
            that was found, and the order may be longer than ``run`` at the times of ``work``.
    """
    unit, heats = float(work.seconds.max()), HEATS
    facts = facts_of(work)
    state = state_of(facts, run, len(work.begin) - 1)
    if drawn is not None:
        facts, heats = facts._replace(seconds=drawn), DRAWN_HEATS
        start = starts(state.sequence, state.before, work.needed, work.lag, drawn, often=True)
        state = state._replace(start=start, old=np.zeros_like(drawn))
    best = run.order.copy()
    dials = objective == "sync", work.most, heats[0] * unit, heats[1] * unit, EXACT * unit
    _anneal(facts, state, dials, moves, seed, best)
    found = play(work, best[np.argsort(work.rank[best], kind="stable")], None, len(best))
    return found if drawn is not None else min(run, found, key=lambda one: one.score(objective))


def facts_of(work: Work) -> Facts:
    """The work as the loops take it."""
    return Facts(work.rank, work.stream, work.needed, work.lag, work.wakes, work.seconds, work.takes, work.frees)


def sequence_of(work: Facts, run: Run) -> NDArray[np.int64]:
    """All ops, each behind what it needs and what its rank does before it."""
    lane_place = np.empty(len(run.order), dtype=np.int64)
    lane_place[run.order] = np.arange(len(run.order))
    return _by_need(work, run.order, np.lexsort((lane_place, run.start_s)))


def state_of(work: Facts, run: Run, ranks: int) -> State:
    """An order as the loops change it."""
    ops, sequence = len(work.rank), sequence_of(work, run)
    place = np.empty(ops, dtype=np.int64)
    place[sequence] = np.arange(ops)
    lanes = np.split(run.order, np.cumsum(np.bincount(work.rank, minlength=ranks))[:-1])
    before, after, held = np.full(ops, -1), np.full(ops, -1), np.zeros(ops)
    for lane in lanes:
        before[lane[1:]], after[lane[:-1]] = lane[:-1], lane[1:]
        held[lane[1:]] = np.cumsum(work.takes[lane] - work.frees[lane])[:-1]
    first, last = (np.array([lane[end] for lane in lanes]) for end in (0, -1))
    room = [np.zeros(ops, dtype=kind) for kind in (np.bool_, np.int64, np.int64, np.float64)]
    return State(sequence, place, before, after, first, last, held, run.start_s.copy(), *room)


def _by_need(work: Facts, order: NDArray[np.int64], sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sequence; where ops take no time, with each behind what it needs."""
    if (work.seconds > 0).all():
        return sequence
    out = np.empty_like(sequence)
    _sort(work, order, sequence, out)
    return out


@native
def _sort(work: Any, order: Any, sequence: Any, out: Any) -> None:
    """Each op as soon as its turn has come and everything it needs, or its rank does before it, is there."""
    ops = len(sequence)
    before = np.full(ops, -1)
    for k in range(1, ops):
        if work.rank[order[k]] == work.rank[order[k - 1]]:
            before[order[k]] = order[k - 1]
    done = np.zeros(ops, dtype=np.bool_)
    stack = np.empty(4 * ops, dtype=np.int64)
    at = 0
    for o in sequence:
        depth = 1
        stack[0] = o
        while depth:
            one = stack[depth - 1]
            ready = True
            if not done[one]:
                for d in (before[one], work.needed[one, 0], work.needed[one, 1]):
                    if d >= 0 and not done[d]:
                        stack[depth] = d
                        depth += 1
                        ready = False
                if ready:
                    out[at] = one
                    at += 1
                    done[one] = True
            if ready:
                depth -= 1


@native
def _times(start: Any, seconds: Any, state: Any, sync: Any) -> Any:
    """What the longest rank takes, and all take on average; of several draws the mean."""
    longest = total = 0.0
    ranks, draws = len(state.first), 1
    if start.ndim == 1:
        for r in range(ranks):
            end = start[state.last[r]] + seconds[state.last[r]]
            took = end if sync else end - start[state.first[r]]
            longest = max(longest, took)
            total += took
    else:
        draws = start.shape[1]
        for k in range(draws):
            most = 0.0
            for r in range(ranks):
                end = start[state.last[r], k] + seconds[state.last[r], k]
                took = end if sync else end - start[state.first[r], k]
                most = max(most, took)
                total += took
            longest += most
    return longest / draws, total / (ranks * draws)


@native
def _critical(start: Any, seconds: Any, work: Any, state: Any, sync: Any, slack: Any, path: Any) -> Any:
    """Write down what the longest rank's last op waited for, back to the start; how many ops that are."""
    most, o = -1.0, -1
    for r in range(len(state.first)):
        last = state.last[r]
        took = start[last] + seconds[last] - (0.0 if sync else start[state.first[r]])
        if took > most:
            most, o = took, last
    length = 0
    while o >= 0:
        path[length] = o
        length += 1
        cause = -1
        b = state.before[o]
        if b >= 0 and start[b] + seconds[b] >= start[o] - slack:
            cause = b
        else:
            for slot in range(work.needed.shape[1]):
                d = work.needed[o, slot]
                if d >= 0 and start[d] + seconds[d] + work.lag[o, slot] >= start[o] - slack:
                    cause = d
        o = cause
    return length


@native
def _path(start: Any, seconds: Any, work: Any, state: Any, sync: Any, slack: Any, path: Any) -> Any:
    """The same; of several draws in one of them."""
    if start.ndim == 1:
        return _critical(start, seconds, work, state, sync, slack, path)
    k = np.random.randint(start.shape[1])
    return _critical(start[:, k], seconds[:, k], work, state, sync, slack, path)


@native
def _anneal(work: Any, state: Any, dials: Any, moves: Any, seed: Any, best: Any) -> None:
    """Try moves; the best sequence stands in ``best`` at the end."""
    sync, most, hot, cold, slack = dials
    ops = len(state.sequence)
    np.random.seed(seed)
    longest, mean = _times(state.start, work.seconds, state, sync)
    least, now = longest, longest + MEAN * mean
    best[:] = state.sequence
    path, length, age = np.empty(ops, dtype=np.int64), 0, STALE
    for tried in range(moves):
        if age >= STALE:
            length, age = _path(state.start, work.seconds, work, state, sync, slack, path), 0
        age += 1
        x = np.random.randint(ops)
        if np.random.random() < CRITICAL:
            x = path[np.random.randint(length)]
        steps = 1
        while steps < FARTHEST and np.random.random() < ONWARD:
            steps += 1
        left = np.random.random() < 0.5
        y = target(work, state, most, x, left, steps)
        if y == x:
            continue
        done = move(work, state, x, y, left)
        if done[4] < 0:
            continue
        longest, mean = _times(state.start, work.seconds, state, sync)
        then = longest + MEAN * mean
        heat = hot * (cold / hot) ** (tried / moves)
        if then <= now or np.random.random() < np.exp((now - then) / heat):
            now = then
            if longest < least - slack:
                least, age = longest, STALE
                best[:] = state.sequence
        else:
            undo(work, state, x, done)
