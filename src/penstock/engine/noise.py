"""Ops that take longer or shorter than they should: jitter, slow ranks and stragglers, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import compiled, native
from penstock.core.costs import Costs
from penstock.core.needs import dependencies
from penstock.core.op import WORK, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.core.timeline import Timeline
from penstock.engine.check import in_place, stuck

AT_ONCE = 4_000_000
"""Times of ops that are drawn at once."""


@dataclass(frozen=True)
class Noise:
    """How durations vary.

    Args:
        jitter: standard deviation of the logarithm of the factor on each op's time; factors have mean 1 (log-normal).
        slow: factor on all compute of a rank, by rank: 1.25 takes a quarter longer.
        straggler: factor on all compute of one rank, another in each draw; of as many draws as there are ranks each
            rank has one.
        seed: equal seeds draw equal factors.

    Raises:
        ValueError: a negative jitter or seed, or a factor that is not positive.

    Example:
        >>> Noise(jitter=0.05, slow={3: 1.25}).slow[3]
        1.25
    """

    jitter: float = 0.0
    slow: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    straggler: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < np.inf:
            raise ValueError(f"jitter={self.jitter:g}; give a deviation of 0 or more, for example 0.05")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}; give 0 or more")
        for rank, factor in self.slow.items():
            if not 0 < factor < np.inf:
                raise ValueError(f"rank {rank} is slow by {factor:g}; give a positive factor, for example 1.25")
        if not 0 < self.straggler < np.inf:
            raise ValueError(f"straggler={self.straggler:g}; give a positive factor, for example 1.25")


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
    if draws < 1:
        raise ValueError(f"draws={draws}; draw at least once")
    in_place(plan)
    seconds, fused = costs.of(plan), np.flatnonzero(plan.fused)
    step = max(1, AT_ONCE // max(1, len(plan)))
    times = _apart if plan.lowered or len(fused) or not np.isin(plan.ops[:, 0], WORK).all() else _together
    found = []
    for begin in range(0, draws, step):
        factor = factors(noise, plan.placement, plan.micros, plan.ops, range(begin, min(draws, begin + step)))
        factor[fused + 1] = factor[fused]
        found.append(times(plan, costs, seconds[:, None] * factor))
    return Spread(*np.concatenate(found, axis=1))


def factors(
    noise: Noise, place: Placement, micros: int, codes: NDArray[np.integer[Any]], draws: Sequence[int]
) -> NDArray[np.float64]:
    """What noise multiplies the times of ops by, draw by draw: shape (ops, draws), 1 for all that is no compute.

    A pass draws by its kind, stage and micro-batch, wherever it stands, so that different orders of the same work draw
    the same; a whole backward draws what the gradient of its input would.

    Args:
        noise: how times vary.
        place: where the stages live.
        micros: micro-batches per step, or slices of all of them.
        codes: kind, stage and micro-batch of each op, shape (ops, 3).
        draws: numbers of the draws.
    """
    rows = np.flatnonzero(np.isin(codes[:, 0], WORK))
    kind, stage, micro = codes[rows].T
    kind = np.where(kind == Kind.B, Kind.I, kind)
    rank = np.array(place.rank_of)[stage]
    found = np.ones((len(codes), len(draws)))
    for column, draw in enumerate(draws):
        factor = of_ranks(noise, place.ranks, draw)[rank]
        for one in np.unique(kind) if noise.jitter else ():
            normal = np.random.default_rng((noise.seed, draw, one)).standard_normal((place.stages, micros))
            at = kind == one
            factor[at] *= np.exp(noise.jitter * normal[stage[at], micro[at]] - noise.jitter**2 / 2)
        found[rows, column] = factor
    return found


def of_ranks(noise: Noise, ranks: int, draw: int) -> NDArray[np.float64]:
    """Factors on all compute of each rank in one draw, shape (ranks,): without jitter all that is drawn."""
    unknown = [rank for rank in noise.slow if not 0 <= rank < ranks]
    if unknown:
        raise ValueError(f"rank {unknown[0]} is slow, but ranks are 0..{ranks - 1}")
    factor = np.array([noise.slow.get(rank, 1.0) for rank in range(ranks)])
    if noise.straggler != 1:
        turn = np.random.default_rng((noise.seed, draw // ranks)).permutation(ranks)
        factor[turn[draw % ranks]] *= noise.straggler
    return factor


def _apart(plan: Plan, costs: Costs, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Makespan and span of each draw, shape (2, draws), each played by itself: what links carry depends on times."""
    found = []
    for drawn in seconds.T:
        played = play(plan, drawn, costs.hop_s, costs.host_of)
        stuck(plan, played)
        timeline = Timeline(plan, "noisy", played.start_s, played.end_s, played.waited_for, ())
        found.append((timeline.makespan_s, timeline.span_s))
    return np.array(found).T


def _together(plan: Plan, costs: Costs, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same of a plan of nothing but compute, where each op starts when the last of those before it has come."""
    played = play(plan, np.ones(len(plan)), costs.hop_s)
    stuck(plan, played)
    needed, rank = dependencies(plan).astype(np.int64), plan.rank_of_op
    lag = np.where(needed >= 0, costs.hop_s[rank[needed], rank[:, None]], 0.0)
    first, stop = plan.first[:-1], plan.first[1:]
    before = np.arange(-1, len(plan) - 1)
    busy = first < stop
    before[first[busy]] = -1
    start = starts(np.argsort(played.start_s, kind="stable"), before, needed, lag, seconds)
    end = (start + seconds)[stop[busy] - 1]
    return np.array([end.max(axis=0), (end - start[first[busy]]).max(axis=0)])


def starts(
    sequence: NDArray[np.int64],
    before: NDArray[np.int64],
    needed: NDArray[np.int64],
    lag: NDArray[np.float64],
    seconds: NDArray[np.float64],
    often: bool = False,
) -> NDArray[np.float64]:
    """When the ops of fixed lanes start, draw by draw: shape (ops, draws).

    Args:
        sequence: all ops, each behind what it needs and what stands before it in its lane.
        before: the op before each in its lane, -1 for none.
        needed, lag: what each op needs (-1: nothing) and how long its result travels, shape (ops, slots).
        seconds: what each op takes in each draw, shape (ops, draws).
        often: whether this is asked so often that the compiled loop is worth loading for few ops too.
    """
    start = np.zeros(seconds.shape)
    loop = native(_pass) if often else compiled(_pass, len(sequence))
    loop(sequence, before, needed, lag, seconds, start)
    return start


def _pass(sequence: Any, before: Any, needed: Any, lag: Any, seconds: Any, start: Any) -> None:
    """Plain Python that numba also compiles: a row holds one op in all draws."""
    for o in sequence:
        b = before[o]
        if b >= 0:
            start[o] = start[b] + seconds[b]
        for slot in range(needed.shape[1]):
            d = needed[o, slot]
            if d >= 0:
                start[o] = np.maximum(start[o], start[d] + seconds[d] + lag[o, slot])
