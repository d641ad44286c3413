"""The second half of a search for times that vary: the best orders of each placement improved and judged under noise.

Importing this module loads numba.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import chain, cycle, islice

from penstock.engine import Noise, check, simulate
from penstock.schedules.reorder import play
from penstock.search.arms import Arm
from penstock.search.drawn import Hardened, hardened, stint
from penstock.search.judged import Judged, Robust, expected_bound, judged, least
from penstock.search.rounds import Search
from penstock.search.solution import Found, Solution, seed_of
from penstock.search.ways import Finished
from penstock.search.workers import Workers

NEAR = 1.01
"""How much longer than the best, as a factor, the order of a placement may be that is still improved."""
STINT_S = 1.0
"""How long stints are."""
WORTH = 1e-3
"""Share of the expected time that an order must save which takes longer without noise."""


def harden(search: Search, noise: Noise, pool: Workers | None) -> Solution:
    """Go on with a search until its time is up, for the least expected time; the answer of both halves."""
    second = Hardening(search, noise)
    while second.goes_on():
        try:
            second.round(pool)
        except KeyboardInterrupt:
            search.stopped = True
    return second.solution()


class Hardening:
    """The second half under way."""

    def __init__(self, search: Search, noise: Noise) -> None:
        self.search, self.noise, self.draws = search, noise, search.options.draws
        sizes = search.micros, search.limit, search.objective
        bounds = (expected_bound(arm.way, *sizes, noise) for arm in search.arms.values())
        self.bound = min(bounds, key=lambda one: one.seconds)
        self.plain = search.solution()
        began = time.perf_counter()
        self.at_means = self.judged(Finished(self.plain.timeline, self.plain.costs), self.plain.where)
        self.judging_s = time.perf_counter() - began
        self.named = least(search.known(), search.objective, noise, self.draws)
        """The schedule that is expected to take least."""
        known = {name: arm for name, arm in search.arms.items() if arm.way.plain and arm.run is not None}
        self.arms: dict[str, Hardened] = {name: self.begun(name, arm) for name, arm in known.items()}
        self.fresh = {*self.arms}
        self.stints = self.rounds = 0
        self.last_s = 0.0

    def begun(self, name: str, arm: Arm) -> Hardened:
        """A placement with the best to begin with: its best order without noise, or the best named schedule."""
        one = hardened(arm, self.noise, self.draws)
        for known in self.search.named[name]:
            if self.named is not None and known.finished is self.named.finished:
                one = one.given(play(arm.work, known.order))
        return one

    def goes_on(self) -> bool:
        """Whether there is something to gain, and time for it."""
        if self.search.stopped or self.search.options.stints == self.rounds or not self.worthwhile():
            return False
        return self.search.clock.in_time(max(self.last_s, 0.5 * STINT_S) + self.judging_s, self.search.options.time_s)

    def worthwhile(self) -> list[str]:
        """Placements that may hold the order that is expected to take least, the best first; none if it is known."""
        least_s = min((one.seconds for one in self.arms.values()), default=math.inf)
        if least_s <= self.bound.seconds:
            return []
        able = [name for name, one in self.arms.items() if one.seconds <= NEAR * least_s]
        return sorted(able, key=lambda name: self.arms[name].seconds)

    def round(self, pool: Workers | None) -> None:
        """One stint per process, side by side: on each placement once, then two on the best for one on the second."""
        began, able = time.perf_counter(), self.worthwhile()
        often = cycle([able[0], able[min(1, len(able) - 1)], able[0]])
        names = [*islice(chain((name for name in able if name in self.fresh), often), self.search.processes)]
        options, numbered = self.search.options, enumerate(names, self.stints)
        jobs = [(self.arms[one], STINT_S, k, seed_of(options, 0, k)) for k, one in numbered]
        runs = list((map if pool is None else pool.map)(stint, *zip(*jobs, strict=True)))
        for name, run in zip(names, runs, strict=True):
            self.arms[name] = self.arms[name].given(run)
        self.fresh -= {*names}
        self.stints, self.rounds = self.stints + len(names), self.rounds + 1
        self.last_s = time.perf_counter() - began
        self.tell()

    def tell(self) -> None:
        """Say how far it has come."""
        name = min(self.arms, key=lambda name: self.arms[name].seconds)
        found = Found(self.search.clock.over_s, self.arms[name].seconds, f"{name} under noise")
        self.search.stopped |= not self.search.watch(found, self.bound.seconds)

    def solution(self) -> Solution:
        """The answer: of the order found, the best without noise and the named schedules the one that is expected to
        take least; the best without noise also where so little is saved that it is not worth a longer step."""
        ours, named = self.at_means, self.named
        if self.arms:
            best = min(self.arms, key=lambda name: self.arms[name].seconds)
            arm = replace(self.arms[best].arm, run=self.arms[best].run)
            one = self.judged(Finished(simulate(arm.plan(), arm.task.costs), arm.task.costs), best)
            ours = one if one.seconds < (1 - WORTH) * ours.seconds else ours
        if named is not None and named.seconds < ours.seconds:
            ours = named
        timeline, costs = ours.finished
        check(timeline.plan, costs, self.search.limit)
        return replace(
            self.plain,
            plan=timeline.plan,
            where=ours.where,
            timeline=timeline,
            costs=costs,
            bound_here=self.search.arms[ours.where].bound,
            stints=self.plain.stints + self.stints,
            robust=Robust(self.noise, ours, self.at_means, named, self.bound, self.stints),
        )

    def judged(self, finished: Finished, where: str) -> Judged:
        """A plan under the draws that the answer is judged by."""
        return judged(finished, where, self.search.objective, self.noise, self.draws)
