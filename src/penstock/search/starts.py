"""Where a search begins: named schedules of a placement, and micro-batches sent off at even intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import COMPUTE, Kind
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.lower import split_backward
from penstock.schedules import SCHEDULES, build
from penstock.schedules.problem import KINDS
from penstock.schedules.task import Task, reads_costs
from penstock.schedules.work import Work

STRETCHES = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)
"""Intervals that are tried, in times of the busiest rank's work for one micro-batch."""
SPACED = 3
"""How many of those that keep the limit are taken."""


@dataclass(frozen=True, eq=False)
class Named:
    """A named schedule that is legal and keeps the limit."""

    plan: Plan
    order: NDArray[np.int64]
    """Its order of forwards, input gradients and weight gradients."""


def named(task: Task, work: Work, slow: bool) -> Iterator[Named]:
    """The schedules of the table that live on the task's placement and keep its limit.

    Args:
        slow: those that search for an order themselves; else the others.
    """
    place = task.placement
    chunks = place.stages // place.ranks // place.chains
    for name, schedule in SCHEDULES.items():
        if schedule.weights != "synced" or reads_costs(schedule.lane) != slow or chunks < 1:
            continue
        if (chunks > 1 and not schedule.chunks) or schedule.placement(place.ranks, chunks) != place:
            continue
        try:
            plan = build(
                *(name, place.ranks, task.micros, chunks),
                costs=task.costs,
                memory_limit=task.memory_limit,
                objective=task.objective,
            )
        except ValueError:
            continue
        if plan.slices == 1 and not problems(plan, task.costs, task.memory_limit):
            yield Named(plan, order_of(plan, work))


def order_of(plan: Plan, work: Work) -> NDArray[np.int64]:
    """The order of a plan without sends, its backwards split."""
    kept = (lane.codes[np.isin(lane.codes[:, 0], COMPUTE)] for lane in split_backward(plan).lanes)
    return work.of_rows([codes[codes[:, 0] != Kind.R] for codes in kept])


def spaced(task: Task, work: Work) -> list[NDArray[np.int64]]:
    """Orders in which micro-batches follow each other at even intervals, each run as soon as it can: the shortest
    intervals that keep the limit; one micro-batch after the other if none does."""
    alone = _alone(task)
    kind, stage, micro = work.codes.T
    row = np.searchsorted(KINDS, kind)
    start_s, depth = alone[row, stage], np.array(task.placement.depth_of)[stage]
    turn = np.where(kind == Kind.F, depth, 2 * task.placement.stages - depth)  # where ops take no time
    busiest = float(np.bincount(work.rank, work.seconds).max()) / task.micros
    one_by_one = 2 * float(alone.max() + work.seconds.max()) + 1.0

    def every(interval: float) -> NDArray[np.int64]:
        return np.lexsort((kind, turn, start_s + interval * micro, work.rank))

    found = [order for order in (every(stretch * busiest) for stretch in STRETCHES) if work.fits(order)][:SPACED]
    return found or [every(one_by_one)]


def _alone(task: Task) -> NDArray[np.float64]:
    """When F, I and W of each stage start if there is one micro-batch only, shape (3, stages)."""
    place, costs = task.placement, task.costs
    start = np.zeros((3, place.stages))
    by_depth = sorted(range(place.stages), key=lambda s: place.depth_of[s])
    for s in by_depth:
        before = place.prev[s]
        if before >= 0:
            hop = costs.hop_s[place.rank_of[before], place.rank_of[s]]
            start[0, s] = start[0, before] + costs.seconds[Kind.F, before] + hop
    for s in reversed(by_depth):
        after = place.next[s]
        if after < 0:
            start[1, s] = start[0, s] + costs.seconds[Kind.F, s]
        else:
            hop = costs.hop_s[place.rank_of[after], place.rank_of[s]]
            start[1, s] = start[1, after] + costs.seconds[Kind.I, after] + hop
    start[2] = start[1] + costs.seconds[Kind.I]
    return start
