"""The commands ``penstock schedule`` and ``penstock simulate``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from penstock.cli.figures import Files, facts_of, print_bounds, write_files
from penstock.cli.noise import Noises, noise_facts, print_noise
from penstock.cli.prices import Prices, pricing_of
from penstock.cli.vocabulary import Ends, ends_in, split_ends, with_ends

if TYPE_CHECKING:
    from penstock.cli.tries import Sizes
    from penstock.core.costs import Costs
    from penstock.core.plan import Plan
    from penstock.core.timeline import Timeline

MOST_OPS = 20_000_000
"""Plans beyond this are refused: they would take gigabytes and minutes."""
MOST_RANKS = 10_000
ALL = "all"
"""In the place of a schedule's name: every schedule."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Goal:
    """What counts."""

    objective: Literal["sync", "span"] | None = None
    """What schedules are made for and ranked by: sync (the default) the makespan, as the optimizer waits for all
    ranks, span the longest time of one rank, as steps may overlap."""
    sync: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Short for --objective sync."""
    span: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Short for --objective span."""


DEFAULT_PRICES, DEFAULT_ENDS, DEFAULT_NOISES = Prices(), Ends(), Noises()
DEFAULT_FILES, DEFAULT_GOAL = Files(), Goal()
Passes = Annotated[tuple[str, ...], Parameter(name="--pass", negative="", show_default=False)]


def schedule(
    name: Annotated[str, Parameter(show_default=False)] = "",
    /,
    *,
    ranks: Annotated[int, Parameter(name=["--ranks", "-p"])],
    micros: Annotated[int, Parameter(name=["--micros", "-m"])],
    chunks: Annotated[int | None, Parameter(name=["--chunks", "-v"])] = None,
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    option: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    passes: Passes = (),
    memory: float | None = None,
    goal: Goal = DEFAULT_GOAL,
    csv: Path | None = None,
    prices: Prices = DEFAULT_PRICES,
    ends: Ends = DEFAULT_ENDS,
    noises: Noises = DEFAULT_NOISES,
    files: Files = DEFAULT_FILES,
) -> None:
    """Build a named schedule, check, simulate and draw it, and compare it with what no order can beat.

    With the name ``all`` or with ``--all``, do so for every schedule there is and rank them.

    Args:
        name: the schedule, for example 1f1b, interleaved or zb-h1; your own function as FILE.py:NAME; or all.
        ranks: ranks of the pipeline.
        micros: micro-batches per step.
        chunks: model chunks per rank; left out, the fewest that the schedule can have, with all several.
        every: every schedule, as the name all.
        option: a knob of the schedule as NAME=NUMBER, for example group=4 of interleaved; may be given more than once.
            Schedules with slices also take attention, per cent of the time, which unequal slices then even out.
        passes: change the plan before it is judged, for example recompute=selective or offload=0.5,stages=0+1; may be
            given more than once, and they go in order. Unknown names list all passes.
        memory: limit of activations, as a fraction of 1F1B's peak (as many micro-batches as there are ranks), after
            all passes.
        csv: write the plan as PyTorch's compute-only CSV; with all, the table.
    """
    from penstock.cli.tries import Sizes

    ready(csv, files)
    check_size(ranks, micros, chunks or 1)
    if memory is not None and not 0 < memory < math.inf:
        raise ValueError(f"--memory {memory:g}: give a positive fraction of 1F1B's peak, for example 1.0")
    sizes = Sizes(ranks, micros, chunks, memory, objective_of(goal), with_ends(pricing_of(prices), ends), passes)
    if not _is_all(name, every):
        _one(name, dict(map(_option, option)), sizes, ends, csv, noises, files)
    elif noises != DEFAULT_NOISES:
        raise ValueError("all ranks schedules without noise; name the schedule to see what noise does to it")
    elif ends.vocabulary:
        raise ValueError(f"--vocabulary {ends.vocabulary}: all keeps the ends whole; name the schedule")
    elif option:
        raise ValueError(f"--option {option[0]}: all takes no option; name the schedule that has it")
    else:
        from penstock.cli.compare import compare

        compare(sizes, csv, files)


def _one(
    name: str, options: dict[str, Any], sizes: Sizes, ends: Ends, csv: Path | None, noises: Noises, files: Files
) -> None:
    """The command for one schedule."""
    from penstock.cli.tries import made
    from penstock.export import to_csv

    began = time.perf_counter()
    chunks = _fewest(name, sizes, options) if sizes.chunks is None else sizes.chunks
    timeline, costs = made(
        name, chunks, options, sizes, lambda plan: split_ends(plan, sizes.pricing.on(plan.placement), ends)
    )
    plan = timeline.plan
    took_s = time.perf_counter() - began
    _check_memory(timeline, name, chunks, sizes)
    facts = facts_of(timeline, sizes.pricing, sizes.memory, took_s, sizes.passes) | noise_facts(plan, costs, noises)
    outputs = {csv: to_csv(plan)} if csv else {}
    _report(timeline, facts, files, outputs)


def simulate(
    plan: Path,
    /,
    *,
    sends: Literal["none", "overlapped", "blocking", "batched"] = "none",
    passes: Passes = (),
    prices: Prices = DEFAULT_PRICES,
    ends: Ends = DEFAULT_ENDS,
    noises: Noises = DEFAULT_NOISES,
    files: Files = DEFAULT_FILES,
) -> None:
    """Simulate a plan from a file.

    Args:
        plan: a plan of Penstock (.json or .txt), or PyTorch's compute-only CSV (.csv).
        sends: add sends and receives first: overlapped with compute, blocking, or blocking
            in batches. With none the plan stays as it is.
        passes: change the plan before it gets its sends, for example recompute=selective or offload=0.5,stages=0+1; may
            be given more than once, and they go in order. Unknown names list all passes.
    """
    from penstock.api import read_plan
    from penstock.engine import check
    from penstock.engine.passes import apply_passes
    from penstock.lower import add_sends

    ready(None, files)
    found = read_plan(plan)
    began = time.perf_counter()
    check(found)
    ends = ends_in(found, ends)
    pricing = with_ends(pricing_of(prices), ends)
    found, costs = apply_passes(*split_ends(found, pricing.on(found.placement), ends), passes)
    if sends != "none":
        found = add_sends(found, sends)
    timeline = _simulate(found, costs)
    took_s = time.perf_counter() - began
    facts = facts_of(timeline, pricing, None, took_s, passes) | noise_facts(found, costs, noises)
    _report(timeline, facts, files, {})


def check_size(ranks: int, micros: int, chunks: int) -> None:
    """Do nothing where a plan of these sizes takes seconds.

    Raises:
        ValueError: it would take minutes.
    """
    if ranks > MOST_RANKS:
        raise ValueError(f"--ranks {ranks}: at most {MOST_RANKS:,} in one pipeline")
    if ranks * micros * chunks > MOST_OPS:
        raise ValueError(f"ranks x micros x chunks = {ranks * micros * chunks:,}; at most {MOST_OPS:,} forwards")


def _is_all(name: str, every: bool) -> bool:
    if every and name not in ("", ALL):
        raise ValueError(f"--all ranks every schedule; leave out {name} or --all")
    if not every and not name:
        raise ValueError("name a schedule, for example 1f1b, or --all")
    return every or name == ALL


def objective_of(goal: Goal) -> Literal["sync", "span"]:
    """What the flags say that counts."""
    named = {"sync": goal.sync, "span": goal.span, goal.objective: True}
    asked = [each for each in ("sync", "span") if named[each]]
    if len(asked) > 1:
        raise ValueError("--objective is sync or span, not both")
    return "span" if asked == ["span"] else "sync"


def _fewest(name: str, sizes: Sizes, options: dict[str, int]) -> int:
    """Chunks for a schedule whose user named none."""
    from penstock.schedules import SCHEDULES
    from penstock.schedules.table import knobs_of, own_options

    if name not in SCHEDULES or min(sizes.ranks, sizes.micros) < 1 or {*options} - {*knobs_of(SCHEDULES[name].lane)}:
        return 1
    own = own_options(SCHEDULES[name].lane, options)
    return SCHEDULES[name].least_chunks(sizes.ranks, sizes.micros, **own)


def _option(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise ValueError(f"--option {text}: write NAME=NUMBER, for example group=4")
    return name, int(number)


def ready(csv: Path | None, files: Files) -> None:
    """Refuse output files that cannot be written before any work is done."""
    from penstock.core.files import writable

    for path, suffix in ((csv, ".csv"), (files.json, ""), (files.html, ""), (files.png, "")):
        if path is not None:
            writable(path, suffix)
    if files.png is not None and files.png.suffix not in (".png", ".svg"):
        raise ValueError(f"--png {files.png}: the suffix must be .png or .svg")


def _simulate(plan: Plan, costs: Costs) -> Timeline:
    from penstock.engine import simulate

    return simulate(plan, costs)


def _check_memory(timeline: Timeline, name: str, chunks: int, sizes: Sizes) -> None:
    """Raise if the plan needs more memory than allowed, with the nearest schedule or size that fits."""
    from penstock.cli.fit import fitting
    from penstock.cli.tries import exceeds, peak_over_p

    memory, plan = sizes.memory, timeline.plan
    peak = peak_over_p(timeline, sizes.pricing.on(plan.placement))
    if memory is not None and exceeds(peak, memory):
        raise ValueError(
            f"{plan.name} peaks at {peak:.4g} of 1F1B's memory, {peak - memory:.4g} more than --memory {memory:g}; "
            f"{fitting(name, chunks, sizes)}"
        )


def _report(timeline: Timeline, facts: dict[str, Any], files: Files, outputs: dict[Path, str]) -> None:
    """Write the files, then the text."""
    from penstock.view import text

    write_files(files, outputs, facts, [timeline], facts["name"])
    print(text.gantt(timeline, unit=""))
    print(text.summary(timeline, unit=""))
    print_bounds(facts)
    print_noise(facts)
