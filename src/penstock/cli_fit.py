"""What to take instead of a plan that needs too much memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.timeline import Timeline
from penstock.engine import simulate
from penstock.schedules import SCHEDULES, build


@dataclass(frozen=True)
class Sizes:
    """Sizes of a schedule, its costs on any placement, and the limit of memory as a fraction of 1F1B's peak."""

    ranks: int
    micros: int
    chunks: int
    costs: Callable[[Placement], Costs]
    memory: float


def fitting(name: str, sizes: Sizes) -> str:
    """The fastest other schedule that fits, else the most micro-batches with which this one does, as words."""
    trials = {(other, v) for other in SCHEDULES for v in (1, sizes.chunks)}
    fit = [timeline for other, v in sorted(trials) if (timeline := _fits(other, v, sizes.micros, sizes))]
    if fit:
        best = min(fit, key=lambda timeline: timeline.makespan_s)
        chunks = best.plan.placement.stages // sizes.ranks
        return f"{best.plan.name}{f' --chunks {chunks}' if chunks > 1 else ''} fits with {peak_over_p(best):.4g}"
    fewer = _most_micros(name, sizes)
    if fewer:
        return f"{name} fits with --micros {fewer}"
    return f"nothing fits less than {1 / sizes.ranks:.4g}, one micro-batch"


def peak_over_p(timeline: Timeline) -> float:
    """Highest memory of any rank as a fraction of 1F1B's, which holds as many micro-batches as there are ranks."""
    return float(timeline.peak_bytes.max()) / timeline.plan.placement.ranks


def exceeds(timeline: Timeline, memory: float) -> bool:
    """Whether a timeline needs more than a fraction of 1F1B's peak."""
    return peak_over_p(timeline) > memory * (1 + 1e-9)


def _fits(name: str, chunks: int, micros: int, sizes: Sizes) -> Timeline | None:
    """A schedule at these sizes; ``None`` if it cannot have them or does not fit."""
    try:
        limit = sizes.memory * sizes.ranks
        plan = build(name, sizes.ranks, micros, chunks, costs=sizes.costs, memory_limit=limit)
    except ValueError:
        return None
    timeline = simulate(plan, sizes.costs(plan.placement))
    return None if exceeds(timeline, sizes.memory) else timeline


def _most_micros(name: str, sizes: Sizes) -> int:
    """Most micro-batches that fit, 0 if none do; sought where the schedule can be built, peaks never fall with more."""
    step = sizes.ranks if SCHEDULES[name].valid(sizes.ranks, 1, sizes.chunks) else 1
    low, high = 0, -(-sizes.micros // step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(name, sizes.chunks, middle * step, sizes) else (low, middle)
    return low * step
