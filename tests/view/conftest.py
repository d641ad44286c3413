from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.timeline import Timeline
from penstock.engine import simulate
from penstock.lower import add_sends, add_step
from penstock.schedules import build

Make = Callable[..., Timeline]


def _make(
    schedule: str = "1f1b",
    ranks: int = 2,
    micros: int = 3,
    chunks: int = 1,
    sends: bool = False,
    blocking: bool = False,
    link_s: float = 0.0,
    step_s: float = 0.0,
    slower: float = 1.0,
    label: str = "predicted",
) -> Timeline:
    """A simulated timeline with unit costs; ``slower`` stretches every op of stage 0."""
    plan = build(schedule, ranks=ranks, micros=micros, chunks=chunks)
    plan = add_sends(plan, "blocking" if blocking else "overlapped") if sends or blocking else plan
    plan = add_step(plan) if step_s else plan
    costs = Costs.uniform(plan.placement, link_s=link_s, boundary_bytes=0.25)
    seconds = costs.seconds.copy()
    seconds[Kind.STEP] = step_s
    seconds[:, 0] *= slower
    return simulate(plan, replace(costs, seconds=np.asarray(seconds)), label)


@pytest.fixture(scope="session")
def make() -> Make:
    return _make
