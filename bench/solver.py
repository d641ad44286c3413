"""The solver beside the best named schedule and the lower bound: cases in which published orders leave most to gain,
stages, ranks and links that are not equal, and rows of the published figures that come with Penstock. A named schedule
here knows the true costs; a blind one is made for equal ones, as published.

    python bench/solver.py [--time 30] [--cases bars uneven rows] [--every 20] [--csv FILE] [--png FILE]
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from penstock import Costs, Placement
from penstock.cli.peer_rows import FIGURES, Row, rows_of, shipped
from penstock.core.op import Kind
from penstock.cost import layered, pricing, with_whole
from penstock.engine import problems, simulate
from penstock.schedules import build
from penstock.schedules.task import Objective, seconds_of
from penstock.search import Options, Solution, solve
from penstock.search.choices import with_cuts
from penstock.search.starts import schedules_on
from penstock.search.ways import Way

FLASH = 32 / 34
LAYERS = 64
Pricer = Callable[..., Costs]
"""Costs of a placement, and of a cut if one is given."""


@dataclass(frozen=True)
class Case:
    """Sizes, costs and a limit, and what rivals reach (bubble in per cent)."""

    name: str
    costs: Pricer
    ranks: int
    micros: int
    memory: float
    objective: Objective
    placements: str
    rival: float | None = None
    shorter: float | None = None
    """By how many per cent the best named schedule is to be beaten, if that is what is asked."""
    layers: int = 0
    """To be cut into stages in any way; 0: equally many on each."""


@dataclass(frozen=True)
class Result:
    """One case solved; times in the unit of its costs, bubbles and gaps in per cent."""

    case: str
    placement: str
    bubble: float
    named: str
    named_bubble: float
    blind_bubble: float
    """Of the best named schedule made as its paper has it, for equal costs; at the true ones."""
    rival: float | None
    bound_bubble: float
    gap: float
    bound_kind: str
    first_s: float
    seconds: float
    less_than_named: float
    """How much shorter than the best named schedule, on equal numbers of layers, in per cent; and than a blind one."""
    less_than_blind: float
    most_less: float
    """How much shorter than the best named schedule an order could be at most, by the lower bound, in per cent."""
    verdict: str


def bars() -> Iterator[Case]:
    """Profiles of Zero Bubble's table 9 (Qi et al. 2023, arXiv:2401.10241) and the best bubbles of rivals' orders."""
    any4, low = "line,v,loop2,loop4,v4", "v,v4"
    for cost, p, m, memory, share, objective, placements, rival in (
        ("6.2B", 8, 24, 1.0, FLASH, "sync", any4, 4.82),
        ("6.2B", 8, 24, 1.0, FLASH, "sync", any4 + ",loop8", 3.98),
        ("6.2B", 8, 24, 1.0, FLASH, "sync", "v", 6.01),
        ("28.3B", 8, 16, 1.0, FLASH, "sync", any4, 8.81),
        ("6.2B", 8, 24, 0.75, FLASH, "sync", any4, 11.3),
        ("28.3B", 8, 24, 0.5, 1.0, "span", low, 28.02),
        ("6.2B", 8, 24, 0.5, 1.0, "span", low, 24.10),
        ("28.3B", 16, 48, 0.5625, 1.0, "span", low, 16.89),
        ("28.3B", 16, 48, 0.375, 1.0, "span", low, 29.53),
        ("28.3B", 16, 64, 1.0, FLASH, "sync", any4, None),
        ("28.3B", 32, 256, 1.0, FLASH, "sync", "v,loop2", None),
    ):
        name = f"{cost} {p}x{m} {memory:g}p {objective} {placements}"
        yield Case(name, pricing(cost, share).on, p, m, memory, objective, placements, rival)  # type: ignore[arg-type]


def uneven() -> Iterator[Case]:
    """A head of 1.6 layers more on the last stage, a rank at 0.8 of the speed, a link that takes ten times as long:
    with the same number of layers on all stages, and with any; with less memory and fewer micro-batches too."""
    layers = layered(pricing("28.3B", FLASH), 8, LAYERS)
    for what, change in (("head", _head), ("slow rank", _slow_rank), ("slow link", _slow_link)):
        priced = _changed(layers.on, change)
        for objective, micros, memory in (("sync", 24, 1.0), ("span", 24, 1.0), ("sync", 16, 0.75)):
            name = f"{what} 28.3B 8x{micros} {memory:g}p {objective}"
            case = Case(name, priced, 8, micros, memory, objective, "line,v,loop2,loop4,v4", shorter=5.0)
            yield case
            if what != "slow link" and memory == 1.0:
                yield replace(case, name=f"{case.name} cut", layers=LAYERS)


def rows(every: int) -> Iterator[Case]:
    """Every so many-th of the sizes and limits in the published figures, beside the best of all rows that keep it."""
    cases: dict[tuple[str, float, int, int, float, Objective], float] = {}
    for row in rows_of(shipped()):
        for objective, columns in FIGURES.items():
            if row.limit is not None and row.limit * row.p >= 1 and (bubble := _bubble(row, *columns)) is not None:
                key = (row.cost, row.w_share, row.p, row.m, row.limit, objective)
                cases[key] = min(bubble, cases.get(key, bubble))
    for cost, share, p, m, limit, objective in [*cases][::every]:
        within = (
            value
            for key, value in cases.items()
            if key[:4] == (cost, share, p, m) and key[5] == objective and key[4] <= limit
        )
        name = f"{cost} {p}x{m} {limit:g}p w{share:.2g} {objective}"
        yield Case(name, pricing(cost, share).on, p, m, limit, objective, "line,v,loop2", min(within))


def _bubble(row: Row, time_s: str, per_cent: str) -> float | None:
    """Of a row, in per cent; from its time, which has more digits, if it has one."""
    if not row.figures.get(time_s):
        return float(row.figures[per_cent]) if row.figures.get(per_cent) else None
    seconds = pricing(row.cost, row.w_share).on(Placement.loop(row.p)).seconds
    work_s = row.m * float(seconds[[Kind.F, Kind.I, Kind.W]].sum(axis=0).max())
    return 100 * (1 - work_s / float(row.figures[time_s]))


def _changed(priced: Pricer, change: Callable[[Placement, Costs], Costs]) -> Pricer:
    return lambda place, *cut: change(place, priced(place, *cut))


def _head(place: Placement, costs: Costs) -> Costs:
    layer_s = pricing("28.3B").figures[0] * 8 / LAYERS
    return with_whole(costs, place, 1.6 * layer_s)


def _slow_rank(place: Placement, costs: Costs) -> Costs:
    seconds = costs.seconds.copy()
    seconds[:, np.array(place.rank_of) == 2] /= 0.8
    return replace(costs, seconds=seconds)


def _slow_link(place: Placement, costs: Costs) -> Costs:
    hop_s = costs.hop_s.copy()
    hop_s[3, 4] *= 10
    hop_s[4, 3] *= 10
    return replace(costs, hop_s=hop_s)


def placements(text: str, ranks: int) -> dict[str, Placement]:
    """By the names of ``penstock solve``."""
    from penstock.cli.ways import placement

    return {name: placement(name, ranks) for name in text.split(",")}


def solved(case: Case, time_s: float, seed: int) -> Result:
    """One case."""
    begun = time.perf_counter()
    places = placements(case.placements, case.ranks)
    limit = case.memory * case.ranks
    ways: dict[str, Placement | Way] = dict(places)
    for name, place in places.items() if case.layers else ():
        cut = with_cuts(place, case.layers, case.costs)
        ways |= {f"{name} {what}": way for what, way in cut.items()}
    found = solve(case.costs, ways, case.micros, limit, case.objective, Options(time_s, seed))
    took_s = time.perf_counter() - begun
    work_s = _work_s(found)
    even = found
    if case.layers:
        even = solve(case.costs, places, case.micros, limit, case.objective, Options(time_s, seed, None, 3))
    name, named_s = even.named or ("none", float("inf"))

    def bubble(seconds: float) -> float:
        return 100 * (1 - work_s / seconds)

    pairs = (found.seconds, named_s), (found.seconds, _blind_s(case, places, limit)), (found.bound.seconds, named_s)
    less, blind_less, most_less = (100 * (1 - seconds / other) for seconds, other in pairs)
    return Result(
        *(case.name, found.where, bubble(found.seconds), name, bubble(named_s), bubble(pairs[1][1])),
        *(case.rival, bubble(found.bound.seconds), 100 * found.gap, found.bound.kind, found.history[0].after_s, took_s),
        *(less, blind_less, most_less),
        ", ".join(_verdicts(case, bubble(found.seconds), found.proven, less, most_less)),
    )


def _verdicts(case: Case, bubble: float, proven: bool, less: float, most_less: float) -> Iterator[str]:
    """What an answer is beside what is asked of it; where no order can be as short as asked, that."""
    if case.rival is not None and not proven:
        above = bubble - case.rival
        yield "beaten" if above < -0.005 else "equal" if above <= 0.005 else "WORSE"
    if proven:
        yield "proven"
    if case.shorter is not None:
        far = f"{case.shorter:g} % shorter"
        yield far if less >= case.shorter else f"no order is {far}" if most_less < case.shorter else f"not {far}"


def _blind_s(case: Case, places: dict[str, Placement], limit: float) -> float:
    best = float("inf")
    for place in places.values():
        costs = case.costs(place)
        for name, chunks in schedules_on(place):
            try:
                plan = build(name, case.ranks, case.micros, chunks)
            except ValueError:
                continue
            if plan.slices == 1 and not problems(plan, costs, limit):
                best = min(best, seconds_of(simulate(plan, costs), case.objective))
    return best


def _work_s(found: Solution) -> float:
    return float(found.timeline.busy_s.max())


def draw(results: list[Result], path: Path) -> None:
    """Each case: ours between the bound and the best named schedule."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.3 * len(results) + 1.2))
    at = range(len(results))
    for label, marker, values in (
        ("no order beats", "|", [one.bound_bubble for one in results]),
        ("solver", "o", [one.bubble for one in results]),
        ("best named", "x", [one.named_bubble for one in results]),
    ):
        axes.plot(values, at, marker, label=label)
    axes.set_yticks(at, [one.case for one in results], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("bubble, %")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--time", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", choices=("bars", "uneven", "rows"), default=("bars", "uneven"))
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--png", type=Path)
    given = parser.parse_args()
    makers = {"bars": bars, "uneven": uneven, "rows": lambda: rows(given.every)}
    heads = f"{'bubble':>8}{'named':>8}{'blind':>8}{'rival':>7}{'bound':>7}{'gap %':>7}"
    heads += f"{'less %':>8}{'most %':>8}{'blind %':>8}{'s':>5}"
    print(f"{'case':44}{'where':>7}{heads}")
    results = []
    for case in (case for name in given.cases for case in makers[name]()):
        one = solved(case, given.time, given.seed)
        results.append(one)
        rival = "" if one.rival is None else f"{one.rival:.2f}"
        figures = f"{one.bubble:8.2f}{one.named_bubble:8.2f}{one.blind_bubble:8.2f}{rival:>7}{one.bound_bubble:7.2f}"
        figures += f"{one.gap:7.2f}{one.less_than_named:8.2f}{one.most_less:8.2f}{one.less_than_blind:8.2f}"
        figures += f"{one.seconds:5.0f}"
        print(
            f"{one.case:44}{one.placement.partition(' ')[0]:>7}{figures}  {one.verdict} {one.named}, {one.bound_kind}",
            flush=True,
        )
    for what in ("named", "blind"):
        less = np.median([getattr(one, f"less_than_{what}") for one in results])
        print(f"shorter than the best {what} schedule by {less:.2f} % (median)")
    if given.csv:
        with given.csv.open("w", newline="") as out:
            csv.writer(out).writerows([[field.name for field in fields(Result)], *map(astuple, results)])
    if given.png:
        draw(results, given.png)
    sys.exit(any("WORSE" in one.verdict for one in results))


if __name__ == "__main__":
    main()
