"""The command penstock solve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from penstock.cli.figures import Files, facts_of, print_bounds, write_files
from penstock.cli.noise import Noises, noise_facts, noise_to_keep, print_noise, print_robust, robust_facts
from penstock.cli.prices import Prices, pricing_of
from penstock.cli.schedule import DEFAULT_FILES, DEFAULT_NOISES, DEFAULT_PRICES, Goal, check_size, objective_of, ready
from penstock.cli.ways import DEFAULT_CHOICES, Choices, ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.cost import Pricing
    from penstock.search import Found, Solution
    from penstock.search.solution import Aim

COUNTS = {"sync": "makespan", "span": "span", "period": "time from one micro-batch to the next"}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Aims:
    """What counts."""

    objective: Literal["sync", "span", "period"] | None = None
    """What the search is for: sync (the default) the makespan, as the optimizer waits for all ranks, span the longest
    time of one rank, as steps may overlap, period the time from one micro-batch to the next where very many follow
    each other."""
    sync: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Short for --objective sync."""
    span: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Short for --objective span."""


DEFAULT_AIMS = Aims()


def solve(
    *,
    ranks: Annotated[int, Parameter(name=["--ranks", "-p"])],
    micros: Annotated[int, Parameter(name=["--micros", "-m"])],
    memory: float = 1.0,
    seconds: Annotated[float, Parameter(name="--time")] = 30.0,
    processes: int | None = None,
    stints: int | None = None,
    start: Path | None = None,
    robust: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    choices: Choices = DEFAULT_CHOICES,
    aims: Aims = DEFAULT_AIMS,
    csv: Path | None = None,
    plan: Path | None = None,
    prices: Prices = DEFAULT_PRICES,
    noises: Noises = DEFAULT_NOISES,
    files: Files = DEFAULT_FILES,
) -> None:
    """Search for the order of work that ends first, at your costs and within your memory.

    The search begins with all named schedules that fit and is never worse than the best of them. It ends when its time
    is up, when no order can be faster, or at Ctrl-C.

    Args:
        ranks: ranks of the pipeline.
        micros: micro-batches per step.
        memory: limit of activations, as a fraction of 1F1B's peak (as many micro-batches as there are ranks).
        seconds: how long to search.
        processes: that search side by side; by default one per core. The same number and --seed search the same way.
        stints: rounds of work after which to end in any case; then the machine's speed changes nothing.
        start: a plan to go on from, for example the --plan of an earlier search.
        robust: the order that is expected to take least under --jitter, --straggler and --slow, rather than without
            them; two thirds of the time go to it.
        csv: write the plan as PyTorch's compute-only CSV.
        plan: write the plan as a file (.json or .txt) that simulate, run --schedule and --start read.
    """
    from penstock.api import read_plan
    from penstock.export import to_csv
    from penstock.search import Options
    from penstock.search import solve as search

    ready(csv, files)
    check_plan_file(plan)
    check_size(ranks, micros, 1)
    for flag, value in (("--memory", memory), ("--time", seconds)):
        if not 0 < value < math.inf:
            raise ValueError(f"{flag} {value:g}: give a positive number")
    noise = noise_to_keep(noises) if robust else None
    begun = time.perf_counter()
    pricing, objective = pricing_of(prices), _aim(aims)
    every, limit = ways(choices, pricing, ranks, memory)
    for name in (name for name, way in every.items() if csv and way.placement.chains > 1):
        raise ValueError(
            f"--csv {csv}: PyTorch's CSV cannot hold two copies of a stage, as {name} has; "
            "leave it out of --placements or write --plan"
        )
    with _progress(seconds) as watch:
        found = search(
            *(pricing.on, every, micros, limit, objective),
            Options(seconds, noises.seed, processes, stints, noise, noises.draws),
            None if start is None else read_plan(start),
            watch,
        )
    facts = _facts(found, pricing, memory, time.perf_counter() - begun)
    draws = noises.draws if found.robust is None else len(found.robust.ours.times_s)
    facts |= noise_facts(found.plan, found.costs, replace(noises, draws=draws))
    facts |= robust_facts(found.robust)
    outputs = {csv: to_csv(found.plan)} if csv else {}
    if plan is not None:
        outputs[plan] = found.plan.to_json() if plan.suffix == ".json" else found.plan.to_text()
    write_files(files, outputs, facts, [found.timeline], f"solved, {found.where}")
    _print(found, facts)


def _aim(aims: Aims) -> Aim:
    if aims.objective != "period":
        return objective_of(Goal(objective=aims.objective, sync=aims.sync, span=aims.span))
    if aims.sync or aims.span:
        raise ValueError("--objective is sync, span or period, only one of them")
    return "period"


def check_plan_file(path: Path | None, flag: str = "--plan") -> None:
    """Check that a plan can be written to a file, if one is given.

    Raises:
        ValueError: it cannot.
    """
    from penstock.core.files import writable
    from penstock.core.job import PLAN_FILES

    if path is not None:
        writable(path)
        if path.suffix not in PLAN_FILES:
            raise ValueError(f"{flag} {path}: the suffix must be {' or '.join(PLAN_FILES)}")


def _facts(found: Solution, pricing: Pricing, memory: float, took_s: float) -> dict[str, Any]:
    """The figures by the names that scripts read: those of a schedule, and what the search says of itself."""
    best = None if found.named is None else {"name": found.named[0], "seconds": found.named[1]}
    priced = replace(pricing, on=lambda place: found.costs)
    return facts_of(found.timeline, priced, memory, took_s) | {
        "placement": found.where,
        "objective": found.objective,
        "period": found.micro_s,
        "repeats": [
            {"placement": name, "micros": each, "bound": none_s, "proven": found.unbeaten(name, each)}
            for name, known in found.none_s.items()
            for each, none_s in known.items()
        ],
        "best_named": best,
        "bound": found.bound.seconds,
        "bound_kind": found.bound.kind,
        "gap": 100 * found.gap,
        "proven": found.proven,
        "stints": found.stints,
        "history": [{"after": one.after_s, "time": one.seconds, "where": one.where} for one in found.history],
    }


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[Found, float], bool]]:
    """Shows the time, the best and the bound where somebody watches."""
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress_bar import ProgressBar

    class Elapsed(ProgressColumn):
        """The time that has passed, whether or not something was found."""

        def render(self, task: Task) -> ProgressBar:
            return ProgressBar(seconds, min(task.elapsed or 0.0, seconds), width=40)

    bar = Progress(
        *(TextColumn("{task.description}"), Elapsed(), TimeElapsedColumn()),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("searching", total=seconds)

    def watch(found: Found, bound_s: float) -> bool:
        text = f"best {found.seconds:.6g} ({found.where}), no order beats {bound_s:.6g}"
        bar.update(task, description=text)
        return True

    if bar.console.is_terminal:
        with bar:
            yield watch
    else:
        yield lambda found, bound_s: True


def _print(found: Solution, facts: dict[str, Any]) -> None:
    """The order, its figures and what the search says of itself."""
    from penstock.view import text

    print(text.gantt(found.timeline, unit=""))
    print(text.summary(found.timeline, unit=""))
    print_bounds(facts)
    print_noise(facts)
    print_robust(facts)
    calm = "" if found.robust is None else "without noise: "
    what = COUNTS[found.objective]
    if found.micro_s is not None:
        print(f"{what} {found.micro_s:.6g}; no order beats {found.bound.seconds:.6g}")
        _print_repeats(found)
    if found.named is not None:
        name, named_s = found.named
        more = 100 * (named_s / found.seconds - 1)
        print(f"{calm}best named schedule: {name}, {what} {named_s:.6g}; {abs(more):.2f} % {_more(more)} than this")
    above = f"at most {100 * found.gap:.2f} % above the best order"
    end = "no order on these placements is faster" if found.proven else above
    print(f"{calm}placement {found.where}; {end} ({found.bound.kind}); {found.stints} stints of work")


def _print_repeats(found: Solution) -> None:
    """What is known of orders that repeat, where it is more than of all orders."""
    for each, none_s in found.none_s[found.where].items() if not found.proven else ():
        turn = "each micro-batch" if each == 1 else f"every {each} micro-batches"
        turn += " of each chain" if found.plan.placement.chains > 1 else ""
        done = [name for name in found.none_s if found.unbeaten(name, each)]
        if done:
            where = "" if len(done) == len(found.none_s) else f" on {', '.join(done)}"
            print(f"no order{where} that repeats {turn} is faster")
        if found.where not in done and none_s > found.bound_here.seconds * (1 + 1e-9):
            print(f"no order on {found.where} that repeats {turn} beats {none_s:.6g}")


def _more(share: float) -> str:
    return "more" if share >= 0 else "less"
