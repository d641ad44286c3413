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
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from typing import Any

from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound
from penstock.schedules.reorder import Run
from penstock.schedules.task import Objective
from penstock.search.arms import FIRST, LATER, SEARCHING, Arm, arm_of, continued, steps_of, stint
from penstock.search.proofs import prove, proven, seconds_of_proof, worth_proving
from penstock.search.solution import Found, Options, Solution, seed_of
from penstock.search.starts import Named, named
from penstock.search.ways import Finished, Way

BEGIN = 0.25
"""Share of the time after which no further way is begun that needs its orders finished."""
FIRST_STINT_S, BEGIN_STINT_S, LAST_STINT_S = 0.25, 0.5, 2.0
"""Stints double from the first to the last, so that a short search tries everything too; those that only try where to
begin end at the second."""


def processes_of(options: Options) -> int:
    """How many work side by side; one where processes cannot fork."""
    return options.processes or os.cpu_count() or 1 if "fork" in get_all_start_methods() else 1


def pool(processes: int) -> AbstractContextManager[Executor | None]:
    """Processes for stints, with the loops already compiled; none if this process is enough."""
    from penstock.search import anneal, tune  # noqa: F401 (before processes fork)

    if processes == 1:
        return nullcontext()
    return ProcessPoolExecutor(processes, get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN))


class Search:
    """A search under way."""

    def __init__(
        self,
        ways: Mapping[str, Way],
        micros: int,
        memory_limit: float | None,
        objective: Objective,
        options: Options,
        begun: float,
        watch: Callable[[Found, float], bool],
    ) -> None:
        self.options, self.objective, self.begun, self.watch = options, objective, begun, watch
        self.micros, self.limit = micros, memory_limit
        self.arms = _arms(ways, micros, memory_limit, objective)
        self.best: tuple[str, Finished] | None = None
        self.reached = dict.fromkeys(self.arms, math.inf)
        """The best time of each way, finished."""
        self.named: dict[str, list[Named]] = {name: [] for name in self.arms}
        """Those that keep the limit, as they run."""
        self.named_s = math.inf
        self.history: list[Found] = []
        self.stints = self.rounds = 0
        self.last_s, self.stopped = [0.0] * 3, False
        """Seconds of the last round of each step."""
        self.processes = processes_of(options)

    def begin(self, start: Plan | None) -> None:
        """The first answers: what is known without a search, of ways with the lowest bounds first. Finishing orders
        takes time, a part of all at most."""
        most_s = BEGIN * self.options.time_s if self.options.stints is None else math.inf
        for name in sorted(self.arms, key=self._promise):
            arm = self.arms[name]
            if arm.bound.seconds >= self.least_s or (not arm.way.plain and self.over_s > most_s):
                continue
            self.improved(name, arm, "")
            for one in named(arm.way, arm.task, arm.work, slow=False, beat_s=self.named_s):
                self.know(name, one)
        if start is not None:
            homes = [name for name, arm in self.arms.items() if arm.task.placement == start.placement]
            if not homes:
                raise ValueError(
                    f"plan {start.name!r} lives on rank_of={start.placement.rank_of}, which is none of the placements "
                    f"{', '.join(self.arms)}; add it"
                )
            self.improved(homes[0], continued(self.arms[homes[0]], start), start.name)

    def _promise(self, name: str) -> tuple[bool, float, float]:
        """Plain ways first, then low bounds and orders that may hold much; sorted."""
        arm = self.arms[name]
        return not arm.way.plain, arm.bound.seconds, -arm.way.loose

    def know(self, name: str, one: Named) -> None:
        """A named schedule of a way."""
        if one.finished is not None:
            self.named[name].append(one)
            self.named_s = min(self.named_s, one.finished.seconds(self.objective))
            if not self.arms[name].way.plain:
                self.better(name, one.finished, one.name)
        arm = self.arms[name].given(one.order)
        if arm.way.plain:
            self.improved(name, arm, one.name)
        else:
            self.finish(name, replace(arm, run=None).given(one.order), one.name)
            self.arms[name] = arm

    def improved(self, name: str, arm: Arm, schedule: str) -> None:
        """An arm as it is now; better or not."""
        was, self.arms[name] = self.arms[name], arm
        if arm.run is None or (arm.run is was.run and self.history):
            return
        if arm.way.plain:
            self.counts(name, arm.seconds, schedule)
        else:
            self.finish(name, arm, schedule)

    def finish(self, name: str, arm: Arm, schedule: str) -> None:
        """Judge an order by what becomes of it, if that may be better."""
        if arm.run is None:
            return
        if arm.way.again or arm.way.least is not None or arm.seconds < self.least_s:
            finished = arm.way.finished(arm.plan(), self.limit)
            if finished is not None:
                self.better(name, finished, schedule)

    def better(self, name: str, finished: Finished, schedule: str) -> None:
        """What became of an order; better or not."""
        seconds = finished.seconds(self.objective)
        if self.best is None or seconds < self.best[1].seconds(self.objective):
            self.best = name, finished
        self.counts(name, seconds, schedule)

    def counts(self, name: str, seconds: float, schedule: str) -> None:
        """A time that something reached."""
        self.reached[name] = min(self.reached[name], seconds)
        if seconds < self.least_s:
            found = Found(self.over_s, seconds, f"{name} {schedule}".strip())
            self.history.append(found)
            self.stopped |= not self.watch(found, self.bound.seconds)

    @property
    def over_s(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self.begun

    @property
    def least_s(self) -> float:
        """The best time so far."""
        return self.history[-1].seconds if self.history else math.inf

    @property
    def bound(self) -> Bound:
        """A time that no order on any placement beats."""
        return min((arm.bound for arm in self.arms.values()), key=lambda bound: bound.seconds)

    def stint_s(self) -> float:
        """How long the next stints are."""
        return min(BEGIN_STINT_S if self.due() == FIRST else LAST_STINT_S, FIRST_STINT_S * 2.0**self.rounds)

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        if self.stopped or self.options.stints == self.rounds or not self.worthwhile():
            return False
        return self.in_time(max(self.last_s[self.due()], 0.5 * self.stint_s()), self.options.first_s)

    def in_time(self, needs_s: float, time_s: float) -> bool:
        """Whether work of so many seconds would end when so many have passed since the search began."""
        return self.over_s + needs_s <= time_s

    def due(self) -> int:
        """The step of the next round: each placement's first, then schedules that search themselves, then improvements.
        The first two take as long as they take, and are left out if they would not end in time."""
        for step in FIRST, SEARCHING:
            if self.lacking(step) and self.in_time(self.last_s[step], self.options.first_s):
                return step
        return LATER

    def lacking(self, step: int) -> list[str]:
        """Placements that are due a stint of a step: on which a better order may exist, or the first named schedule."""
        able = self.worthwhile()
        if step == SEARCHING and self.named_s == math.inf:
            able += [name for name in self.arms if name not in able]
        return [name for name in able if step not in self.arms[name].steps]

    def worthwhile(self) -> list[str]:
        """Placements on which a better order may exist, the best first."""
        able = [name for name, arm in self.arms.items() if arm.bound.seconds < self.least_s * (1 - 1e-9)]
        return sorted(able, key=self.reached.__getitem__)

    def chosen(self, due: int) -> Iterator[tuple[str, int]]:
        """Placements for the next stints, and their steps: each once for what is due; then the best more often than
        those behind it."""
        able = self.worthwhile()
        for step in range(due, LATER):
            yield from ((name, step) for name in self.lacking(step))
        rank = 0
        while True:
            yield able[min(rank, len(able) - 1)], LATER
            rank = (rank + 1) % 2 if self.rounds % 4 else (rank + 1) % len(able)

    def round(self, pool: Executor | None) -> None:
        """One stint per process, side by side; one of them a proof, where one may succeed. A single process takes
        turns."""
        began, seconds, due, proof = time.perf_counter(), self.stint_s(), self.due(), self.to_prove()
        if proof:
            seconds = max(seconds, seconds_of_proof(self.arms[proof]))
        run = _at_once if pool is None else pool.submit
        jobs = [*islice(self.chosen(due), self.processes - bool(proof))]
        work = [run(stint, self.arms[name], step, seconds, self.seed(k)) for k, (name, step) in enumerate(jobs)]
        if proof:
            shown = run(prove, self.arms[proof], self.least_s, self.seed(len(jobs)))
        for (name, step), (found, some) in zip(jobs, (one.result() for one in work), strict=True):
            for one in some:
                self.know(name, one)
            self.improved(name, _with(self.arms[name], step, found), "")
        if proof:
            self.improved(proof, proven(self.arms[proof], shown.result()), "")
        self.stints += len(jobs) + bool(proof)
        self.rounds += 1
        self.last_s[due] = time.perf_counter() - began

    def to_prove(self) -> str | None:
        """The placement for a proof of this round, if there is to be one."""
        if self.processes == 1 and self.rounds % 2 == 0:
            return None
        return worth_proving((name, self.arms[name]) for name in self.worthwhile())

    def seed(self, number: int) -> int:
        """Of a stint of this round."""
        return seed_of(self.options, self.rounds, number)

    def known(self) -> list[tuple[str, Finished]]:
        """Named schedules that keep the limit, as they run, each behind the name of its way."""
        return [(name, one.finished) for name, some in self.named.items() for one in some if one.finished]

    def solution(self) -> Solution:
        """The best of all; a named schedule as it is, where splitting its backwards makes it no better."""
        plain = [name for name, arm in self.arms.items() if arm.way.plain]
        best = min(plain, key=lambda name: self.arms[name].seconds, default=None)
        mine = [self.best] if self.best is not None else []
        if best is not None and (arm := self.arms[best]).run is not None:
            mine.append((best, Finished(simulate(arm.plan(), arm.task.costs), arm.task.costs)))
        known = self.known()
        if not mine and not known:
            raise ValueError(f"no order is known that keeps memory_limit={self.limit}; allow more")
        where, (timeline, costs) = min([*mine, *known], key=lambda one: one[1].seconds(self.objective))
        check(timeline.plan, costs, self.limit)
        others = [(one.timeline.plan.name, one.seconds(self.objective)) for _, one in known]
        return Solution(
            *(timeline.plan, where, timeline, costs, self.objective, self.bound, self.arms[where].bound),
            *(min(others, key=lambda one: one[1], default=None), tuple(self.history), self.stints),
        )


def _arms(ways: Mapping[str, Way], micros: int, limit: float | None, objective: Objective) -> dict[str, Arm]:
    """Those that hold one micro-batch within the limit.

    Raises:
        ValueError: none does.
    """
    found: dict[str, Arm] = {}
    for name, way in ways.items():
        try:
            found[name] = arm_of(way, micros, limit, objective)
        except ValueError:
            if name == [*ways][-1] and not found:
                raise
    return found


def _at_once(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The result of a call without a pool."""
    done: Future[Any] = Future()
    done.set_result(function(*arguments))
    return done


def _with(arm: Arm, step: int, run: Run | None) -> Arm:
    """The arm after a stint."""
    arm = replace(arm, stints=arm.stints + 1, steps=arm.steps | steps_of(arm, step), starts=())
    if run is None or run.score(arm.task.objective)[0] >= arm.seconds:
        return arm
    return replace(arm, run=run)
