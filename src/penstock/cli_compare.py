"""``penstock schedule all``: every schedule of the table at the same sizes, ranked."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cli_fit import exceeds, peak_over_p
from penstock.cli_plan import Files, facts_of, write_files
from penstock.cli_prices import Prices, costs_of
from penstock.core.needs import dependencies
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import check, simulate
from penstock.schedules import SCHEDULES, build
from penstock.schedules.task import Objective

TRIED_CHUNKS = (1, 2, 4)
"""Chunks per rank that are tried where the user fixed none."""
DRAWN = 6
"""How many of the best schedules a picture or a page shows."""


@dataclass(frozen=True)
class Sizes:
    """What all candidates have in common; ``chunks`` None tries several, ``memory`` is a fraction of 1F1B's peak."""

    ranks: int
    micros: int
    chunks: int | None
    memory: float | None


@dataclass(frozen=True)
class Candidate:
    """A schedule that fits, or the reason why it does not."""

    name: str
    chunks: int
    timeline: Timeline | None
    seconds: float
    reason: str = ""


def compare(sizes: Sizes, objective: Objective, csv_file: Path | None, prices: Prices, files: Files) -> None:
    """Rank every schedule, best first, and say why the others cannot be had.

    Raises:
        ValueError: none can be had.
    """
    if sizes.memory is not None and not sizes.memory > 0:
        raise ValueError(f"--memory {sizes.memory:g}: give a positive fraction of 1F1B's peak, for example 1.0")
    found = [_try(name, chunks, sizes, prices, objective) for name, chunks in _pairs(sizes)]
    key = "makespan" if objective == "sync" else "span"
    rows = [(facts_about(one, sizes, prices), one.timeline) for one in found if one.timeline is not None]
    if not rows:
        raise ValueError(f"no schedule fits: {'; '.join(f'{one.name} {one.reason}' for one in found)}")
    rows.sort(key=lambda row: (row[0][key], row[0]["peak_over_p"]))
    ranked = [facts for facts, _ in rows]
    best = [timeline for _, timeline in rows[:DRAWN]]
    outputs = {csv_file: _to_csv(ranked)} if csv_file else {}
    write_files(files, outputs, ranked, best, f"{sizes.ranks} ranks, {sizes.micros} micro-batches")
    _print_ranking(ranked, key)
    for one in found:
        if one.timeline is None:
            print(f"not {one.name}{f' --chunks {one.chunks}' if one.chunks > 1 else ''}: {one.reason}")


def facts_about(one: Candidate, sizes: Sizes, prices: Prices) -> dict[str, Any]:
    """The figures of a schedule by the names that scripts read."""
    assert one.timeline is not None
    plan = one.timeline.plan
    facts = facts_of(one.timeline, costs_of(plan.placement, prices), prices, sizes.memory, one.seconds)
    return facts | {"messages": messages(plan), "weight_copies": SCHEDULES[one.name].copies}


def messages(plan: Plan) -> int:
    """Boundary tensors that cross ranks in one step, those that one rank sends, at most."""
    needed, rank = dependencies(plan), plan.rank_of_op
    rows, slots = np.nonzero(needed >= 0)
    makers = needed[rows, slots]
    crossing = makers[rank[makers] != rank[rows]]
    return int(np.bincount(rank[crossing], minlength=plan.placement.ranks).max())


def _to_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: " ".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()} for row in rows
    )
    return out.getvalue()


def _pairs(sizes: Sizes) -> Iterator[tuple[str, int]]:
    for name, schedule in SCHEDULES.items():
        asked = TRIED_CHUNKS if sizes.chunks is None else (sizes.chunks,)
        fitting = [v for v in asked if not schedule.valid(sizes.ranks, sizes.micros, v)] if schedule.chunks else []
        yield from ((name, v) for v in (fitting or asked[:1]))


def _try(name: str, chunks: int, sizes: Sizes, prices: Prices, objective: Objective) -> Candidate:
    begun = time.perf_counter()
    try:
        limit = None if sizes.memory is None else sizes.memory * sizes.ranks
        plan = build(
            name,
            sizes.ranks,
            sizes.micros,
            chunks,
            costs=lambda place: costs_of(place, prices),
            memory_limit=limit,
            objective=objective,
        )
        check(plan)
        timeline = simulate(plan, costs_of(plan.placement, prices))
    except ValueError as error:
        return Candidate(name, chunks, None, time.perf_counter() - begun, str(error).removeprefix(f"{name}: "))
    took_s = time.perf_counter() - begun
    if sizes.memory is not None and exceeds(timeline, sizes.memory):
        reason = f"peaks at {peak_over_p(timeline):.4g} of 1F1B's memory"
        return Candidate(name, chunks, None, took_s, reason)
    return Candidate(name, chunks, timeline, took_s)


def _print_ranking(ranked: list[dict[str, Any]], key: str) -> None:
    from rich.console import Console
    from rich.table import Table

    bubble = "bubble_sync" if key == "makespan" else "bubble_span"
    columns = ("schedule", "chunks", key, "bubble", "gap", "peak", "messages", "copies")
    table = Table(*columns, box=None, pad_edge=False)
    for facts in ranked:
        gap = 100 * (facts[key] / facts[f"lower_bound_{key}"] - 1)
        table.add_row(
            facts["name"],
            str(facts["chunks"]),
            f"{facts[key]:.6g}",
            f"{facts[bubble]:.2f} %",
            f"{gap:.2f} %",
            f"{facts['peak_over_p']:.4g}",
            str(facts["messages"]),
            str(facts["weight_copies"]),
        )
    Console().print(table)
    print("gap: over what no order beats in the same memory; peak: as a fraction of 1F1B's; messages: sent by one rank")
