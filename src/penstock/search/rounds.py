"""The rounds of a search: which placements get the next stints, and what is known when they are done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import Bound
from penstock.schedules.reorder import Run
from penstock.schedules.task import Objective
from penstock.search.arms import FIRST, LATER, SEARCHING, Arm, arm_of, continued, evenly, steps_of, stint
from penstock.search.clock import BEGIN, Clock
from penstock.search.proofs import prove, proven, seconds_of_proof, worth_proving
from penstock.search.solution import Found, Options, Solution, seed_of
from penstock.search.starts import Named, named, searching_on
from penstock.search.ways import Finished, Way
from penstock.search.workers import Done, Workers, interleaved, processes_of

GAIN = 1e-4
"""Share of its time by which a stint must shorten an order to count as one that pays."""


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
        self.options, self.objective, self.watch = options, objective, watch
        self.micros, self.limit = micros, memory_limit
        self.best: tuple[str, Finished] | None = None
        self.reached = dict.fromkeys(ways, math.inf)
        """The best time of each way, finished."""
        self.named: dict[str, list[Named]] = {name: [] for name in ways}
        """Those that keep the limit, as they run."""
        self.named_s = math.inf
        self.history: list[Found] = []
        self.stints = 0
        self.turns = dict.fromkeys(ways, 0)
        """Stints on each way that should have improved its order and did not."""
        self.stopped = False
        self.processes = processes_of(options)
        self.clock = Clock(options, self.processes, begun)
        self.arms: dict[str, Arm] = {}
        self.open = True
        """Whether the bounds of some ways are not known yet."""
        self._learn_bounds(ways)
        self.open = False
        self.slow = [name for name, arm in self.arms.items() if searching_on(arm.task.placement)]
        """Ways with schedules that search themselves."""

    def _learn_bounds(self, ways: Mapping[str, Way]) -> None:
        """Begin with the ways that hold one micro-batch within the limit; the first plain one is the first answer.

        Raises:
            ValueError: none does.
        """
        for name, way in ways.items():
            if self.limit is None or way.loose > 1 or way.least_bytes <= self.limit * (1 + 1e-9):
                self.arms[name] = arm_of(way, self.micros, self.limit, self.objective)
                if way.plain and not self.history:
                    self.counts(name, self.arms[name].seconds, "")
        if not self.arms:
            name, least = min(((name, way.least_bytes) for name, way in ways.items()), key=lambda one: one[1])
            raise ValueError(
                f"memory_limit={self.limit:.6g} does not hold one micro-batch; it needs at least {least:.6g}, on {name}"
            )

    def begin(self, start: Plan | None) -> None:
        """The first answers: what is known without a search, of ways with the lowest bounds first. Finishing orders
        takes time, a part of all at most."""
        most_s = BEGIN * self.options.time_s if self.options.stints is None else math.inf
        for name in sorted(self.arms, key=self._promise):
            arm = self.arms[name]
            if arm.bound.seconds >= self.least_s or (not arm.way.plain and self.clock.over_s > most_s):
                continue
            self.improved(name, arm, "")
            for one in named(arm.way, arm.task, arm.work, slow=False, beat_s=self.named_s):
                self.know(name, one)
            if arm.way.plain and not self.named[name]:
                self.improved(name, evenly(self.arms[name]), "")
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
            found = Found(self.clock.over_s, seconds, f"{name} {schedule}".strip())
            self.history.append(found)
            self.stopped |= not self.watch(found, self.bound.seconds)

    @property
    def least_s(self) -> float:
        """The best time so far."""
        return self.history[-1].seconds if self.history else math.inf

    @property
    def bound(self) -> Bound:
        """A time that no order on any placement beats."""
        if self.open:
            return Bound(0.0, "none yet", 0)
        return min((arm.bound for arm in self.arms.values()), key=lambda bound: bound.seconds)

    def stint_s(self) -> float:
        """How long the next stints are."""
        if self.due() == FIRST:
            return self.clock.begin_s(len(self.arms))
        return self.clock.improve_s(max((len(self.arms[name].work.codes) for name in self.worthwhile()), default=0))

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        due = self.due()
        if self.stopped or self.options.stints == self.clock.rounds or (due == LATER and not self.worthwhile()):
            return False
        if due == LATER:
            return self.clock.in_time(self.clock.pace * self.stint_s())
        return due == SEARCHING or self.clock.holds(due)

    def due(self) -> int:
        """The step of the next round: each placement's first, then schedules that search themselves, then improvements.
        The first is left out if it would not end in time."""
        if self.lacking(FIRST) and self.clock.holds(FIRST):
            return FIRST
        return SEARCHING if self.lacking(SEARCHING) else LATER

    def lacking(self, step: int) -> list[str]:
        """Placements that are due a stint of a step: on which a better order may exist, or a better named schedule. No
        plain way goes without its named schedules, whatever the time."""
        able = self.worthwhile()
        if step == SEARCHING:
            early = able if self.clock.holds(step) else []
            able = [name for name in self.slow if name in early or self._may_name(name)]
        return [name for name in able if step not in self.arms[name].steps]

    def _may_name(self, name: str) -> bool:
        """Whether a named schedule of a plain way may be better than those that are known."""
        return self.arms[name].way.plain and self.arms[name].bound.seconds < self.named_s * (1 - 1e-9)

    def worthwhile(self) -> list[str]:
        """Placements on which a better order may exist, the best first."""
        able = [name for name, arm in self.arms.items() if arm.bound.seconds < self.least_s * (1 - 1e-9)]
        return sorted(able, key=self.reached.__getitem__)

    def chosen(self, pool: Workers | None, most: int) -> list[tuple[str, int]]:
        """Placements for the next stints, and their steps. Processes share what all placements are due, however long
        it takes; what is left of ``most`` stints is shared out: while they do not pay, the best placement has twice as
        many as the second, three times as many as the third, and so on."""
        due, found = self.due(), list[tuple[str, int]]()
        if due != LATER:
            steps = [[(name, step) for name in self.lacking(step)] for step in (SEARCHING, FIRST)]
            steps[1] *= due == FIRST
            both = {name for name, _ in steps[1] if SEARCHING in steps_of(self.arms[name], FIRST)}
            mixed = interleaved([one for one in steps[0] if one[0] not in both], steps[1])
            found = mixed if pool is not None else [one for one in mixed if one[1] == due][:most]
        able, turns = self.worthwhile(), {**self.turns}
        while able and len(found) < most:
            name = min(able, key=lambda one: (turns[one] + 1) * (able.index(one) + 1))
            turns[name] += 1
            found.append((name, LATER))
        return found

    def round(self, pool: Workers | None) -> None:
        """Stints, side by side; one process has proofs, where some may succeed. A single process takes turns. Where
        stints take so much longer than asked for that time runs out, what they would find is given up, but for named
        schedules."""
        began, due, proofs = time.perf_counter(), self.due(), self.to_prove()
        asked_s = [seconds_of_proof(self.arms[name]) for name in proofs]
        seconds = max([self.stint_s(), *asked_s])
        run = Done if pool is None else pool.submit
        jobs = self.chosen(pool, self.processes - bool(proofs))
        work = [run(stint, self.arms[name], step, seconds, self.seed(k)) for k, (name, step) in enumerate(jobs)]
        shown = [run(prove, self.arms[name], self.least_s, self.seed(len(jobs) + k)) for k, name in enumerate(proofs)]
        for (name, step), job in sorted(zip(jobs, work, strict=True), key=lambda one: one[0][1]):
            builds = SEARCHING in steps_of(self.arms[name], step) and name in self.slow
            with suppress(TimeoutError):
                if builds or self.worthwhile():
                    self.learn(name, step, *job.result(None if builds else self.clock.patience_s))
        for name, proof in zip(proofs, shown, strict=True):
            with suppress(TimeoutError):
                if self.worthwhile():
                    self.improved(name, proven(self.arms[name], proof.result(self.clock.patience_s)), "")
        self.stints += len(jobs) + len(proofs)
        self.clock.after(due, began, seconds * len(jobs), sum(asked_s), seconds if due == LATER and jobs else None)

    def learn(self, name: str, step: int, run: Run | None, found: list[Named]) -> None:
        """What a stint found."""
        before_s = self.arms[name].seconds
        for one in found:
            self.know(name, one)
        self.improved(name, self.arms[name].after(step, run), "")
        self.turns[name] += step == LATER and self.arms[name].seconds > before_s * (1 - GAIN)

    def to_prove(self) -> list[str]:
        """The placements for proofs of this round: those that would end in time, while proofs have their share."""
        found = worth_proving((name, self.arms[name]) for name in self.worthwhile())
        return [name for name in found if self.clock.has_proofs(seconds_of_proof(self.arms[name]))]

    def seed(self, number: int) -> int:
        """Of a stint of this round."""
        return seed_of(self.options, self.clock.rounds, number)

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
