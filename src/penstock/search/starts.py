"""Where a search begins: the named schedules of a placement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import COMPUTE, Kind
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.lower import split_backward
from penstock.schedules import SCHEDULES, build
from penstock.schedules.task import Task, reads_costs
from penstock.schedules.work import Work
from penstock.search.ways import Finished, Way


@dataclass(frozen=True, eq=False)
class Named:
    """A named schedule that is legal and keeps the limit."""

    finished: Finished
    """As it runs."""
    order: NDArray[np.int64]
    """Its order of forwards, input gradients and weight gradients."""


def named(way: Way, task: Task, work: Work, slow: bool) -> Iterator[Named]:
    """The schedules of the table that live on the way's placement and, finished, keep its limit.

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
                costs=_held(task),
                memory_limit=task.memory_limit,
                objective=task.objective,
            )
        except ValueError:
            continue
        limit = task.memory_limit if task.memory_limit is None else task.memory_limit / way.loose
        if plan.slices > 1 or (way.plain and problems(plan, task.costs, limit)):
            continue
        if (finished := way.finished(plan, limit)) is not None:
            yield Named(finished, order_of(plan, work))


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


def order_of(plan: Plan, work: Work) -> NDArray[np.int64]:
    """The order of a plan without sends, its backwards split."""
    kept = (lane.codes[np.isin(lane.codes[:, 0], COMPUTE)] for lane in split_backward(plan).lanes)
    return work.of_rows([codes[codes[:, 0] != Kind.R] for codes in kept])
