"""Orders that repeat: the passes of one micro-batch at times that collide with none of those before and after it.

This is modulo scheduling (Rau 1994, doi:10.1145/192724.192731) of the building block that Qi et al. 2024
(arXiv:2405.15362) lay out by hand for equal times: every pass starts as soon as what it needs is there and its rank is
free in every period. The shorter the period, the less a rank idles; the longer, the fewer micro-batches are alive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import Run
from penstock.schedules.task import Task
from penstock.schedules.work import Work, in_turn
from penstock.search.repeat import Kernel, kernel_of, turn_of

STRETCHES = (*np.linspace(1.0, 1.5, 41).tolist(), *np.geomspace(1.6, 16.0, 20).tolist())
"""Periods that are tried, in times of the busiest rank's work for one micro-batch."""
TAKEN = 4
"""Orders that keep the limit, the shortest periods first; more are not looked for."""
EACH = 3, 1, 3, 2
"""Micro-batches of a chain per turn, from one search for an order that repeats to the next."""
CUTS = 12
"""Places at which an order is looked through for a turn."""
SLACK = 1e-9
"""Share of a period that counts as none."""


def kernels(task: Task, work: Work) -> list[NDArray[np.int64]]:
    """Orders that keep the limit, of the shortest periods that have one."""
    busiest = float(np.bincount(work.rank, work.seconds).max()) / task.micros
    kind, stage, micro = work.codes.T
    row, found = np.searchsorted(KINDS, kind), list[NDArray[np.int64]]()
    for period in (stretch * busiest for stretch in STRETCHES):
        for early in (False, True):
            start_s = _starts(task, period, early)
            if start_s is None:
                continue
            order = in_turn(task, work, start_s[row, stage] + period * micro)
            if work.fits(order):
                found.append(order)
        if len(found) >= TAKEN:
            break
    return found


def shortest(task: Task, each: int = 1) -> Kernel | None:
    """The order of the shortest period that keeps the limit, if any does; always the same ``each`` times per turn.

    Args:
        task: what there is to do.
        each: micro-batches of every chain per turn.
    """
    work = turn_of(task, each)
    kind, stage, micro = work.codes.T
    row, number = np.searchsorted(KINDS, kind), micro % each
    busiest = float(np.bincount(work.rank, work.seconds).max()) / each
    for period in (stretch * busiest for stretch in STRETCHES):
        for early in (False, True):
            start_s = _starts(task, period, early)
            if start_s is not None:
                found = kernel_of(task, each, start_s[row, stage] + period * number, period * each)
                if found is not None:
                    return found
    return None


def cut(task: Task, work: Work, run: Run) -> dict[int, Kernel]:
    """Turns that an order repeats, or could.

    Args:
        task, work: what there is to do.
        run: an order of it.

    Returns:
        By micro-batches of a chain per turn, the fastest that keeps the limit; none where none does.
    """
    found = {each: turn_in(task, work, run, each) for each in sorted({*EACH})}
    return {each: kernel for each, kernel in found.items() if kernel is not None}


def turn_in(task: Task, work: Work, run: Run, each: int) -> Kernel | None:
    """What an order does with so many micro-batches of a chain in the middle, again and again: of several places the
    fastest that keeps the limit, if any does."""
    each_chain, found = task.micros // task.placement.chains, list[Kernel]()
    if 4 * each > each_chain:
        return None
    start_s = np.zeros((len(KINDS), task.placement.stages, task.micros))
    kind, stage, micro = work.codes.T
    start_s[np.searchsorted(KINDS, kind), stage, micro] = run.start_s
    unit = turn_of(task, each)
    row, place, number = np.searchsorted(KINDS, unit.codes[:, 0]), unit.codes[:, 1], unit.codes[:, 2]
    entered = number % each + number // each * each_chain
    for first in np.linspace(each_chain // 4, each_chain - 2 * each, CUTS).astype(int).tolist():
        times = start_s[row, place, first + entered]
        turn_s = float((start_s[row, place, first + each + entered] - times).mean())
        kernel = kernel_of(task, each, times - times.min(), turn_s) if turn_s > 0 else None
        if kernel is not None:
            found.append(kernel)
    return min(found, key=lambda one: one.turn_s, default=None)


def one_by_one(task: Task, work: Work) -> NDArray[np.int64]:
    """The order in which a micro-batch starts when the one before is done: no order needs less memory."""
    kind, stage, micro = work.codes.T
    start_s = alone(task)
    return in_turn(task, work, start_s[np.searchsorted(KINDS, kind), stage] + (2 * float(start_s.max()) + 1.0) * micro)


def alone(task: Task) -> NDArray[np.float64]:
    """When F, I and W of each stage start for a micro-batch that nothing keeps waiting, shape (3, stages)."""
    start_s = _starts(task, np.inf, early=True)
    assert start_s is not None
    return start_s


def _starts(task: Task, period: float, early: bool) -> NDArray[np.float64] | None:
    """When F, I and W of each stage start for the first micro-batch, shape (3, stages); ``None`` if a rank has no room.

    Args:
        period: seconds between micro-batches.
        early: place each ``W`` before the gradients of earlier stages, rather than after them all.
    """
    place, costs = task.placement, task.costs
    start_s = np.zeros((3, place.stages))
    ranks = [_Rank(period) for _ in range(place.ranks)]

    def put(row: int, stage: int, ready_s: float) -> bool:
        at = ranks[place.rank_of[stage]].put(ready_s, float(costs.seconds[KINDS[row], stage]))
        start_s[row, stage] = np.inf if at is None else at
        return at is not None

    def after(row: int, stage: int, before: int) -> float:
        end = start_s[row, before] + costs.seconds[KINDS[row], before]
        return float(end + costs.hop_s[place.rank_of[before], place.rank_of[stage]])

    onward = sorted(range(place.stages), key=lambda s: place.depth_of[s])
    for s in onward:
        if not put(0, s, 0.0 if place.prev[s] < 0 else after(0, s, place.prev[s])):
            return None
    for s in reversed(onward):
        ready = start_s[0, s] + costs.seconds[Kind.F, s] if place.next[s] < 0 else after(1, s, place.next[s])
        if not put(1, s, ready) or (early and not put(2, s, start_s[1, s] + costs.seconds[Kind.I, s])):
            return None
    if not early and not all(put(2, s, start_s[1, s] + costs.seconds[Kind.I, s]) for s in reversed(onward)):
        return None
    return start_s


class _Rank:
    """When a rank is busy in every period."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.busy: list[tuple[float, float]] = []
        """Phase and seconds."""

    def put(self, ready_s: float, seconds: float) -> float | None:
        """Take the first time from ``ready_s`` on that is free in every period; ``None`` if none is."""
        if self.period == np.inf or not seconds:
            return ready_s
        slack = SLACK * self.period
        for wait in sorted([0.0, *((phase + long - ready_s) % self.period for phase, long in self.busy)]):
            at = ready_s + wait
            gaps = (((phase - at + slack) % self.period, long) for phase, long in self.busy)
            if all(gap >= seconds and gap + long <= self.period + 2 * slack for gap, long in gaps):
                self.busy.append((at % self.period, seconds))
                return at
        return None
