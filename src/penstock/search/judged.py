"""What orders are expected to take under noise: plans beside each other in the same draws, and what none can beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import Noise, noisy, simulate
from penstock.engine.bounds import Bound
from penstock.engine.noise import of_ranks
from penstock.schedules.task import Objective, seconds_of
from penstock.search.ways import Finished, Way


@dataclass(frozen=True, eq=False)
class Judged:
    """A plan under noise.

    Args:
        finished: the plan as it runs without noise, and what its ops cost.
        where: the name of its placement.
        times_s: what counts in each draw, shape (draws,).
        turn: draws in which each rank straggles once.
    """

    finished: Finished
    where: str
    times_s: NDArray[np.float64]
    turn: int

    @property
    def plan(self) -> Plan:
        """What runs."""
        return self.finished.timeline.plan

    @property
    def seconds(self) -> float:
        """The mean over the draws."""
        return float(self.times_s.mean())

    def saves(self, other: Judged) -> tuple[float, float]:
        """Seconds that it is expected to take less than another under the same draws, and the standard error of that:
        of the mean of the differences turn by turn."""
        less = (other.times_s - self.times_s).reshape(-1, self.turn).mean(axis=1)
        return float(less.mean()), float(less.std(ddof=1) / np.sqrt(len(less)))


@dataclass(frozen=True, eq=False)
class Robust:
    """The answer of a search under noise, and what it would have been without.

    Args:
        noise: how times vary.
        ours: the answer.
        at_means: the best order at the times that ops take on the mean.
        named: the named schedule that is expected to take least; ``None`` if none is legal.
        bound: seconds that no order on any of the placements is expected to beat, and why.
        stints: pieces of work that were done under noise, over all placements.
    """

    noise: Noise
    ours: Judged
    at_means: Judged
    named: Judged | None
    bound: Bound
    stints: int

    @property
    def gap(self) -> float:
        """How much longer than the bound the answer is expected to take, as a share; by chance of the draws it can be
        below 0."""
        return self.ours.seconds / self.bound.seconds - 1 if self.bound.seconds else 0.0


def judged(finished: Finished, where: str, objective: Objective, noise: Noise, draws: int) -> Judged:
    """A plan in the first draws of a noise: so many, but whole turns and two of them at least."""
    plan = finished.timeline.plan
    each = turn(noise, plan.placement.ranks)
    spread = noisy(plan, finished.costs, noise, whole(draws, each))
    return Judged(finished, where, spread.makespan_s if objective == "sync" else spread.span_s, each)


def whole(draws: int, each: int) -> int:
    """So many draws in whole turns, two of them at least."""
    return max(2, -(-draws // each)) * each


def turn(noise: Noise, ranks: int) -> int:
    """Draws in which each rank straggles once."""
    return ranks if noise.straggler != 1 else 1


def least(plans: Iterable[tuple[str, Finished]], objective: Objective, noise: Noise, draws: int) -> Judged | None:
    """The plan that is expected to take least, of plans by the name and the costs of their placement.

    None is judged whose time at the mean of every op's times is above the least that is known already: a makespan, the
    longest of sums of them, is expected to be at least that (Jensen's inequality). A span can be less by a little.
    """
    known = list(plans)
    floors = [seconds_at_means(finished, objective, noise) for _, finished in known]
    best: Judged | None = None
    for k in np.argsort(floors, kind="stable"):
        if best is not None and floors[k] >= best.seconds:
            break
        one = judged(known[k][1], known[k][0], objective, noise, draws)
        best = one if best is None or one.seconds < best.seconds else best
    return best


def seconds_at_means(finished: Finished, objective: Objective, noise: Noise) -> float:
    """What counts of a plan at the mean of what noise makes of every op's time."""
    plan = finished.timeline.plan
    ranks = plan.placement.ranks
    factor = np.mean([of_ranks(noise, ranks, k) for k in range(turn(noise, ranks))], axis=0)
    return seconds_of(simulate(plan, _times(plan.placement, finished.costs, factor)), objective)


def expected_bound(way: Way, micros: int, memory_limit: float | None, objective: Objective, noise: Noise) -> Bound:
    """Seconds that nothing of a way is expected to beat: the bounds for each straggler in turn, their mean.

    With each straggler an order's time is at least that at the mean of every op's times, as it is convex in them
    (Jensen's inequality; for ``span``, the longest path from the first op of a rank to its last, which a bound for the
    rank holds for too), and no order beats the bound at these.
    """
    place, found = way.placement, list[Bound]()
    for k in range(turn(noise, place.ranks)):
        factor = of_ranks(noise, place.ranks, k)
        drawn = replace(
            way,
            costs=_times(place, way.costs, factor),
            least=None if way.least is None else _times(place, way.least, factor),
        )
        found.append(drawn.bound(micros, memory_limit, objective))
    most = max(found, key=lambda bound: bound.seconds)
    return replace(most, seconds=float(np.mean([bound.seconds for bound in found])))


def _times(place: Placement, costs: Costs, factor: NDArray[np.float64]) -> Costs:
    """Costs with a factor on all compute of each rank."""
    return replace(costs, seconds=costs.seconds * factor[list(place.rank_of)])
