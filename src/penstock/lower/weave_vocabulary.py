"""Where each rank comes to its vocabulary passes: the ranks played on clocks, each taking what is most urgent."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import warmed
from penstock.core.plan import Plan
from penstock.lower.score_vocabulary import COLLECTIVES, PASSES, Score
from penstock.lower.units import Units, ids_of

EARLY = 3
"""Micro-batches whose input is embedded before the first stage needs it."""
MOST_LATE = 2
"""Passes nobody waits for that a rank puts off at most; each keeps the logits or a gradient of a micro-batch."""
COMPILE_FROM_STARTED = 100_000
"""Units and passes to be started from which on the compiled loop is worth loading; on lists one takes about 3 us."""


@dataclass(frozen=True, eq=False)
class Woven:
    """What every rank started, and the collectives in their order.

    Args:
        order, block: the units, and where two of them are one block.
        started, start_s: per rank: places in ``order``, or -1 - the code of a pass; and when.
        called, called_s: codes of collectives, and when they began.
        row: per rank and code of a collective, the place in ``started`` of what gave to it; -1: nothing did.
        makespan_s: when the last rank is done.
    """

    order: NDArray[np.int64]
    block: NDArray[np.bool_]
    started: list[NDArray[np.int64]]
    start_s: list[NDArray[np.float64]]
    called: NDArray[np.int64]
    called_s: NDArray[np.float64]
    row: NDArray[np.int64]
    makespan_s: float


def weave(score: Score, order: NDArray[np.int64], block: NDArray[np.bool_]) -> Woven | None:
    """The order in which ranks come to units and passes; None if they cannot come to their end."""
    units, ranks = score.units, score.plan.placement.ranks
    lanes = np.searchsorted(units.rank, np.arange(ranks + 1))
    calls = int((score.ops[2] >= 0).sum()) + len(COLLECTIVES) * score.micros
    queue = calls + len(score.inputs)
    longest = int(np.diff(lanes).max(initial=0)) + queue
    state = _state(score, lanes, calls, queue, longest)
    loop = warmed(_walk, len(units) + len(PASSES) * score.micros * ranks, COMPILE_FROM_STARTED)
    plain = loop is _walk
    given = [order, block, _takes(score, order, block), lanes[1:], units.begin, units.end, _unit_of(units, score.plan)]
    tables = [*map(np.array, score.passes.rules), *score.prices, score.inputs]
    groups = (given, [*score.ops, score.after], tables, state)
    sizes = (ranks, score.micros, len(score.ops[4]) // max(1, len(score.plan)), queue, longest)
    listed = [tuple(values.tolist() if plain else values for values in group) for group in groups]
    loop(sizes, *listed)
    at, count, called, free, called_s, start_s, started, row = (np.array(values) for values in listed[-1][:8])
    if (at < lanes[1:]).any():
        return None
    rows = [slice(rank * longest, rank * longest + int(count[rank])) for rank in range(ranks)]
    done = [started[one] for one in rows], [start_s[one] for one in rows]
    made = int(count[ranks])
    return Woven(order, block, *done, called[:made], called_s[:made], row.reshape(ranks, -1), float(free.max()))


def _state(score: Score, lanes: NDArray[np.int64], calls: int, queue: int, longest: int) -> list[NDArray[Any]]:
    """What ``_walk`` changes, before its first event. Of ``count``, the last entry is that of collectives."""
    ranks, codes = len(lanes) - 1, len(COLLECTIVES) * score.micros
    whole = lanes[:-1].copy(), *(np.zeros(n, dtype=np.int64) for n in (ranks + 1, calls))
    times = (np.zeros(n) for n in (ranks, calls, ranks * longest))
    started, row = np.zeros(ranks * longest, dtype=np.int64), np.full(ranks * codes, -1)
    ends = np.full(len(score.plan), np.inf), np.full(codes, np.inf)
    gifts = np.zeros(codes, dtype=np.int64), np.zeros(codes)
    queues = (np.zeros(n, dtype=np.int64) for n in (3, 3 * ranks, 3 * queue, 3 * queue))
    return [*whole, *times, started, row, *ends, *gifts, *queues, np.zeros(3 * queue)]


def _takes(score: Score, order: NDArray[np.int64], block: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Seconds of the unit or block that begins at each place of an order."""
    kind, stage, _ = score.plan.ops[score.units.end[order] - 1].T
    seconds = score.costs.seconds[kind, stage]
    takes: NDArray[np.float64] = np.where(block, score.costs.fused_s(seconds, np.roll(seconds, -1)), seconds)
    return takes


def _unit_of(units: Units, plan: Plan) -> NDArray[np.int64]:
    """Unit of each op id; -1 behind the last one of a lane."""
    found = np.full(len(plan), -1)
    found[ids_of(units.begin, units.end)] = np.repeat(np.arange(len(units)), units.end - units.begin)
    return found


def _walk(sizes: Any, lanes: Any, ops: Any, passes: Any, state: Any) -> None:
    """Events in order of time: ranks look for work, or a collective has all it needs. Plain Python that numba also
    compiles.

    An event is a time, its number, a rank (-1: all of them) and the code of a collective (-1: none). A rank that looks
    starts what is most urgent: what all ranks wait for, then its lane, then what nobody waits for and ends before the
    lane goes on, as far as one can tell; nothing runs that is not released, and ranks take passes of one queue in the
    order in which they are.
    """
    ranks, micros, slots, longest, most = sizes
    order, block, takes, stop, begin, end, unit_of = lanes
    rank_of, waits, gives, feeds, needed, after_first, after = ops
    summed, queue, follower, pass_s, link_s, hop_s, inputs = passes
    at, count, called, free, called_s, start_s, started, row = state[:8]
    end_s, came_s, given, given_s, released, taken, release, release_nth, release_s = state[8:]
    busy_s = 0.0
    nth = min(EARLY, len(inputs)) + 1
    events = [(0.0, 0, -1, -1)]
    for k in range(nth - 1):
        release[k] = 2 * micros + inputs[k]
        release_nth[k] = k
        events.append((0.0, k + 1, -1, -1))
    released[0] = nth - 1
    while len(events) > 0:
        now, _, who, what = heappop(events)
        if what >= 0:
            called[count[ranks]] = what
            called_s[count[ranks]] = max(now, busy_s)
            busy_s = came_s[what] = max(now, busy_s) + link_s[what // micros]
            count[ranks] += 1
            kind = follower[what // micros]
            if kind >= 0:
                q = queue[kind]
                k = q * longest + released[q]
                release[k], release_nth[k], release_s[k] = kind * micros + what % micros, nth, busy_s
                released[q] += 1
                heappush(events, (busy_s, nth, -1, -1))
                nth += 1
            heappush(events, (busy_s, nth, -1, -1))
            nth += 1
            continue
        for r in range(max(who, 0), who + 1 if who >= 0 else ranks):
            if now < free[r]:
                continue
            x = at[r]
            arrives = np.inf
            size = 0
            if x < stop[r]:
                arrives = 0.0
                size = 2 if block[x] else 1
                for y in range(x, x + size):
                    for o in range(begin[order[y]], end[order[y]]):
                        for slot in range(o * slots, o * slots + slots):
                            d = needed[slot]
                            if d < 0:
                                continue
                            u = unit_of[d]
                            if u != order[x] and u != order[x + size - 1]:
                                arrives = max(arrives, end_s[d] + hop_s[rank_of[d] * ranks + r])
                        if waits[o] >= 0:
                            arrives = max(arrives, came_s[waits[o]])
            head = -1
            for q in range(2):
                k = q * longest + taken[q * ranks + r]
                due = k < q * longest + released[q] and release_s[k] <= now
                if due and (head < 0 or (release_s[k], release_nth[k]) < (release_s[head], release_nth[head])):
                    head = k
            if head < 0:
                k = 2 * longest + taken[2 * ranks + r]
                waiting = released[2] - taken[2 * ranks + r]
                if waiting > 0 and release_s[k] <= now:
                    ends = now + pass_s[release[k] // micros * ranks + r]
                    if waiting > MOST_LATE or now < arrives >= ends:
                        head = k
            if head < 0 and arrives > now:
                if arrives < np.inf:
                    heappush(events, (arrives, nth, r, -1))
                    nth += 1
                continue
            place = r * most + count[r]
            start_s[place] = now
            if head >= 0:
                work = release[head]
                taken[head // longest * ranks + r] += 1
                started[place] = -1 - work
                free[r] = now + pass_s[work // micros * ranks + r]
            else:
                started[place] = x
                at[r] = x + size
                free[r] = now + takes[x]
            heappush(events, (free[r], nth, r, -1))
            nth += 1
            if head >= 0 and summed[work // micros] >= 0:
                c = summed[work // micros] * micros + work % micros
                row[r * len(given) + c] = count[r]
                given[c] += 1
                given_s[c] = max(given_s[c], free[r])
                if given[c] == ranks:
                    heappush(events, (given_s[c], nth, -1, c))
                    nth += 1
            for y in range(x, x + size if head < 0 else x):
                for o in range(begin[order[y]], end[order[y]]):
                    end_s[o] = free[r]
                    for k in range(after_first[o], after_first[o + 1]):
                        heappush(events, (free[r] + hop_s[r * ranks + after[k]], nth, after[k], -1))
                        nth += 1
                    if gives[o] >= 0:
                        row[r * len(given) + gives[o]] = count[r]
                        heappush(events, (free[r], nth, -1, gives[o]))
                        nth += 1
                    if feeds[o] and released[0] < len(inputs):
                        k = released[0]
                        release[k], release_nth[k], release_s[k] = 2 * micros + inputs[k], nth, now
                        released[0] += 1
                        heappush(events, (now, nth, -1, -1))
                        nth += 1
            count[r] += 1
