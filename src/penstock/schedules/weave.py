"""Weight gradients woven into the waits of given forwards and input gradients, at given costs and limits.

An *order* says in which sequence each rank runs its ``F`` and ``I``; where its ``W`` go depends on how long it waits.
A ``W`` that fits a wait costs nothing; one that does not fit delays what follows, and not to run it leaves the rank
idle. The *weaver* plays an order, puts ``W`` where they fit, where memory needs them and, by two dials, where a rank
has idled enough. The idea is that of the automatic scheduler of Qi et al. 2023, arXiv:2401.10241, here with the costs
of each stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.problem import KINDS, Order, Problem


class Weaver:
    """Plays orders of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.sync = problem, problem.task.objective == "sync"
        ranks, stages, micros, length = problem.sizes
        of = problem.array
        self._limit = of(problem.limit * (1 + 1e-9))
        self._state = tuple(of(np.zeros(ranks)) for _ in range(4))
        self._count = tuple(
            of(np.zeros(n, dtype=np.int64)) for n in (ranks, ranks, ranks, ranks, stages, stages, stages)
        )
        self._ends = of(np.zeros(stages * micros)), of(np.zeros(stages * micros))
        self._queue, self._out = (of(np.zeros(ranks * n, dtype=np.int64)) for n in (length // 2, length * 3 // 2))

    def play(self, order: Order, budget: Any, share: float) -> tuple[float, float]:
        """The makespan or span that an order has, infinite if it cannot run.

        Args:
            order: where it holds ``W`` too they stay where they are, and the dials mean nothing.
            budget: seconds that each rank may idle before it runs a ``W`` that does not fit a wait; a negative number
                stands for what the rank has idled so far that has idled most.
            share: part of a ``W`` that a wait must have for it to be run there in any case.
        """
        found: tuple[float, float] = self.problem.loop(
            weave,
            (*self.problem.sizes, len(order) // self.problem.sizes[0], self.sync, share, self.problem.slack_s),
            self.problem.prices,
            (self._limit, budget),
            order,
            (*self._state, *self._count, *self._ends, self._queue),
            self._out,
        )
        return found

    def unbeaten(self, seconds: float) -> bool:
        """Whether no order can take less."""
        return seconds <= self.problem.bound_s + self.problem.slack_s

    def woven(self) -> Order:
        """The order last played, with its ``W``."""
        return self._out.copy()

    def waits(self) -> Iterator[tuple[int, int, int]]:
        """What the rank that takes longest waited for, the last first: kind, position in the chain, micro-batch."""
        clock, begin = np.array(self._state[0]), np.array(self._state[3])
        rank = int(np.argmax(clock if self.sync else clock - begin))
        rows = self.lanes()[rank]
        kind, stage = np.searchsorted(KINDS, rows[:, 0]), np.argsort(self.problem.chain)[rows[:, 1]]
        took = self.problem.seconds[kind, stage]
        held = np.flatnonzero(kind < 2)
        end = np.array(self._ends)[kind[held], stage[held] * self.problem.sizes[2] + rows[held, 2]]
        idle = np.diff(end - np.cumsum(took)[held])
        for at in held[1:][idle > self.problem.slack_s][::-1].tolist():
            yield int(kind[at]), int(stage[at]), int(rows[at, 2])

    def lanes(self) -> list[NDArray[np.int64]]:
        """Rows of kind, stage and micro-batch of each rank, as last played."""
        ranks, _, micros, _ = self.problem.sizes
        codes = np.array(self._out).reshape(ranks, -1)
        number = np.empty_like(codes)
        for rank in range(ranks):
            for code in np.unique(codes[rank]):
                number[rank, codes[rank] == code] = np.arange(micros)
        rows = np.stack([np.array(KINDS)[codes % 4], self.problem.chain[codes // 4], number], axis=2)
        return list(rows)


def weave(sizes: Any, prices: Any, room: Any, order: Any, state: Any, out: Any) -> tuple[float, float]:
    """Play an order and write all op codes to ``out``, lane after lane; plain Python that numba also compiles."""
    ranks, stages, micros, places, length, sync, share, slack = sizes
    rank_of, f_s, i_s, w_s, up_s, down_s, saved, kept = prices
    limit, budget = room
    clock, idle, held, begin, at, tail, head, stack, f_done, i_done, w_done, f_end, i_end, queue = state
    longest, half = places * 3 // 2, places // 2
    woven = length == places
    for r in range(ranks):
        clock[r] = idle[r] = held[r] = 0.0
        at[r] = tail[r] = head[r] = 0
        stack[r] = ranks - 1 - r
    for s in range(stages):
        f_done[s] = i_done[s] = w_done[s] = 0
    awake, left = ranks, ranks * length
    most_idle = 0.0
    while awake:
        awake -= 1
        r = stack[awake]
        while at[r] < length:
            code = order[r * length + at[r]]
            s = code // 4
            arrival = 0.0
            if code % 4 == 0:
                i = f_done[s]
                if s > 0:
                    if f_done[s - 1] <= i:
                        break
                    arrival = f_end[(s - 1) * micros + i] + up_s[s - 1]
            elif code % 4 == 2:
                i = w_done[s]
                if i_done[s] <= i:
                    return math.inf, math.inf
            else:
                i = i_done[s]
                if f_done[s] <= i:
                    return math.inf, math.inf
                if s < stages - 1:
                    if i_done[s + 1] <= i:
                        break
                    arrival = i_end[(s + 1) * micros + i] + down_s[s + 1]
            while head[r] < tail[r]:
                late = queue[r * half + head[r]]
                gap = arrival - clock[r]
                full = code % 4 == 0 and held[r] + saved[s] > limit[r]
                fits = gap > slack and w_s[late] <= gap + slack
                enough = gap > slack and (
                    idle[r] + gap > (budget[r] if budget[r] >= 0 else most_idle) + slack or gap > share * w_s[late]
                )
                if not (full or fits or enough):
                    break
                out[r * longest + at[r] + head[r]] = 4 * late + 2
                head[r] += 1
                clock[r] += w_s[late]
                held[r] -= kept[late]
            if code % 4 == 0 and held[r] + saved[s] > limit[r]:
                return math.inf, math.inf
            start = max(arrival, clock[r])
            if at[r] > 0:
                idle[r] += start - clock[r]
                most_idle = max(most_idle, idle[r])
            else:
                begin[r] = start
                idle[r] = start if sync else 0.0
            out[r * longest + at[r] + head[r]] = code
            at[r] += 1
            left -= 1
            if code % 4 == 0:
                clock[r] = f_end[s * micros + i] = start + f_s[s]
                f_done[s] += 1
                held[r] += saved[s]
                other = rank_of[s + 1] if s < stages - 1 else r
            elif code % 4 == 2:
                clock[r] = start + w_s[s]
                w_done[s] += 1
                held[r] -= kept[s]
                other = r
            else:
                clock[r] = i_end[s * micros + i] = start + i_s[s]
                i_done[s] += 1
                held[r] -= saved[s] - kept[s]
                if woven:
                    queue[r * half + tail[r]] = s
                    tail[r] += 1
                other = rank_of[s - 1] if s > 0 else r
            if other != r:
                waits = True
                for n in range(awake):
                    if stack[n] == other:
                        waits = False
                if waits:
                    stack[awake] = other
                    awake += 1
    if left:
        return math.inf, math.inf
    longest_s = total_s = 0.0
    for r in range(ranks):
        while head[r] < tail[r]:
            late = queue[r * half + head[r]]
            out[r * longest + length + head[r]] = 4 * late + 2
            head[r] += 1
            clock[r] += w_s[late]
        took_s = clock[r] if sync else clock[r] - begin[r]
        longest_s = max(longest_s, took_s)
        total_s += took_s
    return longest_s, total_s / ranks
