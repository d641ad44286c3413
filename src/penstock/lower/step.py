"""The optimizer's step at the end of every lane."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from penstock.core.lane import Lane
from penstock.core.op import NO_MICRO, Kind
from penstock.core.plan import Plan

Validated = Literal["before", "after"]
"""When the norm over all ranks is known: before any weight moves, or after."""


def add_step(plan: Plan, validated: Validated = "before") -> Plan:
    """The plan with one ``STEP`` per stage behind all other work.

    Args:
        plan: without steps or updates.
        validated: ``before``: steps wait for all ranks, whose gradients make the norm; ``after``: each rank steps when
            it is done and goes on with the next forwards, and undoes the step if the norm, which comes meanwhile,
            demands it (post-validation: Qi et al. 2023, arXiv:2401.10241).

    Raises:
        ValueError: the plan's stages update by themselves.

    Example:
        >>> from penstock.schedules import build
        >>> print(add_step(build("gpipe", 1, 1)).lanes[0])
        0F0 0B0 0STEP
        >>> add_step(build("gpipe", 1, 1), "after").barrier
        False
    """
    if plan.weights != "synced":
        raise ValueError(f"plan {plan.name!r} updates its stages one by one; it takes no step at the end")
    stepped = plan.with_lanes(
        Lane(
            np.concatenate([lane.codes, [(Kind.STEP, stage, NO_MICRO) for stage in plan.placement.on(rank)]]),
            np.concatenate([lane.fused, np.zeros(len(plan.placement.on(rank)), dtype=np.bool_)]),
        )
        for rank, lane in enumerate(plan.lanes)
    )
    return replace(stepped, barrier=validated == "before")
