"""Ops that take longer or shorter than they should: jitter and slow ranks, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import WORK
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.core.timeline import Timeline
from penstock.engine.check import in_place, stuck


@dataclass(frozen=True)
class Noise:
    """How durations vary.

    Args:
        jitter: standard deviation of the logarithm of the factor on each op's time; factors have mean 1 (log-normal).
        slow: factor on all compute of a rank, by rank: 1.25 takes a quarter longer.
        seed: equal seeds draw equal factors.

    Raises:
        ValueError: a negative jitter or a factor that is not positive.

    Example:
        >>> Noise(jitter=0.05, slow={3: 1.25}).slow[3]
        1.25
    """

    jitter: float = 0.0
    slow: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < np.inf:
            raise ValueError(f"jitter={self.jitter:g}; give a deviation of 0 or more, for example 0.05")
        for rank, factor in self.slow.items():
            if not 0 < factor < np.inf:
                raise ValueError(f"rank {rank} is slow by {factor:g}; give a positive factor, for example 1.25")


@dataclass(frozen=True, eq=False)
class Spread:
    """What several draws of a plan's noise took, one entry each."""

    makespan_s: NDArray[np.float64]
    span_s: NDArray[np.float64]

    def mean(self, objective: str) -> float:
        """Expected time of ``sync`` (the makespan) or ``span``."""
        return float((self.makespan_s if objective == "sync" else self.span_s).mean())


def noisy(plan: Plan, costs: Costs, noise: Noise, draws: int = 100) -> Spread:
    """Makespan and span of a plan whose ops take seeded random times, draw by draw.

    Messages keep their times. The first k of more draws are those of k draws.

    Args:
        plan: legal.
        costs: what ops take on the mean.
        noise: how they vary.
        draws: how many times.

    Raises:
        ValueError: ``draws`` below 1, or a slow rank that the plan does not have.
        IllegalPlan: the lanes cannot run to their end.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("1f1b", ranks=4, micros=8)
        >>> spread = noisy(plan, Costs.uniform(plan.placement), Noise(slow={0: 2.0}), draws=1)
        >>> spread.makespan_s.tolist()
        [51.0]
    """
    ranks = plan.placement.ranks
    unknown = [rank for rank in noise.slow if not 0 <= rank < ranks]
    if unknown:
        raise ValueError(f"rank {unknown[0]} is slow, but ranks are 0..{ranks - 1}")
    if draws < 1:
        raise ValueError(f"draws={draws}; draw at least once")
    in_place(plan)
    work = np.isin(plan.ops[:, 0], WORK)
    factor = np.array([noise.slow.get(rank, 1.0) for rank in range(ranks)])[plan.rank_of_op]
    seconds = costs.of(plan) * np.where(work, factor, 1.0)
    found = np.array([_once(plan, costs, seconds * _factors(plan, work, noise, draw)) for draw in range(draws)])
    return Spread(found[:, 0], found[:, 1])


def _factors(plan: Plan, work: NDArray[np.bool_], noise: Noise, draw: int) -> NDArray[np.float64]:
    factors = np.ones(len(plan))
    if noise.jitter:
        normal = np.random.default_rng((noise.seed, draw)).standard_normal(int(work.sum()))
        factors[work] = np.exp(noise.jitter * normal - noise.jitter**2 / 2)
    fused = np.flatnonzero(plan.fused)
    factors[fused + 1] = factors[fused]
    return factors


def _once(plan: Plan, costs: Costs, seconds: NDArray[np.float64]) -> tuple[float, float]:
    played = play(plan, seconds, costs.hop_s, costs.host_of)
    stuck(plan, played)
    timeline = Timeline(plan, "noisy", played.start_s, played.end_s, played.waited_for, ())
    return timeline.makespan_s, timeline.span_s
