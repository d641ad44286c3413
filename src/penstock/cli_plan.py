"""The planning commands: ``penstock schedule`` and ``penstock simulate``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from penstock.cli_prices import Prices, costs_of

if TYPE_CHECKING:
    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.core.timeline import Timeline

MOST_OPS = 20_000_000
"""Plans beyond this are refused: they would take gigabytes and minutes."""


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


DEFAULT_PRICES, DEFAULT_FILES = Prices(), Files()


def schedule(
    name: str,
    /,
    *,
    ranks: Annotated[int, Parameter(name=["--ranks", "-p"])],
    micros: Annotated[int, Parameter(name=["--micros", "-m"])],
    chunks: Annotated[int | None, Parameter(name=["--chunks", "-v"])] = None,
    option: tuple[str, ...] = (),
    memory: float | None = None,
    objective: Literal["sync", "span"] = "sync",
    csv: Path | None = None,
    prices: Prices = DEFAULT_PRICES,
    files: Files = DEFAULT_FILES,
) -> None:
    """Build a named schedule, check, simulate and draw it, and compare it with what no order can beat.

    With the name ``all``, do so for every schedule there is and rank them.

    Args:
        name: the schedule, for example 1f1b, interleaved or zb-h1; your own function as FILE.py:NAME; or all.
        ranks: ranks of the pipeline.
        micros: micro-batches per step.
        chunks: model chunks per rank; left out, one, or with all several.
        option: a knob of the schedule as NAME=NUMBER, for example group=4 of interleaved; may be given more than once.
        memory: limit of activations, as a fraction of 1F1B's peak (as many micro-batches as there are ranks).
        objective: what all are ranked by: sync the makespan (the optimizer waits for all ranks), span the longest time
            of one rank (steps may overlap).
        csv: write the plan as PyTorch's compute-only CSV; with all, the table.
    """
    from penstock.engine import check
    from penstock.export import to_csv
    from penstock.schedules import build

    _ready(csv, files)
    if ranks * micros * (chunks or 1) > MOST_OPS:
        raise ValueError(f"ranks x micros x chunks = {ranks * micros * (chunks or 1):,}; at most {MOST_OPS:,} forwards")
    if name == "all":
        if option:
            raise ValueError(f"--option {option[0]}: all takes no option; name the schedule that has it")
        from penstock.cli_compare import Sizes, compare

        compare(Sizes(ranks, micros, chunks, memory), objective, csv, prices, files)
        return
    chunks = chunks or 1
    began = time.perf_counter()
    options: dict[str, Any] = dict(map(_option, option))
    limit = None if memory is None else memory * ranks
    plan = build(
        name,
        ranks,
        micros,
        chunks,
        costs=lambda place: costs_of(place, prices),
        memory_limit=limit,
        objective=objective,
        **options,
    )
    costs = costs_of(plan.placement, prices)
    check(plan)
    timeline = _simulate(plan, costs)
    took_s = time.perf_counter() - began
    if memory is not None:
        _check_memory(timeline, memory, chunks, prices)
    facts = facts_of(timeline, costs, prices, memory, took_s)
    outputs = {csv: to_csv(plan)} if csv else {}
    _report(timeline, facts, files, outputs)


def simulate(
    plan: Path,
    /,
    *,
    sends: Literal["none", "overlapped", "blocking", "batched"] = "none",
    prices: Prices = DEFAULT_PRICES,
    files: Files = DEFAULT_FILES,
) -> None:
    """Simulate a plan from a file.

    Args:
        plan: a plan of Penstock (.json or .txt), or PyTorch's compute-only CSV (.csv).
        sends: add sends and receives first: overlapped with compute, blocking, or blocking
            in batches. With none the plan stays as it is.
    """
    from penstock.api import read_plan
    from penstock.engine import check
    from penstock.lower import add_sends

    _ready(None, files)
    found = read_plan(plan)
    began = time.perf_counter()
    check(found)
    if sends != "none":
        found = add_sends(found, sends)
    costs = costs_of(found.placement, prices)
    timeline = _simulate(found, costs)
    facts = facts_of(timeline, costs, prices, None, time.perf_counter() - began)
    _report(timeline, facts, files, {})


def _option(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise ValueError(f"--option {text}: write NAME=NUMBER, for example group=4")
    return name, int(number)


def _ready(csv: Path | None, files: Files) -> None:
    """Refuse output files that cannot be written before any work is done."""
    from penstock.core.files import writable

    for path in (csv, files.json, files.html, files.png):
        if path is not None:
            writable(path)
    if files.png is not None and files.png.suffix not in (".png", ".svg"):
        raise ValueError(f"--png {files.png}: the suffix must be .png or .svg")


def _simulate(plan: Plan, costs: Costs) -> Timeline:
    from penstock.engine import simulate

    return simulate(plan, costs)


def _check_memory(timeline: Timeline, memory: float, chunks: int, prices: Prices) -> None:
    """Raise if the plan needs more memory than allowed, with the nearest schedule or size that fits."""
    from penstock.cli_fit import Sizes, exceeds, fitting, peak_over_p

    if not memory > 0:
        raise ValueError(f"--memory {memory:g}: give a positive fraction of 1F1B's peak, for example 1.0")
    if exceeds(timeline, memory):
        plan, peak = timeline.plan, peak_over_p(timeline)
        sizes = Sizes(plan.placement.ranks, plan.micros, chunks, lambda place: costs_of(place, prices), memory)
        raise ValueError(
            f"{plan.name} peaks at {peak:.4g} of 1F1B's memory, {peak - memory:.4g} more than --memory {memory:g}; "
            f"{fitting(plan.name, sizes)}"
        )


def facts_of(timeline: Timeline, costs: Costs, prices: Prices, memory: float | None, took_s: float) -> dict[str, Any]:
    """The figures of a timeline by the names that scripts read."""
    from penstock.cli_fit import peak_over_p
    from penstock.engine import bounds

    plan, peak = timeline.plan, peak_over_p(timeline)
    limit = peak if memory is None else memory
    bound = bounds(plan.placement, plan.micros, costs, limit * plan.placement.ranks) if plan.trains else None
    return {
        "name": plan.name,
        "ranks": plan.placement.ranks,
        "micros": plan.micros,
        "chunks": max(map(plan.placement.rank_of.count, range(plan.placement.ranks))),
        "costs": [float(word) for word in prices.costs.split(",")],
        "w_share": prices.w_share,
        "memory": limit,
        "makespan": timeline.makespan_s,
        "span": timeline.span_s,
        "bubble_span": 100 * timeline.bubble_span,
        "bubble_sync": 100 * timeline.bubble_sync,
        "peak_over_p": peak,
        "lower_bound_span": bound and bound.span.seconds,
        "lower_bound_makespan": bound and bound.makespan.seconds,
        "bound_span_kind": bound and bound.span.kind,
        "bound_makespan_kind": bound and bound.makespan.kind,
        "seconds": took_s,
    }


def _report(timeline: Timeline, facts: dict[str, Any], files: Files, outputs: dict[Path, str]) -> None:
    """Write the files, then the text."""
    from penstock.view import text

    write_files(files, outputs, facts, [timeline], facts["name"])
    print(text.gantt(timeline, unit=""))
    print(text.summary(timeline, unit=""))
    _print_table(facts)


def write_files(
    files: Files,
    outputs: dict[Path, str],
    facts: dict[str, Any] | list[dict[str, Any]],
    timelines: list[Timeline],
    title: str,
) -> None:
    """Write every file that was asked for; ``outputs`` holds those that are there already."""
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
            plot.save(timelines, stand_in, unit="")
    for path, content in outputs.items():
        write_whole(path, content)


def _as_tables(facts: dict[str, Any] | list[dict[str, Any]]) -> Any:
    """Figures as the page shows them: one schedule's as names and values, those of several as a table."""
    from penstock.view.html import Table

    if isinstance(facts, dict):
        return _as_words(facts)
    columns = ("name", "chunks", "makespan", "bubble_sync", "span", "bubble_span", "peak_over_p", "messages")
    words = [_as_words(row) for row in facts]
    names = [name.replace("_", " ") for name in columns]
    return [Table("All schedules", names, [[row[name] for name in names] for row in words])]


def _as_words(facts: dict[str, Any]) -> dict[str, str]:
    """The figures for people, without those that could not be had."""
    words = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in facts.items()}
    return {name.replace("_", " "): word for name, word in words.items() if word != "None"}


def _print_table(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "time", "bubble", "no order beats", "gap", "because of", box=None, pad_edge=False)
    for what, bubble in (("span", "bubble_span"), ("makespan", "bubble_sync")):
        value, least = facts[what], facts[f"lower_bound_{what}"]
        gap = [f"{least:.6g}", f"{100 * (value / least - 1):.2f} %", facts[f"bound_{what}_kind"]] if least else []
        table.add_row(what, f"{value:.6g}", f"{facts[bubble]:.2f} %", *gap)
    console = Console()
    console.print(table)
    print(
        f"peak memory {facts['peak_over_p']:.4g} of 1F1B's; bounds within {facts['memory']:.4g}; "
        f"built, checked and simulated in {facts['seconds']:.3f} s"
    )
