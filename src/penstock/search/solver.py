"""The verb: from costs, placements and a limit of memory to the best order that a search finds in its time."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods, get_context

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound
from penstock.schedules.reorder import Run
from penstock.schedules.task import Objective, Task
from penstock.search.arms import Arm, arm_of, continued, seconds_of, stint
from penstock.search.starts import Named, named

FIRST_STINT_S, LAST_STINT_S = 0.25, 2.0
"""Stints double from one to the other, so that a short search tries everything too."""


@dataclass(frozen=True)
class Found:
    """A better order on the way."""

    after_s: float
    """Seconds since the search began."""
    seconds: float
    """The time that counts, of the order."""
    where: str
    """The name of its placement, and of the schedule if it has one."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What a search found.

    Args:
        plan: the best order, legal and within the limit.
        where: the name of its placement.
        timeline: the plan at the costs of the search.
        objective: what counts.
        bound: a time that no order on any of the placements beats, and why.
        bound_here: the same for the placement of the plan.
        named: the best named schedule on the same placements, and the time that counts; ``None`` if none is legal.
        history: every better order, the first of them the first that was known.
        stints: pieces of work that were done, over all placements.
    """

    plan: Plan
    where: str
    timeline: Timeline
    objective: Objective
    bound: Bound
    bound_here: Bound
    named: tuple[str, float] | None
    history: tuple[Found, ...]
    stints: int

    @property
    def seconds(self) -> float:
        """The time that counts: of the makespan or the span."""
        return seconds_of(self.timeline, self.objective)

    @property
    def gap(self) -> float:
        """How much longer than the bound, as a share of it."""
        return self.seconds / self.bound.seconds - 1 if self.bound.seconds else 0.0

    @property
    def proven(self) -> bool:
        """Whether no order on any of the placements is shorter."""
        return self.gap <= 1e-9


@dataclass(frozen=True)
class Options:
    """How long and how a search goes.

    Args:
        time_s: seconds after which no stint begins that would not end.
        seed: of all that is drawn; with it and the number of processes a search goes the same way, and the time only
            says how far.
        processes: that work side by side; ``None`` for one per core, 1 for this one alone.
        stints: rounds of stints after which it ends in any case; ``None`` for no such end.
    """

    time_s: float = 30.0
    seed: int = 0
    processes: int | None = None
    stints: int | None = None


def solve(
    costs: Costs | Callable[[Placement], Costs],
    placements: Mapping[str, Placement] | Sequence[Placement] | Placement,
    micros: int,
    memory_limit: float | None = None,
    objective: Objective = "sync",
    options: Options = Options(),
    start: Plan | None = None,
    watch: Callable[[Found, float], bool] = lambda found, bound_s: True,
) -> Solution:
    """The best order of forwards, input gradients and weight gradients that is found in the time.

    All named schedules that live on one of the placements and keep the limit are where the search begins, so the answer
    is never worse than the best of them. Then whole orders are varied and played again (``schedules.vary``) and single
    ops moved (``search.anneal``), most of the time on the placements that do best; those whose bound is above the best
    order are left alone. Ctrl-C ends the search with what it has.

    Args:
        costs: of each placement, or as a function of it.
        placements: where stages may live, by names of your own.
        micros: micro-batches per step.
        memory_limit: bytes of activations that any rank may hold; ``None`` for any.
        objective: ``sync`` for the makespan, ``span`` for the longest time of one rank.
        options: how long and how.
        start: a plan on one of the placements, for example of an earlier search, to go on from.
        watch: told of each better order and of the bound; the search ends when it says ``False``.

    Raises:
        ValueError: no placement, one that cannot hold the limit, or ``start`` lives on none of them.

    Example:
        >>> found = solve(Costs.uniform, Placement.vee(2), 4, memory_limit=2.0, options=Options(2.0, processes=1))
        >>> found.seconds, found.proven, found.named
        (12.5, True, ('zb-v', 12.5))
    """
    begun = time.perf_counter()
    search = _Search(_by_name(placements), costs, micros, memory_limit, objective, options, begun, watch)
    search.begin(start)
    with search.pool() as pool:
        while search.goes_on():
            try:
                search.round(pool)
            except KeyboardInterrupt:
                search.stopped = True
    return search.solution()


class _Search:
    """A search under way."""

    def __init__(
        self,
        placements: Mapping[str, Placement],
        costs: Costs | Callable[[Placement], Costs],
        micros: int,
        memory_limit: float | None,
        objective: Objective,
        options: Options,
        begun: float,
        watch: Callable[[Found, float], bool],
    ) -> None:
        self.options, self.objective, self.begun, self.watch = options, objective, begun, watch
        priced = costs if callable(costs) else lambda placement: costs
        tasks = {
            name: Task(place, micros, priced(place), memory_limit, objective) for name, place in placements.items()
        }
        self.arms = {name: arm_of(task) for name, task in tasks.items()}
        self.named: dict[str, list[Named]] = {name: [] for name in self.arms}
        self.history: list[Found] = []
        self.stints = self.rounds = 0
        self.last_s, self.stopped = 0.0, False
        self.processes = options.processes or os.cpu_count() or 1
        if "fork" not in get_all_start_methods():
            self.processes = 1

    def begin(self, start: Plan | None) -> None:
        """The first answers: what is known without a search."""
        for name, arm in self.arms.items():
            self.improved(name, arm, "")
            for one in named(arm.task, arm.work, slow=False):
                self.know(name, one)
        if start is not None:
            homes = [name for name, arm in self.arms.items() if arm.task.placement == start.placement]
            if not homes:
                raise ValueError(
                    f"plan {start.name!r} lives on rank_of={start.placement.rank_of}, which is none of the placements "
                    f"{', '.join(self.arms)}; add it"
                )
            self.improved(homes[0], continued(self.arms[homes[0]], start), start.name)

    def know(self, name: str, one: Named) -> None:
        """A named schedule of a placement."""
        self.named[name].append(one)
        self.improved(name, self.arms[name].given(one.order), one.plan.name)

    def improved(self, name: str, arm: Arm, schedule: str) -> None:
        """An arm as it is now; better or not."""
        self.arms[name] = arm
        if arm.seconds < (self.history[-1].seconds if self.history else math.inf):
            found = Found(time.perf_counter() - self.begun, arm.seconds, f"{name} {schedule}".strip())
            self.history.append(found)
            self.stopped |= not self.watch(found, self.bound.seconds)

    @property
    def bound(self) -> Bound:
        """A time that no order on any placement beats."""
        return min((arm.bound for arm in self.arms.values()), key=lambda bound: bound.seconds)

    def pool(self) -> AbstractContextManager[Executor | None]:
        """Processes for stints, with the loops already compiled; none if this process is enough."""
        from penstock.search import anneal  # noqa: F401 (before processes fork)

        if self.processes == 1:
            return nullcontext()
        return ProcessPoolExecutor(self.processes, get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def stint_s(self) -> float:
        """How long the next stints are."""
        return min(LAST_STINT_S, FIRST_STINT_S * 2.0**self.rounds)

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        if self.stopped or self.options.stints == self.rounds or not self.worthwhile():
            return False
        needs = max(self.last_s, 0.5 * self.stint_s())
        return time.perf_counter() - self.begun + needs <= self.options.time_s

    def worthwhile(self) -> list[str]:
        """Placements on which a better order may exist, the best first."""
        least = min(arm.seconds for arm in self.arms.values())
        able = [name for name, arm in self.arms.items() if arm.bound.seconds < least * (1 - 1e-9)]
        return sorted(able, key=lambda name: self.arms[name].seconds)

    def chosen(self) -> Iterator[str]:
        """Placements for the next stints: each once; then the best more often than those behind it."""
        able = self.worthwhile()
        fresh = [name for name in able if not self.arms[name].stints]
        yield from fresh
        rank = 0
        while True:
            yield able[min(rank, len(able) - 1)]
            rank = (rank + 1) % 2 if self.rounds % 4 else (rank + 1) % len(able)

    def round(self, pool: Executor | None) -> None:
        """One stint per process, side by side."""
        began, seconds = time.perf_counter(), self.stint_s()
        names = [name for name, _ in zip(self.chosen(), range(self.processes), strict=False)]
        jobs = [(self.arms[name], seconds, self.seed(k)) for k, name in enumerate(names)]
        runs = list(map(stint, *zip(*jobs, strict=True)) if pool is None else pool.map(stint, *zip(*jobs, strict=True)))
        for name, (run, found) in zip(names, runs, strict=True):
            for one in found:
                self.know(name, one)
            self.improved(name, _with(self.arms[name], run), "")
        self.stints += len(names)
        self.rounds += 1
        self.last_s = time.perf_counter() - began

    def seed(self, number: int) -> int:
        """Of a stint of this round."""
        return (self.options.seed * 1_000_003 + 101 * self.rounds + number) % 2**31

    def solution(self) -> Solution:
        """The best of all; a named schedule as it is, where splitting its backwards makes it no better."""
        best = min(self.arms, key=lambda name: self.arms[name].seconds)
        arm = self.arms[best]
        plans = [(best, arm.plan())] if arm.run is not None else []
        known = [(name, one.plan) for name, some in self.named.items() for one in some]
        timed = [(name, simulate(plan, self.arms[name].task.costs)) for name, plan in [*plans, *known]]
        if not timed:
            raise ValueError(f"no order is known that keeps memory_limit={arm.task.memory_limit}; allow more")
        where, timeline = min(timed, key=lambda one: seconds_of(one[1], self.objective))
        check(timeline.plan, self.arms[where].task.costs, self.arms[where].task.memory_limit)
        others = [(line.plan.name, seconds_of(line, self.objective)) for _, line in timed[len(plans) :]]
        return Solution(
            *(timeline.plan, where, timeline, self.objective, self.bound, self.arms[where].bound),
            *(min(others, key=lambda one: one[1], default=None), tuple(self.history), self.stints),
        )


def _with(arm: Arm, run: Run | None) -> Arm:
    """The arm after a stint."""
    arm = replace(arm, stints=arm.stints + 1, starts=())
    if run is None or run.score(arm.task.objective)[0] >= arm.seconds:
        return arm
    return replace(arm, run=run)


def _by_name(placements: Mapping[str, Placement] | Sequence[Placement] | Placement) -> Mapping[str, Placement]:
    if isinstance(placements, Placement):
        placements = [placements]
    if not isinstance(placements, Mapping):
        placements = {f"rank_of={','.join(map(str, place.rank_of))}": place for place in placements}
    if not placements:
        raise ValueError("no placement to search; give one, for example Placement.vee(4)")
    return placements
