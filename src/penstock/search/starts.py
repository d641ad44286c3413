"""Where a search begins: the named schedules of a placement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import COMPUTE, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.lower import in_parts, split_backward
from penstock.schedules import SCHEDULES, build
from penstock.schedules.table import slices_of
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.ways import Finished, Way

TRIES = 3
"""Schedules of one way that are finished, those first that may end first; more only until one fits the limit."""


@dataclass(frozen=True, eq=False)
class Named:
    """A named schedule that is legal."""

    name: str
    finished: Finished | None
    """As it runs; ``None`` if it breaks the limit, or is not worth the time to see what it becomes."""
    order: NDArray[np.int64]
    """Its order of forwards, input gradients and weight gradients."""


def named(way: Way, task: Task, work: Work, slow: bool, beat_s: float = np.inf) -> Iterator[Named]:
    """The schedules of the table that live on the way's placement; if nothing else becomes of them, within its limit.

    Args:
        slow: those that search for an order themselves; else the others.
        beat_s: time that counts; what cannot become better is not finished.
    """
    limit = task.memory_limit if task.memory_limit is None else task.memory_limit / way.loose
    plans = _plans(task, slow)
    if way.plain:
        for plan in plans:
            if not problems(plan, task.costs, limit):
                yield Named(plan.name, way.finished(plan, limit), order_of(plan, work))
        return
    timed = sorted(((way.soonest_s(plan, task.objective), plan) for plan in plans), key=lambda one: one[0])
    tries = TRIES
    for soonest_s, plan in timed:
        finished = None
        if (tries > 0 or beat_s == np.inf) and soonest_s < beat_s:
            tries, finished = tries - 1, way.finished(plan, limit)
        if finished is not None:
            beat_s = min(beat_s, finished.seconds(task.objective))
        yield Named(plan.name, finished, order_of(plan, work))


def _plans(task: Task, slow: bool) -> Iterator[Plan]:
    """The schedules of the table that live on a task's placement, or on one whose stages it cuts into parts, whether or
    not they keep its limit."""
    place, parts, costs = task.placement, 1, _held(task)
    if not any(schedules_on(place)):
        place, parts = place.whole()
        costs = _together(costs, parts)
    for name, chunks in schedules_on(place):
        if SCHEDULES[name].searches != slow or slices_of(SCHEDULES[name].lane, {}) > 1:
            continue
        try:
            plan = build(
                *(name, place.ranks, task.micros, chunks),
                costs=costs,
                memory_limit=task.memory_limit,
                objective=task.objective,
            )
        except ValueError:
            continue
        if parts == 1 or not plan.fused.any():
            yield plan if parts == 1 else in_parts(plan, parts)


def schedules_on(place: Placement) -> Iterator[tuple[str, int]]:
    """Names of the schedules of the table that live on a placement and train as one process would, and chunks per rank
    that they have there."""
    chunks = place.stages // place.ranks // place.chains
    for name, schedule in SCHEDULES.items():
        able = chunks == 1 or (chunks > 1 and schedule.chunks)
        if schedule.gradient_equal and able and schedule.placement(place.ranks, chunks) == place:
            yield name, chunks


def searching_on(place: Placement) -> list[str]:
    """Names of those of them that search for an order themselves."""
    return [name for name, _ in schedules_on(place) if SCHEDULES[name].searches]


def _held(task: Task) -> Costs:
    """The costs as schedules should see them: what runs again takes longer, and holds what stays in between."""
    again = [*task.again]
    if not again:
        return task.costs
    seconds, kept = task.costs.seconds.copy(), task.costs.saved_bytes.copy()
    for kind in (Kind.B, Kind.I):
        seconds[kind, again] += seconds[Kind.R, again]
    kept[again] *= task.costs.kept_share[again]
    return replace(task.costs, seconds=seconds, saved_bytes=kept)


def _together(costs: Costs, parts: int) -> Costs:
    """The costs of stages of which each has so many parts in a row."""
    saved = costs.saved_bytes.reshape(-1, parts)

    def mean(share: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = share[::parts].copy()
        whole = (share.reshape(-1, parts) * saved).sum(axis=1)
        np.divide(whole, saved.sum(axis=1), out=found, where=saved.sum(axis=1) > 0)
        return found

    return replace(
        costs,
        seconds=costs.seconds.reshape(len(costs.seconds), -1, parts).sum(axis=2),
        saved_bytes=saved.sum(axis=1),
        w_share=mean(costs.w_share),
        boundary_bytes=costs.boundary_bytes[parts - 1 :: parts],
        kept_share=mean(costs.kept_share),
        host_share=costs.host_share[::parts],
        weight_bytes=costs.weight_bytes.reshape(-1, parts).sum(axis=1),
    )


def order_of(plan: Plan, work: Work) -> NDArray[np.int64]:
    """The order of a plan without sends, its backwards split."""
    kept = (lane.codes[np.isin(lane.codes[:, 0], COMPUTE)] for lane in split_backward(plan).lanes)
    return work.of_rows([codes[codes[:, 0] != Kind.R] for codes in kept])
