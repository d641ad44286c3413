"""One placement in a search: what is known of it, and a stint of work on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine import simulate
from penstock.engine.bounds import Bound
from penstock.lower import merge_backward
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import HABITS, PLAYS, Run, best, play, sifted
from penstock.schedules.task import Objective, Task, seconds_of
from penstock.schedules.vary import vary
from penstock.schedules.work import Work
from penstock.search.kernel import EACH, kernels, one_by_one, shortest, turn_in
from penstock.search.repeat import TUNE_S, tuned
from penstock.search.spaced import spaced
from penstock.search.starts import Named, named, order_of
from penstock.search.ways import Way

HEAT = 0.1
"""How much worse a variation may be and still be varied further, in times of the longest op."""
PLAY_S, MOVE_S = 0.2e-6, 4e-9
"""About what playing one op takes, and a move for each op of the plan."""
VARIED = 0.6
"""Share of a stint that varies whole orders; the rest moves single ops."""
PLAYS_OF_TRY = 4
FIRST, SEARCHING, LATER = range(3)
"""Steps of a stint: try where to begin with orders that are made quickly; build the schedules that search themselves;
or improve the best order."""
PERIODIC, MANY = 3, 6
"""Of so many stints one begins with an order that repeats, where a step has at least so many micro-batches per rank:
in shorter ones what matters is how they begin and end."""
FEW_OPS = 1000
"""Ops up to which schedules that search themselves take a part of a second."""
NEAR = 1.02
"""How much longer than the better of two orders, as a factor, the other may be that is varied too."""
KERNEL = 0.5
"""Share of such a stint that goes into it."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A way and the best order of it so far.

    Args:
        way: where stages live, and what becomes of an order.
        task, work: what there is to do.
        bound: a time that nothing of this way beats.
        run: the best order; ``None`` if none that keeps the limit is known.
        starts: orders that nobody has tried to improve yet.
        stints: how often it was worked on.
        steps: of these stints.
        proofs: how often a proof was tried that its best order, or that of another placement, cannot be beaten here.
        share: what the next one should ask for (``search.exact``).
    """

    way: Way
    task: Task
    work: Work
    bound: Bound
    run: Run | None = None
    starts: tuple[NDArray[np.int64], ...] = ()
    stints: int = 0
    steps: frozenset[int] = frozenset()
    proofs: int = 0
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """The time that counts, of the best order; infinite if there is none."""
        return np.inf if self.run is None else self.run.score(self.task.objective)[0]

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

    def after(self, step: int, run: Run | None) -> Arm:
        """The arm after a stint that gave an order; better or not."""
        starts = self.starts if step == SEARCHING else ()
        arm = replace(self, stints=self.stints + 1, steps=self.steps | steps_of(self, step), starts=starts)
        better = run is not None and run.score(self.task.objective)[0] < self.seconds
        return replace(arm, run=run) if better else arm


def arm_of(way: Way, micros: int, memory_limit: float | None, objective: Objective) -> Arm:
    """A way with nothing known but one micro-batch after the other.

    Raises:
        ValueError: the limit does not hold one micro-batch.
    """
    task = way.task(micros, memory_limit, objective)
    work = Work.of(task, KINDS, task.limit)
    arm = Arm(way, task, work, way.bound(micros, memory_limit, objective))
    return arm.given(one_by_one(task, work))


def evenly(arm: Arm) -> Arm:
    """With an evenly spaced order, improved by one habit, where one keeps the limit."""
    runs = [play(arm.work, order, HABITS[0]) for order in islice(spaced(arm.task, arm.work), 1)]
    return next((arm.given(run.order) for run in runs if run.sync < np.inf), arm)


def stint(arm: Arm, step: int, seconds: float, seed: int) -> tuple[Run | None, list[Named]]:
    """Work on an arm for about so long; equal arguments give equal results.

    The first step builds orders that repeat or are evenly spaced, and improves what there is to begin with; the second
    builds the named schedules that search themselves, however long that takes (where there are few ops it is part of
    the first); later ones vary the best order and then move single ops of it.

    Returns:
        The best order, and schedules built.
    """
    task, work, found = arm.task, arm.work, list[Named]()
    if SEARCHING in steps_of(arm, step):
        found = list(named(arm.way, task, work, slow=True))
    if step == SEARCHING:
        return None, found
    if step == LATER and not arm.starts:
        return improved(arm, seconds, seed) if arm.run is not None else None, found
    fresh = arm
    for order in [*(one.order for one in found), *kernels(task, work), *spaced(task, work)] if step == FIRST else ():
        fresh = fresh.given(order)
    if not fresh.starts:
        return arm.run, found
    plays = max(1, min(PLAYS * len(fresh.starts), int(seconds / (PLAY_S * len(work.codes)))))
    run = sifted(work, fresh.starts, task.objective, plays)
    return _both(arm, run, seconds, seed) if step == LATER else run, found


def steps_of(arm: Arm, step: int) -> frozenset[int]:
    """What a stint of a step does for an arm."""
    return frozenset({step, SEARCHING} if step == FIRST and len(arm.work.codes) <= FEW_OPS else {step})


def _both(arm: Arm, run: Run, seconds: float, seed: int) -> Run:
    """The best that becomes of the order of an arm and of another one; of one alone if it is far ahead."""
    assert arm.run is not None
    times = [one.score(arm.task.objective)[0] for one in (arm.run, run)]
    able = [one for one, time_s in zip((arm.run, run), times, strict=True) if time_s <= NEAR * min(times)]
    tried = [varied(arm, one, seconds / len(able), seed) for one in able]
    return min(tried, key=lambda one: one.score(arm.task.objective))


def improved(arm: Arm, seconds: float, seed: int) -> Run:
    """The best order of an arm, varied for about so long; now and then one that repeats instead."""
    task, work = arm.task, arm.work
    assert arm.run is not None
    if arm.stints % PERIODIC == 1 and task.micros >= MANY * task.placement.ranks:
        repeated = repeating(arm, KERNEL * seconds, seed)
        if repeated is not None:
            run = varied(arm, best(work, [repeated], task.objective, PLAYS), (1 - KERNEL) * seconds, seed)
            return min(arm.run, run, key=lambda one: one.score(task.objective))
    return varied(arm, arm.run, seconds, seed)


def varied(arm: Arm, run: Run, seconds: float, seed: int) -> Run:
    """An order of the arm, varied and then improved op by op for about so long."""
    from penstock.search.anneal import anneal

    work, objective, ops = arm.work, arm.task.objective, len(arm.work.codes)
    tries = max(1, int(VARIED * seconds / (PLAYS_OF_TRY * PLAY_S * ops)))
    run = vary(work, run, objective, tries, seed, HEAT, waves=True)
    return anneal(work, run, objective, int((1 - VARIED) * seconds / (MOVE_S * ops)), seed)


def repeating(arm: Arm, seconds: float, seed: int) -> NDArray[np.int64] | None:
    """An order that repeats as fast as is found in about so long; ``None`` where it would repeat no more slowly with
    more memory."""
    task, work, each = arm.task, arm.work, EACH[arm.stints // PERIODIC % len(EACH)]
    assert arm.run is not None
    starts = [shortest(task, each), turn_in(task, work, arm.run, each)]
    known = [kernel for kernel in starts if kernel is not None]
    if not known or each * task.placement.chains > task.micros:
        return None
    first = min(known, key=lambda kernel: kernel.turn_s)
    if first.turn_s <= np.bincount(first.work.rank, first.work.seconds).max() * (1 + 1e-3):
        return None
    found = tuned(first, task.objective, task.micros, int(seconds / (TUNE_S * len(first.lane))), seed)
    order = found.order(work)
    return order if work.fits(order) and play(work, order).sync < np.inf else None


def continued(arm: Arm, plan: Plan) -> Arm:
    """The arm with a plan of its placement to begin with."""
    return arm.given(order_of(plan, arm.work))
