"""The rounds of a search: which placements get the next stints, and what is known when they are done."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound
from penstock.schedules.reorder import Run
from penstock.schedules.task import Objective, Task
from penstock.search.arms import Arm, arm_of, continued, seconds_of, stint
from penstock.search.proofs import prove, proven, seconds_of_proof, worth_proving
from penstock.search.solution import Found, Options, Solution
from penstock.search.starts import Named, named

FIRST_STINT_S, LAST_STINT_S = 0.25, 2.0
"""Stints double from one to the other, so that a short search tries everything too."""


class Search:
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
        """One stint per process, side by side; one of them a proof, where one may succeed. A single process takes
        turns."""
        began, seconds, proof = time.perf_counter(), self.stint_s(), self.to_prove()
        if proof:
            seconds = max(seconds, seconds_of_proof(self.arms[proof]))
        run = _at_once if pool is None else pool.submit
        names = [name for name, _ in zip(self.chosen(), range(self.processes - bool(proof)), strict=False)]
        jobs = [run(stint, self.arms[name], seconds, self.seed(k)) for k, name in enumerate(names)]
        if proof:
            least = min(arm.seconds for arm in self.arms.values())
            shown = run(prove, self.arms[proof], least, self.seed(len(names)))
        for name, (found, some) in zip(names, (job.result() for job in jobs), strict=True):
            for one in some:
                self.know(name, one)
            self.improved(name, _with(self.arms[name], found), "")
        if proof:
            self.improved(proof, proven(self.arms[proof], shown.result()), "")
        self.stints += len(names) + bool(proof)
        self.rounds += 1
        self.last_s = time.perf_counter() - began

    def to_prove(self) -> str | None:
        """The placement for a proof of this round, if there is to be one."""
        if self.processes == 1 and self.rounds % 2 == 0:
            return None
        return worth_proving((name, self.arms[name]) for name in self.worthwhile())

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


def _at_once(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The result of a call without a pool."""
    done: Future[Any] = Future()
    done.set_result(function(*arguments))
    return done


def _with(arm: Arm, run: Run | None) -> Arm:
    """The arm after a stint."""
    arm = replace(arm, stints=arm.stints + 1, starts=())
    if run is None or run.score(arm.task.objective)[0] >= arm.seconds:
        return arm
    return replace(arm, run=run)
