"""How fast an order can repeat: by the slowest ring of ops that wait for each other.

In an order that repeats, every rank does the same ops in every turn, some on a later micro-batch than others. Ops wait
for the op before them on their rank and for what they need, and what closes a ring of such waits takes so many turns:
the period is the largest quotient of seconds and turns of all rings. It is found by policy iteration (Howard's
algorithm for max-plus systems: Cochet-Terrasson et al. 1998), from the answer for the order before, in a few rounds.

Importing this module loads numba.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock.core.compiled import native

ROUNDS = 500
"""Of policy iteration, after which an order counts as stuck; a few are usual."""


class Facts(NamedTuple):
    """What one turn holds, as compiled loops take it: arrays over its ops, and ``begin`` of each rank in the lanes."""

    rank: Any
    stream: Any
    needed: Any
    lag: Any
    seconds: Any
    takes: Any
    frees: Any
    begin: Any


class State(NamedTuple):
    """An order that repeats, and the answer for it.

    ``lane`` holds the ops of a turn, rank after rank, and ``place`` where each stands. In turn t an op runs for the
    micro-batches of turn ``t - turn[op]``. ``start`` is when it does so in turn 0, ``cause`` the op that it waits for
    then, ``long`` after the start of that, which is ``later`` turns before. The rest is room: marks, a list, and the
    ring of causes that binds.
    """

    lane: Any
    place: Any
    turn: Any
    start: Any
    cause: Any
    long: Any
    later: Any
    mark: Any
    path: Any
    ring: Any


@native
def _slowest(cause: Any, long: Any, later: Any, mark: Any) -> Any:
    """An op on the slowest ring of causes, and its period; -1 where a ring takes no turn."""
    mark[:] = -1
    slowest, root = -1.0, -1
    for first in range(len(mark)):
        o = first
        while mark[o] < 0:
            mark[o] = first
            o = cause[o]
        if mark[o] != first:
            continue
        seconds, turns, v = long[o], later[o], cause[o]
        while v != o:
            seconds += long[v]
            turns += later[v]
            v = cause[v]
        if turns <= 0:
            return o, -1.0
        if seconds > slowest * turns:
            slowest, root = seconds / turns, o
    return root, slowest


@native
def _time(cause: Any, long: Any, later: Any, mark: Any, path: Any, start: Any, root: Any, period: Any) -> None:
    """Starts by present causes, ``root`` where it is."""
    mark[:] = 0
    mark[root] = 2
    for first in range(len(mark)):
        depth, o = 0, first
        while mark[o] == 0:
            mark[o] = 1
            path[depth] = o
            depth += 1
            o = cause[o]
        for k in range(depth - 1, -1, -1):
            o = path[k]
            if mark[cause[o]] == 2:
                start[o] = start[cause[o]] + long[o] - later[o] * period
            mark[o] = 2


@native
def _raise(work: Any, state: Any, period: Any, slack: Any) -> Any:
    """Start ops later where a period leaves them no time, and take what they wait for as their cause; whether any."""
    lane, _, turn, start, cause, long, later = state[:7]
    raised = False
    for r in range(len(work.begin) - 1):
        d = lane[work.begin[r + 1] - 1]
        for at in range(work.begin[r], work.begin[r + 1]):
            o = lane[at]
            for slot in range(3):
                turns = 1 if at == work.begin[r] else 0
                u, seconds = d, work.seconds[d]
                if slot < 2:
                    u = work.needed[o, slot]
                    if u < 0:
                        continue
                    seconds, turns = work.seconds[u] + work.lag[o, slot], turn[o] - turn[u]
                if start[u] + seconds - turns * period > start[o] + slack:
                    start[o] = start[u] + seconds - turns * period
                    cause[o], long[o], later[o] = u, seconds, turns
                    raised = True
            d = o
    return raised


@native
def _recall(work: Any, state: Any) -> None:
    """Causes as they were, as far as they are causes still; else the op before on the rank."""
    lane, _, turn, _, cause, long, later = state[:7]
    for r in range(len(work.begin) - 1):
        d = lane[work.begin[r + 1] - 1]
        for at in range(work.begin[r], work.begin[r + 1]):
            o = lane[at]
            u = cause[o]
            if u >= 0 and (work.needed[o, 0] == u or work.needed[o, 1] == u):
                slot = 0 if work.needed[o, 0] == u else 1
                long[o], later[o] = work.seconds[u] + work.lag[o, slot], turn[o] - turn[u]
            else:
                cause[o], long[o], later[o] = d, work.seconds[d], 1 if at == work.begin[r] else 0
            d = o


@native
def period_of(work: Any, state: Any, slack: Any) -> Any:
    """The period, and how many ops of ``ring`` bind it; -1 if the order cannot run.

    Starts and causes of ``state``, of any order before, are replaced by those of this one.
    """
    start, cause, long, later, mark, path, ring = state[3:]
    _recall(work, state)
    for _ in range(ROUNDS):
        root, period = _slowest(cause, long, later, mark)
        if period < 0:
            break
        _time(cause, long, later, mark, path, start, root, period)
        if not _raise(work, state, period, slack):
            length, o = 0, root
            while length == 0 or o != root:
                ring[length] = o
                length += 1
                o = cause[o]
            return period, length
    return -1.0, 0


@native
def swap(work: Any, state: Any, at: Any) -> None:
    """The op at a place of the lanes and the one that follows it on its rank, be it in the next turn, change places."""
    x = state.lane[at]
    r = work.rank[x]
    then = at + 1
    if then == work.begin[r + 1]:
        then = work.begin[r]
        state.turn[x] += 1
        state.turn[state.lane[then]] -= 1
    y = state.lane[then]
    state.lane[at], state.lane[then] = y, x
    state.place[x], state.place[y] = then, at


@native
def free(work: Any, state: Any, at: Any) -> Any:
    """Whether ``swap`` keeps the order of micro-batches and of an op and what needs it."""
    x = state.lane[at]
    r = work.rank[x]
    wraps = at + 1 == work.begin[r + 1]
    y = state.lane[work.begin[r] if wraps else at + 1]
    if work.stream[x] == work.stream[y]:
        return False
    if work.needed[y, 0] != x and work.needed[y, 1] != x:
        return True
    return state.turn[y] - state.turn[x] != (1 if wraps else 0)


@native
def fits(work: Any, state: Any, r: Any, most: Any) -> Any:
    """Whether a rank never holds more than ``most`` while turns follow each other."""
    held = 0.0
    for at in range(work.begin[r], work.begin[r + 1]):
        o = state.lane[at]
        held += state.turn[o] * (work.frees[o] - work.takes[o])
    for at in range(work.begin[r], work.begin[r + 1]):
        o = state.lane[at]
        held += work.takes[o]
        if held > most:
            return False
        held -= work.frees[o]
    return True
