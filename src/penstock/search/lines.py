"""One placement in a search for the order that repeats fastest: what is known of it, a stint of work, a question."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from penstock.core.plan import Plan
from penstock.engine.bounds import Bound, period_bound
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.exact import MOST_OPS
from penstock.search.kernel import EACH, cut, shortest
from penstock.search.repeat import TUNE_S, Kernel, tuned
from penstock.search.solution import CLOSE
from penstock.search.starts import named, order_of
from penstock.search.turns import Shown, shown
from penstock.search.ways import Finished, Way

MANY = 1000
"""Turns for which orders are improved."""
LONG = 8
"""Micro-batches for each rank from which on named schedules are taken to repeat; they are built for twice as many."""
LONGER = 2.0
"""How often as long as for a step it takes to build them for so many, about, where a step has few."""
ASKED = 1, 2
"""Micro-batches of every chain per turn for which a constraint solver is asked: the next where there is no more to gain
with those before."""
FIRST_S, LAST_S, EFFORT_S = 2.0, 8.0, 4.0
"""Questions about a placement double from the first to the second; and what a unit of the solver's effort takes, all
about."""


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


def line_of(name: str, way: Way, micros: int, memory_limit: float | None) -> Line:
    """With nothing known but its bound."""
    if not way.plain:
        raise ValueError(
            f"{name}: only orders of forwards and backwards repeat; a search for the period changes no more"
        )
    task = way.task(micros, memory_limit, "span")
    bound = period_bound(way.placement, way.least or way.costs, task.limit)
    return Line(way, task, bound, shown=tuple(Shown(bound.seconds) for _ in ASKED))


def begun(line: Line, patience_s: float = math.inf) -> Line:
    """With the named schedules of the placement, and the turns that are found in them; those that search for an order
    themselves are built for the step's micro-batches alone where more would take longer than ``patience_s``."""
    began, place, limit = time.perf_counter(), line.task.placement, line.task.limit
    long = replace(line.task, micros=LONG * place.ranks * place.chains)
    tasks = line.task, long, replace(long, micros=2 * long.micros)
    works = [Work.of(task, KINDS, limit) for task in tasks]
    rated, kernels = list[Rated](), list[Kernel]()
    for slow in (False, True):
        started, built = time.perf_counter(), [_built(line, line.task, works[0], slow)]
        now = time.perf_counter()
        if slow and now - began + LONGER * (now - started) > patience_s:
            for done in built[0].values():
                turns = _turns(line.task, works[0], done.timeline.plan)
                rated += [Rated(done.timeline.plan, min(turn.micro_s for turn in turns))] if turns else []
                kernels += turns
            break
        built += [_built(line, task, work, slow) for task, work in zip(tasks[1:], works[1:], strict=True)]
        for name in (name for name in built[0] if name in built[1] and name in built[2]):
            ends = [some[name].timeline.makespan_s for some in built[1:]]
            rated.append(Rated(built[0][name].timeline.plan, (ends[1] - ends[0]) / long.micros))
            kernels += _turns(long, works[1], built[1][name].timeline.plan)
    return replace(line, named=tuple(rated)).given(kernels)


def _built(line: Line, task: Task, work: Work, slow: bool) -> dict[str, Finished]:
    """Named schedules that keep the limit, by name."""
    return {one.name: one.finished for one in named(line.way, task, work, slow) if one.finished}


def _turns(task: Task, work: Work, plan: Plan) -> list[Kernel]:
    """Orders that repeat in the middle of a plan."""
    return [*cut(task, work, play(work, order_of(plan, work))).values()]


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
    return shown(line.task, each, known, beat_s, seconds_of_asking(known) / EFFORT_S, seed)
