"""Steps one after the other: how long each takes once the next begins where ranks become free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import NO_MICRO
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.engine.check import stuck
from penstock.engine.simulate import simulate

STEPS = 16
"""Steps that are simulated; the later half counts."""


def step_ends(plan: Plan, costs: Costs, steps: int = STEPS) -> NDArray[np.float64]:
    """When each of several steps in a row has ended on all ranks, shape (steps,).

    With ``plan.barrier`` each begins when the last has ended everywhere. Without, each rank goes on at once with the
    next step's work; that no gradient is made before the last step is known to stand on all ranks costs nothing in a
    plan of one chain: its first gradient comes from forwards on every rank, which come after every rank's step. The
    last messages of a step are taken to arrive while their sender steps.

    Raises:
        IllegalPlan: the lanes cannot run to their end.
        ValueError: ``steps`` is less than 1, or the costs are for other sizes.

    Example:
        >>> from dataclasses import replace
        >>> from penstock.schedules import build
        >>> plan = build("zb-h2", ranks=4, micros=8)
        >>> costs = Costs.uniform(plan.placement)
        >>> step_ends(plan, costs, 3).tolist()
        [27.0, 54.0, 81.0]
        >>> step_ends(replace(plan, barrier=False), costs, 3).tolist()
        [27.0, 51.0, 75.0]
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; simulate at least 1")
    one = simulate(plan, costs).step_s
    if plan.barrier:
        return one * np.arange(1.0, steps + 1.0, dtype=np.float64)
    many = in_a_row(plan, steps)
    played = play(many, np.concatenate([np.tile(each, steps) for each in _by_rank(plan, costs.of(plan))]),
                  costs.hop_s, costs.host_of)  # fmt: skip
    stuck(many, played)
    ends = [[part.max(initial=0.0) for part in np.array_split(rank, steps)] for rank in _by_rank(many, played.end_s)]
    found: NDArray[np.float64] = np.max(ends, axis=0)
    return found


def period_s(plan: Plan, costs: Costs, steps: int = STEPS) -> float:
    """Time per step when steps follow each other: the mean over the later half of them.

    Example:
        >>> from penstock.core.op import Kind
        >>> from penstock.lower import add_step
        >>> from penstock.schedules import build
        >>> plan = build("zb-h2", ranks=4, micros=8)
        >>> costs = Costs.uniform(plan.placement, other_s={Kind.STEP: 2.0})
        >>> [period_s(add_step(plan, when), costs) for when in ("before", "after")]
        [29.0, 26.0]
    """
    ends = step_ends(plan, costs, max(2, steps))
    half = len(ends) // 2
    return float(ends[-1] - ends[half - 1]) / (len(ends) - half)


def in_a_row(plan: Plan, steps: int) -> Plan:
    """The plan's lanes so many times over, each time on further micro-batches."""

    def shifted(lane: Lane) -> Lane:
        codes = np.tile(lane.codes, (steps, 1)).reshape(steps, len(lane), 3)
        codes[:, :, 2] += np.where(codes[:, :, 2] == NO_MICRO, 0, plan.micros * np.arange(steps)[:, None])
        return Lane(codes.reshape(-1, 3), np.tile(lane.fused, steps))

    how = (plan.sends, plan.in_flight, plan.slices, plan.barrier, plan.weights, plan.slice_lengths)
    return Plan(plan.name, plan.placement, plan.micros * steps, tuple(map(shifted, plan.lanes)), *how)


def _by_rank(plan: Plan, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.split(values, plan.first[1:-1])
