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
from penstock.search.proofs import prove, proven, seconds_of_proof, worth_proving
from penstock.search.solution import Found, Options, Solution, seed_of
from penstock.search.starts import Named, named, searching_on
from penstock.search.ways import Finished, Way
from penstock.search.workers import Done, Workers, interleaved, processes_of

BEGIN = 0.25
"""Share of the time after which no further way is begun that needs its orders finished; and that all ways together
take to try where to begin, about."""
LEAST_STINT_S, FIRST_STINT_S, BEGIN_STINT_S, LAST_STINT_S = 0.0625, 0.25, 0.5, 2.0
"""Stints double from the second to the last, so that a short search tries everything too; those that only try where to
begin end at the third. Where little time is left they are shorter, down to the first."""


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
        self.best: tuple[str, Finished] | None = None
        self.reached = dict.fromkeys(ways, math.inf)
        """The best time of each way, finished."""
        self.named: dict[str, list[Named]] = {name: [] for name in ways}
        """Those that keep the limit, as they run."""
        self.named_s = math.inf
        self.history: list[Found] = []
        self.stints = self.rounds = 0
        self.turns = dict.fromkeys(ways, 0)
        """Stints that improved an order of each way, or tried to."""
        self.last_s, self.pace, self.stopped = [0.0] * 3, 1.0, False
        """Seconds of the last round of each step; how many times as long as asked for those took that improve."""
        self.processes = processes_of(options)
        self.arms: dict[str, Arm] = {}
        self.open = True
        """Whether the bounds of some ways are not known yet."""
        self._learn_bounds(ways)
        self.open = False
        self.slow = {name for name, arm in self.arms.items() if searching_on(arm.task.placement)}
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
            if arm.bound.seconds >= self.least_s or (not arm.way.plain and self.over_s > most_s):
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
        if self.open:
            return Bound(0.0, "none yet", 0)
        return min((arm.bound for arm in self.arms.values()), key=lambda bound: bound.seconds)

    def stint_s(self) -> float:
        """How long the next stints are: what has been reached of the doubling, or as much of it as the time holds."""
        if self.due() == FIRST:
            each = BEGIN * self.options.first_s * self.processes / max(1, len(self.arms))
            return min(BEGIN_STINT_S, max(LEAST_STINT_S, each), FIRST_STINT_S * 2.0**self.rounds)
        seconds = min(LAST_STINT_S, FIRST_STINT_S * 2.0**self.rounds)
        while seconds > LEAST_STINT_S and not self.in_time(self.pace * seconds, self.options.first_s):
            seconds /= 2
        return seconds

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        if self.stopped or self.options.stints == self.rounds or not self.worthwhile():
            return False
        needs_s = self.pace * self.stint_s() if self.due() == LATER else self.last_s[self.due()]
        return self.in_time(needs_s, self.options.first_s)

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
        return [name for name in able if step not in self.arms[name].steps and (step == FIRST or name in self.slow)]

    def worthwhile(self) -> list[str]:
        """Placements on which a better order may exist, the best first."""
        able = [name for name, arm in self.arms.items() if arm.bound.seconds < self.least_s * (1 - 1e-9)]
        return sorted(able, key=self.reached.__getitem__)

    def chosen(self, pool: Workers | None, most: int) -> list[tuple[str, int]]:
        """Placements for the next stints, and their steps. Processes share what all placements are due, however long
        it takes; what is left of ``most`` stints is shared out: the best placement has twice as many as the second,
        three times as many as the third, and so on."""
        due, found = self.due(), list[tuple[str, int]]()
        if due != LATER:
            steps = [[(name, step) for name in self.lacking(step)] for step in (SEARCHING, FIRST)]
            both = {name for name, _ in steps[1] if SEARCHING in steps_of(self.arms[name], FIRST)}
            mixed = interleaved([one for one in steps[0] if one[0] not in both], steps[1])
            found = mixed if pool is not None else [one for one in mixed if one[1] == due][:most]
        able, turns = self.worthwhile(), {**self.turns}
        while len(found) < most:
            name = min(able, key=lambda one: (turns[one] + 1) * (able.index(one) + 1))
            turns[name] += 1
            found.append((name, LATER))
        return found

    def round(self, pool: Workers | None) -> None:
        """Stints, side by side; one process has proofs, where some may succeed. A single process takes turns. Where
        stints take so much longer than asked for that time runs out, what they would find is given up."""
        began, due, proofs = time.perf_counter(), self.due(), self.to_prove()
        seconds = max([self.stint_s(), *(seconds_of_proof(self.arms[name]) for name in proofs)])
        run = Done if pool is None else pool.submit
        jobs = self.chosen(pool, self.processes - bool(proofs))
        work = [run(stint, self.arms[name], step, seconds, self.seed(k)) for k, (name, step) in enumerate(jobs)]
        shown = [run(prove, self.arms[name], self.least_s, self.seed(len(jobs) + k)) for k, name in enumerate(proofs)]
        with suppress(TimeoutError):
            for (name, step), job in sorted(zip(jobs, work, strict=True), key=lambda one: one[0][1]):
                if self.worthwhile():
                    self.learn(name, step, *job.result(self.patience_s))
            for name, proof in zip(proofs, shown, strict=True):
                if self.worthwhile():
                    self.improved(name, proven(self.arms[name], proof.result(self.patience_s)), "")
        self.stints += len(jobs) + len(proofs)
        self.rounds += 1
        self.last_s[due] = time.perf_counter() - began
        if due == LATER and jobs:
            self.pace = max(1.0, self.last_s[due] / seconds)

    def learn(self, name: str, step: int, run: Run | None, found: list[Named]) -> None:
        """What a stint found."""
        for one in found:
            self.know(name, one)
        self.improved(name, self.arms[name].after(step, run), "")
        self.turns[name] += step == LATER

    @property
    def patience_s(self) -> float | None:
        """Seconds for which stints are still waited for; ``None`` where not the time says how far the search goes."""
        return None if self.options.stints is not None else max(0.0, self.options.first_s - self.over_s)

    def to_prove(self) -> list[str]:
        """The placements for proofs of this round."""
        if self.processes == 1 and self.rounds % 2 == 0:
            return []
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
