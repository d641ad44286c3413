"""The order that repeats fastest: seconds from one micro-batch to the next where very many follow each other.

Warm-up and cool-down no longer count then, only the turn in between: what every rank does again and again, for some
micro-batches later than for others. Its period is exact (``search.period``), and so is what turns hold. A constraint
solver is asked for faster ones, and shows what none that repeats beats (``search.turns``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from penstock.core.lane import Lane
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound
from penstock.schedules.problem import KINDS
from penstock.schedules.work import Work
from penstock.search.exact import installed
from penstock.search.kernel import shortest
from penstock.search.lines import ASKED, Line, asked, begun, line_of, seconds_of_asking, stint
from penstock.search.solution import Found, Options, Solution, seed_of
from penstock.search.turns import Shown
from penstock.search.ways import Way
from penstock.search.workers import Done, Job, Workers

FIRST_STINT_S, LAST_STINT_S = 0.25, 4.0
"""Stints double from one to the other."""
ASKING = 0.5
"""Share of the work that questions may take."""


class Steady:
    """A search under way."""

    def __init__(
        self,
        ways: Mapping[str, Way],
        micros: int,
        memory_limit: float | None,
        options: Options,
        watch: Callable[[Found, float], bool],
    ) -> None:
        self.options, self.watch, self.begun = options, watch, time.perf_counter()
        self.lines = {name: line_of(name, way, micros, memory_limit) for name, way in ways.items()}
        self.history: list[Found] = []
        self.stopped, self.rounds, self.last_s = False, 0, 0.0
        self.worked_s = self.asked_s = 0.0
        """Seconds that were meant for stints and questions; and for questions."""

    def run(self, pool: Workers | None, processes: int) -> Solution:
        """Search to the end of its time, and say what was found."""
        try:
            for name, line in self.lines.items():
                first = shortest(line.task)
                self.improved(name, line.given([] if first is None else [first]))
            lines = [*self.lines.values()]
            left_s = self.options.time_s - self.over_s if self.options.stints is None else math.inf
            for name, line in zip(self.lines, self._map(pool, begun, lines, [left_s] * len(lines)), strict=True):
                self.improved(name, line)
            while self.goes_on():
                self.round(pool, processes)
        except KeyboardInterrupt:
            self.stopped = True
        return self.solution()

    def _map(self, pool: Workers | None, work: Callable[..., Line], *jobs: list) -> Iterator[Line]:  # type: ignore[type-arg]
        return map(work, *jobs) if pool is None else pool.map(work, *jobs)

    def improved(self, name: str, line: Line) -> None:
        """A placement as it is now."""
        self.lines[name] = line
        if line.seconds < (self.history[-1].seconds if self.history else math.inf):
            found = Found(self.over_s, line.seconds, name)
            self.history.append(found)
            self.stopped |= not self.watch(found, self.bound.seconds)

    @property
    def bound(self) -> Bound:
        """What no order on any placement beats."""
        return min((line.bound for line in self.lines.values()), key=lambda bound: bound.seconds)

    @property
    def least_s(self) -> float:
        """From one micro-batch to the next in the best order."""
        return min(line.seconds for line in self.lines.values())

    @property
    def over_s(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self.begun

    def worthwhile(self) -> list[str]:
        """Placements on which a better order may exist, the best first."""
        least_s = self.least_s
        able = [name for name, line in self.lines.items() if line.bound.seconds < least_s * (1 - 1e-9) and line.kernels]
        return sorted(able, key=lambda name: self.lines[name].seconds)

    def stint_s(self) -> float:
        """How long the next stints are."""
        return min(LAST_STINT_S, FIRST_STINT_S * 2.0**self.rounds)

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        if self.stopped or self.options.stints == self.rounds or not self.worthwhile():
            return False
        needs = max(self.last_s, 0.5 * self.stint_s())
        return self.over_s + needs <= self.options.time_s

    def round(self, pool: Workers | None, processes: int) -> None:
        """One stint per process, side by side, on the placements in turn, the best ones first; one process asks the
        constraint solver instead, where that is due. A single process takes turns."""
        began, question = time.perf_counter(), self.question()
        seconds = max(self.stint_s(), seconds_of_asking(self.known(*question)) if question else 0.0)
        able = sorted(self.worthwhile(), key=lambda name: self.lines[name].stints)
        names = [able[k % len(able)] for k in range(processes - (question is not None))]
        seeds = [seed_of(self.options, self.rounds, k) for k in range(processes)]
        lines = [replace(self.lines[name], stints=self.lines[name].stints + k // len(able))
                 for k, name in enumerate(names)]  # fmt: skip
        run = Done if pool is None else pool.submit
        jobs = [run(stint, line, seconds, seed) for line, seed in zip(lines, seeds, strict=False)]
        answer = run(asked, self.lines[question[0]], question[1], self.least_s, seeds[-1]) if question else None
        for name, job in zip(names, jobs, strict=True):
            line = job.result()
            self.improved(name, replace(line.given([*self.lines[name].kernels]), stints=self.lines[name].stints + 1))
        self.worked_s += seconds * len(jobs)
        if question is not None and answer is not None:
            self.learn(*question, answer)
        self.rounds += 1
        self.last_s = time.perf_counter() - began

    def question(self) -> tuple[str, int] | None:
        """What to ask the constraint solver next: of the placement that was asked about least, with the first number
        of micro-batches per turn that may still be faster. ``None`` while it had its share, or has no time."""
        due = {name: self.lines[name].open(self.least_s) for name in self.worthwhile()} if installed() else {}
        able = [name for name, which in due.items() if which is not None]
        if not able or self.asked_s >= ASKING * self.worked_s:
            return None
        name = min(able, key=lambda one: self.lines[one].questions)
        which = due[name]
        assert which is not None
        late = self.over_s + seconds_of_asking(self.known(name, which)) > self.options.time_s
        return None if late else (name, which)

    def known(self, name: str, which: int) -> Shown:
        """What the constraint solver showed of a placement, for one of ``ASKED``."""
        return self.lines[name].shown[which]

    def learn(self, name: str, which: int, answer: Job | Done) -> None:
        """What the constraint solver says; what it has not said when time is up is given up."""
        line = self.lines[name]
        self.asked_s += (seconds := seconds_of_asking(self.known(name, which)))
        self.worked_s += seconds
        patience_s = None if self.options.stints is not None else max(0.0, self.options.time_s - self.over_s)
        with suppress(TimeoutError):
            said: Shown = answer.result(patience_s)
            known = (*line.shown[:which], replace(said, kernel=None), *line.shown[which + 1 :])
            self.improved(name, replace(line, shown=known).given([said.kernel] if said.kernel else []))

    def solution(self) -> Solution:
        """The best order for the step, or a named schedule that is faster still."""
        where = min(self.lines, key=lambda name: self.lines[name].seconds)
        line, task = self.lines[where], self.lines[where].task
        if line.seconds == math.inf:
            raise ValueError(f"no order that repeats is known that keeps memory_limit={task.memory_limit}; allow more")
        kernel = min(line.kernels, key=lambda one: one.micro_s, default=None)
        if kernel is not None and kernel.micro_s <= line.seconds * (1 + 1e-9):
            work = Work.of(task, KINDS, task.limit)
            plan = Plan("solved", task.placement, task.micros, tuple(map(Lane.of, work.lanes(kernel.order(work)))))
        else:
            plan = min(line.named, key=lambda one: one.micro_s).plan
        check(plan, task.costs, task.memory_limit)
        schedules = [(one.plan.name, one.micro_s) for each in self.lines.values() for one in each.named]
        return Solution(
            *(plan, where, simulate(plan, task.costs), task.costs, "period", self.bound, line.bound),
            *(min(schedules, key=lambda one: one[1], default=None), tuple(self.history)),
            stints=sum(line.stints + line.questions for line in self.lines.values()),
            micro_s=line.seconds,
            none_s={name: dict(zip(ASKED, (one.none_s for one in line.shown), strict=True))
                    for name, line in self.lines.items()},
        )  # fmt: skip
