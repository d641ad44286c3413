"""Moves on an order: one op passes others of its rank, and the times of what follows are mended.

All ops stand in one sequence, each behind what it needs, so that no move can make ranks wait for each other in a ring:
to put an op before another, whatever it needs that stands between goes ahead too, and where that is impossible the move
is refused. Importing this module loads numba.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock.core.compiled import native


class Facts(NamedTuple):
    """What there is to do, as compiled loops take it; the arrays of ``Work``. ``seconds`` may have one column per draw
    of what ops take, shape (ops, draws), and then so have the times in ``State``."""

    rank: Any
    stream: Any
    needed: Any
    lag: Any
    wakes: Any
    seconds: Any
    takes: Any
    frees: Any


class State(NamedTuple):
    """An order: all ops in one sequence, where each stands in it, its neighbours on its rank (-1: none), the ends of
    each rank, what its rank holds before it, when it starts; and room for marks and for the way back."""

    sequence: Any
    place: Any
    before: Any
    after: Any
    first: Any
    last: Any
    held: Any
    start: Any
    marked: Any
    window: Any
    changed: Any
    old: Any


@native
def target(work: Any, state: Any, most: Any, x: Any, left: Any, steps: Any) -> Any:
    """The op of its rank that ``x`` moves before (``left``) or behind: so many steps away, as far as needs, the order
    of micro-batches and memory allow; ``x`` itself if none."""
    change = work.takes[x] - work.frees[x]
    y = x
    for _ in range(steps):
        z = state.before[y] if left else state.after[y]
        if z < 0 or work.stream[z] == work.stream[x]:
            break
        user, maker = (x, z) if left else (z, x)
        if work.needed[user, 0] == maker or work.needed[user, 1] == maker:
            break
        shifted = state.held[z] + (change if left else -change)
        if shifted + work.takes[z] > most:
            break
        mine = state.held[z] if left else shifted + work.takes[z] - work.frees[z]
        if mine + work.takes[x] > most:
            break
        y = z
    return y


@native
def _rearrange(work: Any, state: Any, x: Any, y: Any, left: Any) -> Any:
    """Put ``x`` before or behind ``y`` in the sequence, with all that must go with it; whether that is possible."""
    low, high = (state.place[y], state.place[x]) if left else (state.place[x], state.place[y])
    sequence, place, marked = state.sequence, state.place, state.marked
    marked[x] = True
    for k in range(high - low + 1):
        q = high - k if left else low + k
        o = sequence[q]
        state.window[q] = o
        if not marked[o]:
            continue
        with_it = work.needed if left else work.wakes
        for slot in range(with_it.shape[1]):
            d = with_it[o, slot]
            if d >= 0 and low <= place[d] <= high:
                marked[d] = True
        neighbour = state.before[o] if left else state.after[o]
        if o != x and neighbour >= 0 and low <= place[neighbour] <= high:
            marked[neighbour] = True
    possible = not marked[y]
    if possible:
        at = low
        for pick in (left, not left):
            for q in range(low, high + 1):
                o = state.window[q]
                if marked[o] == pick:
                    sequence[at] = o
                    place[o] = at
                    at += 1
    for q in range(low, high + 1):
        marked[state.window[q]] = False
    return possible


@native
def _relink(work: Any, state: Any, x: Any, y: Any, left: Any) -> None:
    """Make ``x`` the neighbour of ``y`` on its rank, before or behind it, and correct what is held on the way."""
    before, after, held, r = state.before, state.after, state.held, work.rank[x]
    change = work.takes[x] - work.frees[x]
    z = y
    while z != x:
        held[z] += change if left else -change
        z = after[z] if left else before[z]
    held[x] = held[y] - change if left else held[y] + work.takes[y] - work.frees[y]
    b, a = before[x], after[x]
    if b >= 0:
        after[b] = a
    else:
        state.first[r] = a
    if a >= 0:
        before[a] = b
    else:
        state.last[r] = b
    b, a = (before[y], y) if left else (y, after[y])
    before[x], after[x] = b, a
    if b >= 0:
        after[b] = x
    else:
        state.first[r] = x
    if a >= 0:
        before[a] = x
    else:
        state.last[r] = x


@native
def _restarts(start: Any, old: Any, at: Any, needed: Any, lag: Any, seconds: Any, o: Any, b: Any) -> Any:
    """Time an op behind ``b`` again in all draws; whether a start changes, and then ``old[at]`` has what they were."""
    draws = start.shape[1]
    for k in range(draws):
        old[at, k] = start[b, k] + seconds[b, k] if b >= 0 else 0.0
    for slot in range(needed.shape[1]):
        d = needed[o, slot]
        if d >= 0:
            for k in range(draws):
                old[at, k] = max(old[at, k], start[d, k] + seconds[d, k] + lag[o, slot])
    changes = False
    for k in range(draws):
        changes |= old[at, k] != start[o, k]
    if changes:
        for k in range(draws):
            old[at, k], start[o, k] = start[o, k], old[at, k]
    return changes


@native
def _retime(start: Any, old: Any, seconds: Any, work: Any, state: Any, at: Any, x: Any, other: Any) -> Any:
    """Time again what a move changes, from a place of the sequence on; how many ops start at another time, in any draw.

    ``start``, ``old`` and ``seconds`` are those of ``state`` and ``work``: of an argument's number of axes numba
    compiles one branch."""
    late, sequence, before, after, needed, lag, wakes = (
        *(state.marked, state.sequence, state.before, state.after),
        *(work.needed, work.lag, work.wakes),
    )
    waiting = changed = 0
    for o in (x, after[x], other):
        if o >= 0 and not late[o]:
            late[o] = True
            waiting += 1
    while waiting:
        o = sequence[at]
        at += 1
        if not late[o]:
            continue
        late[o] = False
        waiting -= 1
        b = before[o]
        if start.ndim == 1:
            new = start[b] + seconds[b] if b >= 0 else 0.0
            for slot in range(needed.shape[1]):
                d = needed[o, slot]
                if d >= 0:
                    new = max(new, start[d] + seconds[d] + lag[o, slot])
            if new == start[o]:
                continue
            old[changed], start[o] = start[o], new
        else:
            if not _restarts(start, old, changed, needed, lag, seconds, o, b):
                continue
        state.changed[changed] = o
        changed += 1
        for u in (after[o], wakes[o, 0], wakes[o, 1]):
            if u >= 0 and not late[u]:
                late[u] = True
                waiting += 1
    return changed


@native
def move(work: Any, state: Any, x: Any, y: Any, left: Any) -> Any:
    """Let ``x`` pass its rank's ops up to ``y``: what ``undo`` needs to know, the last of it -1 if it is impossible."""
    low, high = (state.place[y], state.place[x]) if left else (state.place[x], state.place[y])
    if not _rearrange(work, state, x, y, left):
        return x, left, low, high, -1
    follower = state.after[x]
    neighbour = state.before[x] if left else follower
    _relink(work, state, x, y, left)
    return neighbour, left, low, high, _retime(state.start, state.old, work.seconds, work, state, low, x, follower)


@native
def undo(work: Any, state: Any, x: Any, done: Any) -> None:
    """Take back the last move of ``x``, which gave ``done``."""
    neighbour, left, low, high, changed = done
    for k in range(changed):
        state.start[state.changed[k]] = state.old[k]
    for q in range(low, high + 1):
        state.sequence[q] = state.window[q]
        state.place[state.window[q]] = q
    _relink(work, state, x, neighbour, not left)
