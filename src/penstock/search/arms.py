"""One placement in a search: what is known of it, and a stint of work on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import bounds, simulate
from penstock.engine.bounds import Bound
from penstock.lower import merge_backward
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import PLAYS, Run, best, play
from penstock.schedules.task import Objective, Task
from penstock.schedules.vary import vary
from penstock.schedules.work import Work
from penstock.search.kernel import kernels, one_by_one
from penstock.search.starts import Named, named, order_of

HEAT = 0.1
"""How much worse a variation may be and still be varied further, in times of the longest op."""
PLAY_S, MOVE_S = 0.2e-6, 4e-9
"""About what playing one op takes, and a move for each op of the plan."""
VARIED = 0.6
"""Share of a stint that varies whole orders; the rest moves single ops."""
PLAYS_OF_TRY = 4


@dataclass(frozen=True, eq=False)
class Arm:
    """A placement and the best order of it so far.

    Args:
        task, work: what there is to do.
        bound: a time that no order of this placement beats.
        run: the best order; ``None`` if none that keeps the limit is known.
        starts: orders that nobody has tried to improve yet.
        stints: how often it was worked on.
        proofs: how often a proof was tried that its best order, or that of another placement, cannot be beaten here.
        share: what the next one should ask for (``search.exact``).
    """

    task: Task
    work: Work
    bound: Bound
    run: Run | None = None
    starts: tuple[NDArray[np.int64], ...] = ()
    stints: int = 0
    proofs: int = 0
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """The time that counts, of the best order; infinite if there is none."""
        return np.inf if self.run is None else self.run.score(self.task.objective)[0]

    @property
    def proven(self) -> bool:
        """Whether no order of the placement is shorter."""
        return self.seconds <= self.bound.seconds * (1 + 1e-9)

    def plan(self) -> Plan:
        """The best order; where whole backwards are quicker, with those whose halves follow each other made whole."""
        assert self.run is not None
        place, costs = self.task.placement, self.task.costs
        plan = Plan("solved", place, self.task.micros, tuple(map(Lane.of, self.work.lanes(self.run.order))))
        if (costs.seconds[Kind.B] < costs.seconds[Kind.I] + costs.seconds[Kind.W]).any():
            merged = merge_backward(plan)
            return min(merged, plan, key=lambda one: seconds_of(simulate(one, costs), self.task.objective))
        return plan

    def given(self, order: NDArray[np.int64]) -> Arm:
        """With one more order to begin with; it may break the limit, and is then left out."""
        if not self.work.fits(order):
            return self
        run = play(self.work, order)
        if run.sync == np.inf:
            return self
        better = self.run is None or run.score(self.task.objective) < self.run.score(self.task.objective)
        return replace(self, run=run if better else self.run, starts=(*self.starts, order))


def seconds_of(timeline: Timeline, objective: Objective) -> float:
    """The time that counts."""
    return timeline.makespan_s if objective == "sync" else timeline.span_s


def arm_of(task: Task) -> Arm:
    """A placement with nothing known but one micro-batch after the other.

    Raises:
        ValueError: the limit does not hold one micro-batch.
    """
    limit = np.inf if task.memory_limit is None else task.memory_limit
    found = bounds(task.placement, task.micros, task.costs, limit)
    work = Work.of(task, KINDS, limit)
    arm = Arm(task, work, found.makespan if task.objective == "sync" else found.span)
    return arm.given(one_by_one(task, work))


def stint(arm: Arm, seconds: float, seed: int) -> tuple[Run | None, list[Named]]:
    """Work on an arm for about so long; equal arguments give equal results.

    The first stint builds orders that repeat and the named schedules that search themselves, and improves what there is
    to begin with; later ones vary the best order and then move single ops of it.

    Returns:
        The best order, and schedules built.
    """
    from penstock.search.anneal import anneal

    task, work, ops = arm.task, arm.work, len(arm.work.codes)
    if arm.stints == 0:
        found = list(named(task, work, slow=True))
        for order in [*(one.order for one in found), *kernels(task, work)]:
            arm = arm.given(order)
        plays = max(1, min(PLAYS * len(arm.starts), int(seconds / (PLAY_S * ops))))
        return best(work, arm.starts, task.objective, plays) if arm.starts else None, found
    if arm.run is None:
        return None, []
    tries = max(1, int(VARIED * seconds / (PLAYS_OF_TRY * PLAY_S * ops)))
    run = vary(work, arm.run, task.objective, tries, seed, HEAT, waves=True)
    return anneal(work, run, task.objective, int((1 - VARIED) * seconds / (MOVE_S * ops)), seed), []


def continued(arm: Arm, plan: Plan) -> Arm:
    """The arm with a plan of its placement to begin with."""
    return arm.given(order_of(plan, arm.work))
