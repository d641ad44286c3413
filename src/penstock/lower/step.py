"""The optimizer's step at the end of every lane."""

from __future__ import annotations

import numpy as np

from penstock.core.lane import Lane
from penstock.core.op import NO_MICRO, Kind
from penstock.core.plan import Plan


def add_step(plan: Plan) -> Plan:
    """The plan with one ``STEP`` per stage behind all other work (a synchronous optimizer: Qi et al. 2023 call the
    alternative post-validation).

    Example:
        >>> from penstock.schedules import build
        >>> print(add_step(build("gpipe", 1, 1)).lanes[0])
        0F0 0B0 0STEP
    """
    return plan.with_lanes(
        Lane(
            np.concatenate([lane.codes, [(Kind.STEP, stage, NO_MICRO) for stage in plan.placement.on(rank)]]),
            np.concatenate([lane.fused, np.zeros(len(plan.placement.on(rank)), dtype=np.bool_)]),
        )
        for rank, lane in enumerate(plan.lanes)
    )
