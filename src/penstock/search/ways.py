"""Ways to do the work: besides where stages live, how layers are cut into them and what becomes of activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import bounds, problems, simulate
from penstock.engine.bounds import Bound, least_bytes
from penstock.engine.passes import Passed
from penstock.lower import recompute
from penstock.schedules.task import Objective, Task, seconds_of

Finish = Callable[[Plan], Passed]
"""What becomes of an order: the plan that runs, and what its ops cost."""


class Finished(NamedTuple):
    """A plan as it runs, and what its ops cost."""

    timeline: Timeline
    costs: Costs

    def seconds(self, objective: Objective) -> float:
        """The time that counts."""
        return seconds_of(self.timeline, objective)


@dataclass(frozen=True, eq=False)
class Way:
    """One way to do the work.

    Args:
        placement: where stages live.
        costs: that orders are made for: of forwards, input gradients and weight gradients.
        again: stages whose forward runs again before each backward; ``costs`` say what it takes and what stays.
        finish: what becomes of an order; ``None``: nothing more.
        loose: orders may hold so many times the limit, which ``finish`` brings down again.
        least: what the ops cost for sure, if that is less than ``costs``: lower bounds argue with it.
    """

    placement: Placement
    costs: Costs
    again: frozenset[int] = frozenset()
    finish: Finish | None = None
    loose: float = 1.0
    least: Costs | None = None

    @property
    def plain(self) -> bool:
        """Whether an order is all there is to say."""
        return not self.again and self.finish is None

    @property
    def least_bytes(self) -> float:
        """What one micro-batch holds on the rank that holds most of it; where forwards run again, in between."""
        return least_bytes(self.placement, self._kept)

    @property
    def _kept(self) -> Costs:
        """The costs with what stays of activations where forwards run again."""
        costs, again = self.least or self.costs, [*self.again]
        kept, share = costs.saved_bytes.copy(), costs.w_share.copy()
        kept[again] *= costs.kept_share[again]
        whole = costs.saved_bytes[again] * share[again]
        share[again] = np.minimum(1.0, np.divide(whole, kept[again], out=np.ones(len(again)), where=kept[again] > 0))
        return replace(costs, saved_bytes=kept, w_share=share)

    def task(self, micros: int, memory_limit: float | None, objective: Objective) -> Task:
        """What orders are made for."""
        limit = None if memory_limit is None else memory_limit * self.loose
        return Task(self.placement, micros, self.costs, limit, objective, self.again)

    def finished(self, plan: Plan, memory_limit: float | None) -> Finished | None:
        """What becomes of an order; ``None`` if that breaks the limit."""
        costs = self.costs
        if self.again:
            plan = recompute(plan, self.again)
        if self.finish is not None:
            try:
                plan, costs = self.finish(plan)
            except ValueError:
                return None
        if not self.plain and problems(plan, costs, memory_limit):
            return None
        return Finished(simulate(plan, costs), costs)

    def soonest_s(self, plan: Plan, objective: Objective) -> float:
        """A time that counts, which no end of an order comes before: what is added delays it or does not."""
        return seconds_of(simulate(plan, self.least or self.costs), objective)

    def bound(self, micros: int, memory_limit: float | None, objective: Objective) -> Bound:
        """A time that nothing of this way beats.

        Where forwards run again, the limit is argued about with what stays in between, and what they take is only
        counted as work; where ``finish`` moves activations, nothing is argued from the limit.

        Raises:
            ValueError: the limit does not hold one micro-batch.
        """
        limit = np.inf if memory_limit is None or self.loose > 1 else memory_limit
        found = bounds(self.placement, micros, self._kept, limit)
        bound = found.makespan if objective == "sync" else found.span
        return max(bound, self._work(micros, objective), key=lambda one: one.seconds) if self.again else bound

    def _work(self, micros: int, objective: Objective) -> Bound:
        """All work of the busiest rank, forwards that run again too, behind the time until it can begin."""
        place, seconds = self.placement, self.costs.seconds
        each = seconds[[Kind.F, Kind.I, Kind.W]].sum(axis=0)
        again = [*self.again]
        each[again] += seconds[Kind.R, again]
        work = micros // place.chains * np.bincount(place.rank_of, each)
        return Bound(float(work.max()), "work", int(work.argmax()))


def ways_of(placements: Mapping[str, Placement | Way], costs: Callable[[Placement], Costs]) -> dict[str, Way]:
    """Placements as ways that are nothing but a placement."""
    return {name: place if isinstance(place, Way) else Way(place, costs(place)) for name, place in placements.items()}
