"""What is tried where a user leaves a choice open: schedules, chunks per rank and knobs, at the same sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.timeline import Timeline
from penstock.engine import check, simulate
from penstock.engine.passes import apply_passes
from penstock.schedules import SCHEDULES, build
from penstock.schedules.build import placement_of
from penstock.schedules.task import reads_costs

if TYPE_CHECKING:
    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.cost import Pricing
    from penstock.engine.passes import Passed
    from penstock.schedules.task import Objective

CHUNKS = (1, 2, 4, 8)
"""Chunks per rank that are tried where the user fixed none."""
KNOBS: dict[str, tuple[str, Callable[[int, int], tuple[int, ...]]]] = {
    "interleaved": ("group", lambda p, m: (p + p // 2, 2 * p)),
    "gis": ("group", lambda p, m: ((p + 1) // 2, (3 * p + 3) // 4)),
    "zeropp": ("unit", lambda p, m: (p, 3 * p - 2, 4 * p - 3, m)),
}
"""Values of a knob that are tried besides its default, by ranks and micro-batches."""
Options = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What all candidates have in common.

    Args:
        ranks, micros: sizes p and m.
        chunks: chunks per rank; ``None`` tries several.
        memory: most activations of any rank, as a fraction of 1F1B's peak; ``None`` means any.
        objective: what counts.
        pricing: what ops cost.
        passes: what changes each plan before it is judged (``engine.passes``).
    """

    ranks: int
    micros: int
    chunks: int | None
    memory: float | None
    objective: Objective
    pricing: Pricing
    passes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A schedule that fits, or the reason why it does not."""

    name: str
    chunks: int
    options: Options
    timeline: Timeline | None
    seconds: float
    peak: float = math.inf
    """Highest memory of any rank as a fraction of 1F1B's, as far as it is known."""
    reason: str = ""

    def __str__(self) -> str:
        chunks = f" --chunks {self.chunks}" if self.chunks > 1 else ""
        return self.name + chunks + "".join(f" --option {name}={value}" for name, value in self.options.items())


def candidates(sizes: Sizes) -> Iterator[Candidate]:
    """Every schedule of the table at these sizes, with the chunks and knobs worth trying."""
    for name in SCHEDULES:
        for chunks in _chunks(name, sizes):
            for options in _options(name, chunks, sizes):
                yield attempt(name, chunks, options, sizes)


def attempt(name: str, chunks: int, options: Options, sizes: Sizes) -> Candidate:
    """Build, check and simulate one schedule."""
    begun = time.perf_counter()
    pricing = sizes.pricing

    def result(timeline: Timeline | None, peak: float = math.inf, reason: str = "") -> Candidate:
        return Candidate(name, chunks, options, timeline, time.perf_counter() - begun, peak, reason)

    if chunks > 1 and name in SCHEDULES and not SCHEDULES[name].chunks:
        return result(None, reason="has one chunk per rank")
    try:
        timeline, _ = made(name, chunks, options, sizes, lambda plan: (plan, _sliced(plan, pricing)))
    except ValueError as error:
        return result(None, reason=str(error).removeprefix(f"{name}: "))
    peak = peak_over_p(timeline, pricing.on(timeline.plan.placement))
    if sizes.memory is not None and exceeds(peak, sizes.memory):
        return result(None, peak, f"peaks at {peak:.4g} of 1F1B's memory")
    return result(timeline, peak)


def made(
    name: str, chunks: int, options: Options, sizes: Sizes, priced: Callable[[Plan], Passed]
) -> tuple[Timeline, Costs]:
    """One schedule built, checked, changed by the passes and simulated, and what its ops cost.

    One that reads costs keeps the limit of memory as it is built; but where passes follow, which may save memory, only
    if without it too much is left behind them.

    Args:
        name, chunks, options, sizes: which.
        priced: makes a plan ready for the passes, and prices it.

    Raises:
        ValueError: it cannot be had. (Whether it keeps the limit is the caller's to say.)
    """
    for memory in (None, sizes.memory) if sizes.passes and sizes.memory else (sizes.memory,):
        plan = build(
            name,
            sizes.ranks,
            sizes.micros,
            chunks,
            costs=sizes.pricing.on,
            memory_limit=limit_bytes(name, sizes.ranks, chunks, memory, sizes.pricing),
            objective=sizes.objective,
            **options,
        )
        check(plan)
        plan, costs = apply_passes(*priced(plan), sizes.passes)
        check(plan)
        timeline = simulate(plan, costs)
        if not exceeds(peak_over_p(timeline, sizes.pricing.on(plan.placement)), sizes.memory or math.inf):
            break
    return timeline, costs


def _sliced(plan: Plan, pricing: Pricing) -> Costs:
    return pricing.on(plan.placement).sliced(plan.slices)


def limit_bytes(name: str, ranks: int, chunks: int, memory: float | None, pricing: Pricing) -> float | None:
    """A fraction of 1F1B's peak in bytes, for the placement that a schedule has.

    Raises:
        ValueError: a schedule that keeps any limit cannot hold one micro-batch.
    """
    from penstock.cost import whole_bytes

    if memory is None:
        return None
    if name in SCHEDULES and reads_costs(SCHEDULES[name].lane) and memory * ranks < 1 - 1e-9:
        raise ValueError(f"--memory {memory:g} does not hold one micro-batch; {name} needs at least {1 / ranks:.6g}")
    place = placement_of(name, ranks, chunks)
    return memory * whole_bytes(place, pricing.on(place))


def peak_over_p(timeline: Timeline, costs: Costs) -> float:
    """Highest memory of any rank as a fraction of 1F1B's, which holds as many micro-batches as there are ranks."""
    from penstock.cost import whole_bytes

    return float(timeline.peak_bytes.max()) / whole_bytes(timeline.plan.placement, costs)


def exceeds(peak: float, memory: float) -> bool:
    """Whether a peak is above a limit by more than rounding."""
    return peak > memory * (1 + 1e-9)


def _chunks(name: str, sizes: Sizes) -> tuple[int, ...]:
    """Chunks that the schedule can have, of those worth trying; one that it cannot have if there is none."""
    if sizes.chunks is not None:
        return (sizes.chunks,)
    found = SCHEDULES[name]
    fitting = [v for v in (CHUNKS if found.chunks else (1,)) if not found.valid(sizes.ranks, sizes.micros, v)]
    return tuple(fitting) or (found.least_chunks(sizes.ranks, sizes.micros),)


def _options(name: str, chunks: int, sizes: Sizes) -> Iterator[Options]:
    yield {}
    if name not in KNOBS:
        return
    knob, values = KNOBS[name]
    for value in sorted(set(values(sizes.ranks, sizes.micros))):
        if 0 < value <= sizes.micros and not SCHEDULES[name].valid(sizes.ranks, sizes.micros, chunks, **{knob: value}):
            yield {knob: value}
