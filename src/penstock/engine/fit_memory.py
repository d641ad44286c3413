"""The least recompute that meets a memory limit."""

from __future__ import annotations

import numpy as np

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine.simulate import simulate
from penstock.lower.recompute import lives, recompute


def recompute_to_fit(plan: Plan, costs: Costs, limit_bytes: float) -> Plan:
    """The plan with ``R`` for as few micro-batches as this greedy rule finds: while a rank's peak is above the limit,
    of what it holds at its first peak the micro-batches are taken that wait longest for their backward.

    Args:
        plan: legal.
        costs: with what ``R`` takes and leaves (``lower.recompute_costs``).
        limit_bytes: most that any rank may hold.

    Raises:
        ValueError: a rank holds more even so; names it and what it holds.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("1f1b", ranks=4, micros=8)
        >>> fitted = recompute_to_fit(plan, Costs.uniform(plan.placement), limit_bytes=3.0)
        >>> [str(lane).count("R") for lane in fitted.lanes]
        [3, 0, 0, 0]
    """
    chosen: set[tuple[int, int]] = set()
    while True:
        fitted = recompute(plan, pairs=chosen)
        timeline = simulate(fitted, costs)
        over = np.flatnonzero(timeline.peak_bytes > limit_bytes * (1 + 1e-12))
        if not len(over):
            return fitted
        for rank in over:
            excess = float(timeline.peak_bytes[rank] - limit_bytes)
            more = _longest(fitted, costs, timeline, int(rank), excess, chosen)
            if not more:
                raise ValueError(
                    f"rank {rank} holds {timeline.peak_bytes[rank]:g} bytes with all it can recompute; "
                    f"the limit of {limit_bytes:g} needs less kept, more ranks or copies to the host"
                )
            chosen |= more


def _longest(
    plan: Plan, costs: Costs, timeline: Timeline, rank: int, excess: float, chosen: set[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Pairs alive at the first peak of a rank that would free the excess, longest waits first."""
    curve = timeline.memory[rank]
    peak_s = float(curve.time_s[np.argmax(curve.total_bytes)])
    forward, back = lives(plan)
    saving = costs.saved_bytes * (1 - costs.kept_share)
    found = []
    for s in plan.placement.on(rank):
        for i in np.flatnonzero((forward[s] != NOTHING) & (back[s] != NOTHING)).tolist():
            from_s, until_s = timeline.start_s[forward[s, i]], timeline.start_s[back[s, i]]
            if from_s <= peak_s < until_s and saving[s] > 0 and (s, i) not in chosen:
                found.append((float(from_s - until_s), s, i))
    pairs: set[tuple[int, int]] = set()
    for _, s, i in sorted(found):
        if excess <= 0:
            break
        pairs.add((s, i))
        excess -= float(saving[s])
    return pairs
