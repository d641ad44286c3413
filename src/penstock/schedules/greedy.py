"""Orders found by a dispatcher: whichever rank is free next takes what it prefers, looking one message ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.problem import Order, Problem

TARGETS = (0.0, 1.1, math.inf)
"""Times in which ranks try to end, relative to the busiest one's work: the less, the sooner they stop waiting."""


def greedy_orders(problem: Problem, guide: NDArray[Any]) -> Iterator[Order]:
    """Orders of several dispatchers: gradients first, forwards first, or as near as can be to a given order.

    None deadlocks: a rank always leaves room for the later stages of the micro-batches that it lets in.

    Args:
        guide: order to stay near to, op codes of shape (ranks, length).
    """
    caps = _caps(problem)
    dials = [*product(caps, _simple(problem), TARGETS), *product(caps[:1], [_places(problem, guide)], TARGETS)]
    for most, wish, target in dials:
        order = _dispatched(problem, most, wish, target)
        if order is not None:
            yield order


def _dispatched(problem: Problem, most: NDArray[Any], wish: NDArray[Any], target: float) -> Order | None:
    """One order, where all ranks may idle until they reach the busiest one's work times ``target``."""
    ranks, stages, micros, length = problem.sizes
    of = problem.array
    count = [of(np.zeros(n, dtype=np.int64)) for n in (*[ranks] * 3, *[stages] * 2)]
    ends = [of(np.zeros(stages * micros)) for _ in range(2)]
    state = (*(of(np.zeros(ranks)) for _ in range(4)), *count, *ends, of(np.zeros(ranks * length // 2, np.int64)))
    order = of(np.zeros(ranks * length, dtype=np.int64))
    work = problem.work_s
    budget = of(np.full(ranks, math.inf) if target == math.inf else target * work.max() - work)
    sizes = (*problem.sizes, problem.slack_s)
    done = problem.loop(dispatch, sizes, problem.prices, (*_room(problem), of(most), budget), of(wish), state, order)
    return order if done else None


def _simple(problem: Problem) -> list[NDArray[np.int64]]:
    """Gradients first, then forwards first; of several chunks the later one."""
    _, stages, micros, _ = problem.sizes
    later_first = np.repeat(np.arange(stages)[::-1], micros).reshape(stages, micros)
    return [np.stack([later_first + stages, later_first]), np.stack([later_first, later_first + stages])]


def _places(problem: Problem, guide: NDArray[Any]) -> NDArray[np.int64]:
    """Where each forward and gradient stands in its lane."""
    _, stages, micros, _ = problem.sizes
    place = np.zeros((2, stages, micros), dtype=np.int64)
    for lane in guide:
        for code in np.unique(lane):
            place[code % 4, code // 4] = np.flatnonzero(lane == code)
    return place


def _caps(problem: Problem) -> list[NDArray[np.int64]]:
    """Most micro-batches under way per stage; none to bound those after the first stage of a rank."""
    ranks, stages, micros, _ = problem.sizes
    fit = float((problem.limit / np.maximum(problem.rank_bytes, 1e-300)).min())
    fit = min(fit, float(micros)) * (stages // ranks)
    steep = 2.0 * np.arange(ranks, 0, -1) - 1
    caps = [np.full(ranks, np.inf), steep, *(np.full(ranks, part * fit) for part in (0.25, 0.5, 0.75))]
    open_end = [micros] * (stages - ranks)
    return [np.r_[np.clip(cap, 1, micros), open_end].astype(np.int64) for cap in caps]


def _room(problem: Problem) -> tuple[Any, Any, Any]:
    """Limit of each rank, bytes a forward must leave free for later stages of its rank, stages of each rank."""
    saved, rank_of = problem.size[0], problem.rank_of
    reserve = [saved[s + 1 :][rank_of[s + 1 :] == rank].sum() for s, rank in enumerate(rank_of)]
    by_rank = np.argsort(rank_of, kind="stable")
    return problem.array(problem.limit * (1 + 1e-9)), problem.array(reserve), problem.array(by_rank)


def dispatch(sizes: Any, prices: Any, room: Any, wish: Any, state: Any, order: Any) -> bool:
    """Run ops in order of time and write those that are not ``W`` to ``order``; plain Python that numba also compiles.

    ``wake`` is when a rank may look again; a message on its way wakes its receiver as soon as it is known.
    """
    ranks, stages, micros, length, slack = sizes
    rank_of, f_s, i_s, w_s, up_s, down_s, saved, kept = prices
    limit, reserve, held_by, most, budget = room
    clock, wake, idle, held, at, head, tail, f_done, i_done, f_end, i_end, queue = state
    half, chunks = length // 2, stages // ranks
    left = ranks * length
    while left:
        r = 0
        for q in range(1, ranks):
            if wake[q] < wake[r]:
                r = q
        if wake[r] == math.inf:
            return False
        now = max(wake[r], clock[r])
        ready = -1
        ready_wish = 4 * stages * micros
        for c in range(chunks):
            s = held_by[r * chunks + c]
            i = i_done[s]
            if i < f_done[s] and wish[(stages + s) * micros + i] < ready_wish:
                arrival = f_end[s * micros + i]
                if s < stages - 1:
                    arrival = i_end[(s + 1) * micros + i] + down_s[s + 1] if i_done[s + 1] > i else math.inf
                if arrival <= now + slack:
                    ready, ready_wish = 4 * s + 1, wish[(stages + s) * micros + i]
            i = f_done[s]
            fits = i < micros and i - i_done[s] < most[s] and held[r] + saved[s] + reserve[s] <= limit[r]
            if fits and wish[s * micros + i] < ready_wish:
                arrival = 0.0
                if s > 0:
                    arrival = f_end[(s - 1) * micros + i] + up_s[s - 1] if f_done[s - 1] > i else math.inf
                if arrival <= now + slack:
                    ready, ready_wish = 4 * s, wish[s * micros + i]
        soon = math.inf
        for c in range(chunks):
            s = held_by[r * chunks + c]
            i = i_done[s]
            if i < f_done[s] and wish[(stages + s) * micros + i] < ready_wish and s < stages - 1 and i_done[s + 1] > i:
                soon = min(soon, i_end[(s + 1) * micros + i] + down_s[s + 1])
            i = f_done[s]
            fits = i < micros and i - i_done[s] < most[s] and held[r] + saved[s] + reserve[s] <= limit[r]
            if fits and wish[s * micros + i] < ready_wish and s > 0 and f_done[s - 1] > i:
                soon = min(soon, f_end[(s - 1) * micros + i] + up_s[s - 1])
        late = queue[r * half + head[r]] if head[r] < tail[r] else -1
        wait = soon - now
        code = -1
        if ready >= 0:
            needs_s = f_s[ready // 4] if ready % 4 == 0 else i_s[ready // 4]
            if wait == math.inf or needs_s <= wait + slack or idle[r] + wait > budget[r]:
                code = ready
            elif late >= 0 and w_s[late] <= wait + slack:
                code = 4 * late + 2
        elif late >= 0 and (w_s[late] <= wait + slack or idle[r] + wait > budget[r]):
            code = 4 * late + 2
        if code < 0:
            wake[r] = soon
            continue
        s = code // 4
        if at[r] > 0:
            idle[r] += now - clock[r]
        other = r
        if code % 4 == 0:
            clock[r] = f_end[s * micros + f_done[s]] = now + f_s[s]
            f_done[s] += 1
            held[r] += saved[s]
            other = rank_of[s + 1] if s < stages - 1 else r
        elif code % 4 == 1:
            clock[r] = i_end[s * micros + i_done[s]] = now + i_s[s]
            i_done[s] += 1
            held[r] -= saved[s] - kept[s]
            queue[r * half + tail[r]] = s
            tail[r] += 1
            other = rank_of[s - 1] if s > 0 else r
        else:
            clock[r] = now + w_s[s]
            held[r] -= kept[s]
            head[r] += 1
        if code % 4 < 2:
            order[r * length + at[r]] = code
            at[r] += 1
            left -= 1
        wake[r] = clock[r]
        wake[other] = min(wake[other], max(clock[other], now))
    return True
