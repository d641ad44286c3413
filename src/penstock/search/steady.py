"""The order that repeats fastest: seconds from one micro-batch to the next where very many follow each other.

Warm-up and cool-down no longer count then, only the turn in between: what every rank does again and again, for some
micro-batches later than for others. Its period is exact (``search.period``), and so is what turns hold. A constraint
solver is asked for faster ones, and shows how fast none is (``search.turns``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from penstock.core.lane import Lane
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound, period_bound
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.exact import MOST_OPS, installed
from penstock.search.kernel import EACH, cut, shortest
from penstock.search.proofs import LAST_S, OP_S
from penstock.search.repeat import TUNE_S, Kernel, tuned
from penstock.search.solution import CLOSE, Found, Options, Solution, seed_of
from penstock.search.starts import named, order_of
from penstock.search.turns import Shown, shown
from penstock.search.ways import Way
from penstock.search.workers import Done, Job, Workers

FIRST_STINT_S, LAST_STINT_S = 0.25, 4.0
"""Stints double from one to the other."""
MANY = 1000
"""Turns for which orders are improved."""
LONG = 8
"""Micro-batches for each rank from which on named schedules are taken to repeat; they are built for twice as many."""

ASKED = 1, 2
"""Micro-batches of every chain per turn for which a constraint solver is asked: the next where there is no more to gain
with those before."""
ASKING = 0.5
"""Share of the work that this may take."""
FIRST_S = 2.0
"""Questions about a placement double from this to ``LAST_S``."""


@dataclass(frozen=True, eq=False)
class Rated:
    """A named schedule of the step's micro-batches, and by how many seconds each further one lengthens it."""

    plan: Plan
    micro_s: float


@dataclass(frozen=True, eq=False)
class Line:
    """A placement, what no order on it beats, its best orders that repeat, and its named schedules."""

    way: Way
    task: Task
    bound: Bound
    kernels: tuple[Kernel, ...] = ()
    named: tuple[Rated, ...] = ()
    stints: int = 0
    shown: tuple[Shown, ...] = ()
    """What is known of orders that repeat each of ``ASKED``."""

    @property
    def seconds(self) -> float:
        """From one micro-batch to the next in the best order; infinite if there is none."""
        return min(
            [*(kernel.micro_s for kernel in self.kernels), *(one.micro_s for one in self.named)], default=math.inf
        )

    @property
    def questions(self) -> int:
        """How often the constraint solver was asked."""
        return sum(one.asked for one in self.shown)

    def ops(self, each: int) -> int:
        """Of a turn."""
        return len(KINDS) * each * self.task.placement.stages

    def open(self, beat_s: float) -> int | None:
        """The first of ``ASKED`` for which the constraint solver may say more of orders that take less."""
        small = [which for which, each in enumerate(ASKED) if self.ops(each) <= MOST_OPS]
        able = (which for which in small if self.shown[which].share)
        return next((which for which in able if self.shown[which].none_s < beat_s * (1 - CLOSE)), None)

    def given(self, kernels: list[Kernel]) -> Line:
        """With more orders: the best for each number of micro-batches per turn is kept."""
        best: dict[int, Kernel] = {}
        for kernel in sorted([*self.kernels, *kernels], key=lambda one: one.micro_s):
            best.setdefault(kernel.each, kernel)
        return replace(self, kernels=tuple(best.values()))


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
        self.lines = {name: _line(name, way, micros, memory_limit) for name, way in ways.items()}
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
            for name, line in zip(self.lines, self._map(pool, begun, [*self.lines.values()]), strict=True):
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
        began, question, seconds = time.perf_counter(), self.question(), self.stint_s()
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
        if not able or self.asked_s > ASKING * self.worked_s:
            return None
        name = min(able, key=lambda one: self.lines[one].questions)
        which = due[name]
        assert which is not None
        late = self.over_s + seconds_of_asking(self.lines[name].shown[which]) > self.options.time_s
        return None if late else (name, which)

    def learn(self, name: str, which: int, answer: Job | Done) -> None:
        """What the constraint solver says; what it has not said when time is up is given up."""
        line = self.lines[name]
        self.asked_s += (seconds := seconds_of_asking(line.shown[which]))
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


def _line(name: str, way: Way, micros: int, memory_limit: float | None) -> Line:
    """With nothing known but its bound."""
    if not way.plain:
        raise ValueError(
            f"{name}: only orders of forwards and backwards repeat; a search for the period changes no more"
        )
    task = way.task(micros, memory_limit, "span")
    bound = period_bound(way.placement, way.least or way.costs, task.limit)
    return Line(way, task, bound, shown=tuple(Shown(bound.seconds) for _ in ASKED))


def begun(line: Line) -> Line:
    """With the named schedules of the placement, and the turns that are found in them."""
    place, limit, rated, kernels = line.task.placement, line.task.limit, list[Rated](), list[Kernel]()
    long = replace(line.task, micros=LONG * place.ranks * place.chains)
    tasks = line.task, long, replace(long, micros=2 * long.micros)
    works = [Work.of(task, KINDS, limit) for task in tasks]
    for slow in (False, True):
        built = [{one.name: one.finished for one in named(line.way, task, work, slow) if one.finished}
                 for task, work in zip(tasks, works, strict=True)]  # fmt: skip
        for name in (name for name in built[0] if name in built[1] and name in built[2]):
            ends = [some[name].timeline.makespan_s for some in built[1:]]
            rated.append(Rated(built[0][name].timeline.plan, (ends[1] - ends[0]) / long.micros))
            kernels += cut(long, works[1], play(works[1], order_of(built[1][name].timeline.plan, works[1]))).values()
    return replace(line, named=tuple(rated)).given(kernels)


def stint(line: Line, seconds: float, seed: int) -> Line:
    """Work on a placement for about so long: a known order, or in every other stint the shortest that starts give."""
    each = EACH[line.stints % len(EACH)]
    known = {kernel.each: kernel for kernel in line.kernels}
    kernel = known.get(each) if line.stints // len(EACH) % 2 or line.stints == 0 else None
    kernel = kernel or shortest(line.task, each) or known.get(each) or line.kernels[0]
    moves = int(seconds / (TUNE_S * len(kernel.lane)))
    micros = MANY * kernel.each * line.task.placement.chains
    return line.given([tuned(kernel, "span", micros, moves, seed)])


def seconds_of_asking(known: Shown) -> float:
    """About how long the constraint solver is asked next."""
    return min(LAST_S, FIRST_S * 2.0**known.asked)


def asked(line: Line, which: int, beat_s: float, seed: int) -> Shown:
    """What the constraint solver says of orders on a placement that repeat so; equal arguments, equal results."""
    each, known = ASKED[which], line.shown[which]
    return shown(line.task, each, known, beat_s, seconds_of_asking(known) / (OP_S * line.ops(each)), seed)
