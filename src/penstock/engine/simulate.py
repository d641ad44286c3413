"""The simulator: a plan and what its ops cost, to a timeline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.plan import Plan
from penstock.core.play import Played, play
from penstock.core.timeline import Timeline
from penstock.engine.check import in_place, stuck
from penstock.engine.memory import memory


def simulate(plan: Plan, costs: Costs, label: str = "predicted") -> Timeline:
    """When every op would run, each rank taking its lane in order and each op as soon as it can.

    In a plan without sends, messages overlap with all else and never wait for each other (as papers draw schedules); in
    a plan with sends they occupy the link from rank to rank one after the other, and hold the ranks if blocking.

    Raises:
        IllegalPlan: the lanes cannot run to their end; ``check`` finds more.
        ValueError: the costs are for other numbers of stages or ranks.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("1f1b", ranks=4, micros=8)
        >>> timeline = simulate(plan, Costs.uniform(plan.placement))
        >>> timeline.makespan_s, round(timeline.bubble_sync, 4)
        (33.0, 0.2727)
    """
    played = _played(plan, costs)
    curves = memory(plan, played.start_s, played.end_s, costs)
    return Timeline(plan, label, played.start_s, played.end_s, played.waited_for, curves)


def last_s(plan: Plan, costs: Costs) -> NDArray[np.float64]:
    """Return when each rank has done its last op, as ``simulate`` has it, without a timeline and its memory.

    Raises:
        IllegalPlan, ValueError: as ``simulate``.

    >>> from penstock.schedules import build
    >>> plan = build("gpipe", ranks=2, micros=2)
    >>> last_s(plan, Costs.uniform(plan.placement)).tolist()
    [9.0, 7.0]
    """
    found = np.zeros(plan.placement.ranks)
    np.maximum.at(found, plan.rank_of_op, _played(plan, costs).end_s)
    return found


def _played(plan: Plan, costs: Costs) -> Played:
    placement = plan.placement
    if costs.seconds.shape[1] != placement.stages or len(costs.hop_s) != placement.ranks:
        raise ValueError(
            f"costs are for {costs.seconds.shape[1]} stages on {len(costs.hop_s)} ranks, "
            f"the plan has {placement.stages} on {placement.ranks}"
        )
    in_place(plan)
    played = play(plan, costs.of(plan), costs.hop_s, costs.host_of)
    stuck(plan, played)
    return played
