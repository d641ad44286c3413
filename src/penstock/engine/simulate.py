"""The simulator: a plan and what its ops cost, to a timeline."""

from __future__ import annotations

from penstock.core.costs import Costs
from penstock.core.plan import Plan
from penstock.core.play import play
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
    placement = plan.placement
    if costs.seconds.shape[1] != placement.stages or len(costs.hop_s) != placement.ranks:
        raise ValueError(
            f"costs are for {costs.seconds.shape[1]} stages on {len(costs.hop_s)} ranks, "
            f"the plan has {placement.stages} on {placement.ranks}"
        )
    in_place(plan)
    played = play(plan, costs.of(plan), costs.hop_s, costs.host_of)
    stuck(plan, played)
    curves = memory(plan, played.start_s, played.end_s, costs)
    return Timeline(plan, label, played.start_s, played.end_s, played.waited_for, curves)
