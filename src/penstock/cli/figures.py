"""The figures of a timeline: by the names that scripts read, as files, and as tables for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.core.timeline import Timeline
    from penstock.cost import Pricing

EXACT = 1e-9
"""Gaps below this share are differences of rounding."""


_COLUMNS = (
    *("name", "chunks", "makespan", "bubble_sync", "gap_makespan", "span", "bubble_span", "gap_span"),
    *("peak_over_p", "messages", "weight_copies"),
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Files:
    """Files to write; each is written whole or not at all."""

    json: Path | None = None
    """The figures as one JSON object."""
    html: Path | None = None
    """The timeline as a page that opens without a network."""
    png: Path | None = None
    """The timeline as a picture (.png or .svg)."""


def facts_of(
    timeline: Timeline, pricing: Pricing, memory: float | None, took_s: float, passes: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of a timeline by the names that scripts read; gaps and bubbles in per cent.

    Args:
        timeline: of a plan at these prices.
        pricing: what its ops cost.
        memory: the limit that the bounds know, as a fraction of 1F1B's peak; ``None`` means what the plan needs.
        took_s: seconds it took to build, check and simulate.
        passes: what changed the plan.
    """
    from penstock.cost import whole_bytes
    from penstock.engine import bounds

    plan, place = timeline.plan, timeline.plan.placement
    costs = pricing.on(place)
    whole = whole_bytes(place, costs)
    costs = costs.sliced(plan.slices)
    peaks = [float(peak) / whole for peak in timeline.peak_bytes]
    limit = max(peaks) if memory is None else memory
    within = None if _saves_memory(plan) else limit
    bound = bounds(place, plan.micros, costs, _bytes(within, whole)) if _bounded(plan, costs) else None
    messages, sent = _sent(plan, costs)
    return {
        "name": plan.name,
        "ranks": place.ranks,
        "micros": plan.micros // plan.slices,
        "slices": plan.slices,
        "chunks": max(map(place.rank_of.count, range(place.ranks))),
        "costs": pricing.figures,
        "w_share": pricing.w_share,
        "passes": list(passes),
        "memory": limit,
        "bound_memory": within,
        "makespan": timeline.makespan_s,
        "span": timeline.span_s,
        "bubble_span": 100 * timeline.bubble_span,
        "bubble_sync": 100 * timeline.bubble_sync,
        "peak_over_p": max(peaks),
        "peak_by_rank": peaks,
        "lower_bound_span": bound and bound.span.seconds,
        "lower_bound_makespan": bound and bound.makespan.seconds,
        "gap_span": bound and gap(timeline.span_s, bound.span.seconds),
        "gap_makespan": bound and gap(timeline.makespan_s, bound.makespan.seconds),
        "bound_span_kind": bound and bound.span.kind,
        "bound_makespan_kind": bound and bound.makespan.kind,
        "messages": messages,
        "message_bytes": sent,
        "weight_copies": place.stages // len(set(place.part_of)),
        "gradient_equal": plan.weights == "synced",
        "weights": plan.weights,
        **_of_updates(plan),
        "seconds": took_s,
    }


def _of_updates(plan: Plan) -> dict[str, Any]:
    """Of a plan without flush, per stage: the most updates by which a gradient is late, and the most versions of the
    weights held."""
    if plan.weights == "synced":
        return {"staleness": None, "weight_versions": None}
    from penstock.engine.staleness import versions

    found = versions(plan)
    return {"staleness": found.staleness.max(axis=1).tolist(), "weight_versions": found.kept(plan).tolist()}


def _bounded(plan: Plan, costs: Costs) -> bool:
    """Whether the bounds hold for a plan: they know no work that overlaps on one rank and no vocabulary passes."""
    import numpy as np

    from penstock.core.op import VOCABULARY

    beyond = np.isin(plan.ops[:, 0], VOCABULARY).any() or (plan.fused.any() and costs.overlap > 0)
    return plan.trains and not beyond


def _saves_memory(plan: Plan) -> bool:
    """Whether a plan holds less than its forwards keep, by work or copies that the bounds do not know. What no order
    beats within any memory it does not beat either: without them it would run as fast."""
    import numpy as np

    from penstock.core.op import HOST, Kind

    return bool(np.isin(plan.ops[:, 0], (Kind.R, *HOST)).any())


def _bytes(limit: float | None, whole: float) -> float:
    """A limit as a fraction of 1F1B's peak in bytes; none: infinite."""
    return float("inf") if limit is None else limit * whole


def gap(value: float, least: float) -> float:
    """How much longer than the least, in per cent.

    Example:
        >>> gap(33.0, 30.0)
        10.0
    """
    if not least or abs(value - least) <= EXACT * least:
        return 0.0
    return 100 * (value - least) / least


def _sent(plan: Plan, costs: Costs) -> tuple[int, float | None]:
    """Boundary tensors that one rank sends in a step, at most, and their bytes, ``None`` if nobody said their size."""
    import numpy as np

    from penstock.core.needs import dependencies

    needed, rank = dependencies(plan), plan.rank_of_op
    rows, slots = np.nonzero(needed >= 0)
    makers = needed[rows, slots]
    crossing = rank[makers] != rank[rows]
    makers, rows = makers[crossing], rows[crossing]
    maker, user = plan.ops[makers, 1], plan.ops[rows, 1]
    size = costs.boundary_bytes[np.where(np.array(plan.placement.prev)[user] == maker, maker, user)]
    count = np.bincount(rank[makers], minlength=plan.placement.ranks)
    total = np.bincount(rank[makers], size, plan.placement.ranks)
    return int(count.max()), float(total.max()) if costs.boundary_bytes.any() else None


def write_files(
    files: Files,
    outputs: dict[Path, str],
    facts: dict[str, Any] | list[dict[str, Any]],
    timelines: list[Timeline],
    title: str,
    picture: Callable[[Path], None] | None = None,
) -> None:
    """Write every file that was asked for; ``outputs`` holds those that are there already, ``picture`` draws another
    than the timelines."""
    import json

    from penstock.core.files import whole_file, write_whole

    if files.json is not None:
        outputs[files.json] = json.dumps(facts, indent=1) + "\n"
    if files.html is not None:
        from penstock.view import html

        outputs[files.html] = html.page(timelines, title, _as_tables(facts), unit="")
    if files.png is not None:
        from penstock.view import plot

        with whole_file(files.png) as stand_in:
            if picture is None:
                plot.save(timelines, stand_in, unit="")
            else:
                picture(stand_in)
    for path, content in outputs.items():
        write_whole(path, content)


def _as_tables(facts: dict[str, Any] | list[dict[str, Any]]) -> Any:
    """Figures as the page shows them: one schedule's as names and values, those of several as a table."""
    from penstock.view.html import Table

    if isinstance(facts, dict):
        return _as_words(facts)
    words = [_as_words(row) for row in facts]
    names = [name.replace("_", " ") for name in _COLUMNS]
    return [Table("All schedules", names, [[row[name] for name in names] for row in words])]


def _as_words(facts: dict[str, Any]) -> dict[str, str]:
    """The figures for people, without those that could not be had."""
    words = {name: as_word(value) for name, value in facts.items() if not isinstance(value, dict)}
    return {name.replace("_", " "): word for name, word in words.items() if word != "None"}


def as_word(value: Any) -> str:
    """A figure for people.

    Example:
        >>> as_word([1.0, 2.5]), as_word(None)
        ('1, 2.5', 'None')
    """
    if isinstance(value, list):
        return ", ".join(map(as_word, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_bounds(facts: dict[str, Any]) -> None:
    """The bounds of one schedule and how far it is from them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "time", "bubble", "no order beats", "gap", "because of", box=None, pad_edge=False)
    for what, bubble in (("span", "bubble_span"), ("makespan", "bubble_sync")):
        least = facts[f"lower_bound_{what}"]
        bound = [f"{least:.6g}", f"{facts[f'gap_{what}']:.2f} %", facts[f"bound_{what}_kind"]] if least else []
        table.add_row(what, f"{facts[what]:.6g}", f"{facts[bubble]:.2f} %", *bound)
    Console().print(table)
    within = "any" if facts["bound_memory"] is None else f"{facts['bound_memory']:.4g}"
    if not facts["gradient_equal"]:
        print(
            f"not gradient-equal: weights {facts['weights']}, by stage at most {as_word(facts['staleness'])} updates "
            f"late, {as_word(facts['weight_versions'])} versions; a window that fills and drains once"
        )
    print(
        f"peak memory {facts['peak_over_p']:.4g} of 1F1B's; bounds within {within}; "
        f"built, checked and simulated in {facts['seconds']:.3f} s"
    )
