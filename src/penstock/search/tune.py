"""Orders that repeat, improved op by op: one op passes a few others of its rank, in every turn alike.

Most moves touch the ring of ops that binds the period. Moves that lengthen it are taken with a probability that falls,
as in ``anneal``. Importing this module loads numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.core.compiled import native
from penstock.search.period import fits, free, period_of, swap

BINDING = 0.5
"""Share of the moves that touch what binds the period."""
FARTHEST, ONWARD = 12, 0.5
"""Ops that one may pass at most, and the probability that it passes one more."""


@native
def tails(work: Any, state: Any, period: Any) -> Any:
    """From the first start to the last end of one turn's micro-batches: the longest rank's, and of all ranks."""
    longest, first, last = 0.0, np.inf, -np.inf
    for r in range(len(work.begin) - 1):
        low, high = np.inf, -np.inf
        for at in range(work.begin[r], work.begin[r + 1]):
            o = state.lane[at]
            began = state.start[o] + state.turn[o] * period
            low, high = min(low, began), max(high, began + work.seconds[o])
        longest, first, last = max(longest, high - low), min(first, low), max(last, high)
    return longest, last - first


@native
def _pass(work: Any, state: Any, x: Any, left: Any, steps: Any, forced: Any) -> Any:
    """Let ``x`` pass so many ops of its rank, or as many as may be passed; how many it passed."""
    r = work.rank[x]
    for made in range(steps):
        at = state.place[x]
        if left:
            at = work.begin[r + 1] - 1 if at == work.begin[r] else at - 1
        if not forced and not free(work, state, at):
            return made
        swap(work, state, at)
    return steps


@native
def _cost(work: Any, state: Any, dials: Any) -> Any:
    """What counts, and how many ops of the ring bind; infinite if the order cannot run."""
    sync, turns, slack = dials
    period, length = period_of(work, state, slack)
    if period < 0:
        return np.inf, length
    longest, all_of_it = tails(work, state, period)
    return (turns - 1) * period + (all_of_it if sync else longest), length


@native
def tune(work: Any, state: Any, dials: Any, most: Any, heats: Any, moves: Any, seed: Any, best: Any) -> None:
    """Try so many moves from an order that runs and keeps ``most``.

    Args:
        work: facts of the ops of one turn.
        state: the order; changed.
        dials: whether the last rank's end counts or the longest rank; turns that follow each other; slack of times.
        most: bytes that any rank may hold.
        heats: by how much a move that is likely taken may lengthen what counts, at first and at last.
        moves: how many.
        seed: of what is tried.
        best: rows of lane, place and turn, shape (3, ops): receives the best order.
    """
    np.random.seed(seed)
    now, length = _cost(work, state, dials)
    least = now
    best[0], best[1], best[2] = state.lane, state.place, state.turn
    start, cause = state.start.copy(), state.cause.copy()
    for tried in range(moves):
        x = np.random.randint(len(work.rank))
        if np.random.random() < BINDING:
            x = state.ring[np.random.randint(length)]
        left, steps = np.random.random() < 0.5, 1
        while steps < FARTHEST and np.random.random() < ONWARD:
            steps += 1
        made = _pass(work, state, x, left, steps, False)
        if made == 0:
            continue
        taken = fits(work, state, work.rank[x], most)
        if taken:
            start[:], cause[:] = state.start, state.cause
            then, bound = _cost(work, state, dials)
            heat = heats[0] * (heats[1] / heats[0]) ** (tried / moves)
            taken = then <= now or np.random.random() < np.exp((now - then) / heat)
            if taken:
                now, length = then, bound
            else:
                state.start[:], state.cause[:] = start, cause
        if not taken:
            _pass(work, state, x, not left, made, True)
        elif now < least - dials[2]:
            least = now
            best[0], best[1], best[2] = state.lane, state.place, state.turn
