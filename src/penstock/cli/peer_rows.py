"""Published figures of schedules, row by row, and what our schedule of that name does at the same sizes."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.timeline import Timeline
from penstock.core.words import suggest
from penstock.cost import pricing
from penstock.engine import check, simulate
from penstock.schedules import SCHEDULES, build
from penstock.schedules.task import Objective

COLUMNS = ("w_share", "cost", "p", "m", "peer", "limit_over_p")
FIGURES: dict[Objective, tuple[str, str]] = {
    "span": ("span", "bubble_span_pct"),
    "sync": ("makespan", "bubble_sync_pct"),
}
"""Columns of each objective; the time is compared where a row has it, as it has more digits than the bubble."""
SHARES = {"0.94": 32 / 34}
"""Shares that a file rounds: flash attention keeps 32 of 34 units of a transformer layer's activations for W."""
Verdict = Literal["equal", "beaten", "worse", "skipped"]


@dataclass(frozen=True)
class Ours:
    """The schedule of ours that a peer's name means."""

    name: str
    chunks: int = 1
    options: Callable[[int], dict[str, Any]] = lambda p: {}
    """Knobs, by the number of ranks."""


PEERS = {
    "1f1b": Ours("1f1b"),
    "vpp2": Ours("interleaved", 2),
    "gis2": Ours("gis", 2, lambda p: {"group": (p + 1) // 2}),
    "zb-h1": Ours("zb-h1"),
    "zb-h2": Ours("zb-h2"),
    "zb-1p": Ours("zb-1p"),
    "zb-2p": Ours("zb-2p"),
    "zbv": Ours("zb-v-auto", 2),
    "v-half": Ours("v-half", 2),
    "v-min": Ours("v-min", 2),
    "v-1f1b": Ours("1f1b-v", 2),
    "v-auto": Ours("v-auto", 2),
}
"""Names of peers, and ours. A peer called zb is zb-1p up to 1F1B's memory and zb-2p beyond."""


@dataclass(frozen=True)
class Row:
    """One row of a file of published figures."""

    source: str
    """The file's name."""
    peer: str
    cost: str
    w_share: float
    p: int
    m: int
    limit: float | None
    """Memory that our schedule may use, as a fraction of 1F1B's peak: the peer's limit, or what it used, if known."""
    figures: dict[str, str]
    """As printed, by the name of the column."""

    @property
    def ours(self) -> Ours:
        """The schedule to compare with."""
        return PEERS[("zb-2p" if (self.limit or 0) > 1 else "zb-1p") if self.peer == "zb" else self.peer]


@dataclass(frozen=True)
class Comparison:
    """One figure of a peer and ours."""

    source: str
    peer: str
    ours: str
    cost: str
    w_share: float
    p: int
    m: int
    objective: Objective
    figure: str
    """Name of the column that is compared."""
    theirs: float
    rounding: float
    """Half a unit of the last digit that the peer prints."""
    limit: float | None
    found: float | None = None
    peak_over_p: float | None = None
    seconds: float = 0.0
    problem: str = ""
    """Why ours could not be had."""

    @property
    def excess(self) -> float | None:
        """How far ours is above the peer's, negative below: in per cent of a time, in points of a bubble."""
        if self.found is None:
            return None
        above = self.found - self.theirs
        return above if self.figure.endswith("_pct") else 100 * above / self.theirs

    @property
    def too_large(self) -> bool:
        """Whether ours needs more memory than the peer."""
        return self.limit is not None and (self.peak_over_p or 0.0) > self.limit * (1 + 1e-9)

    @property
    def verdict(self) -> Verdict:
        """Whether ours is the same to the last digit that the peer prints, less, or more."""
        if self.found is None:
            return "skipped"
        slack = self.rounding * (1 + 1e-6)
        if self.found > self.theirs + slack or self.too_large:
            return "worse"
        return "equal" if self.found >= self.theirs - slack else "beaten"

    def __str__(self) -> str:
        if self.excess is None:
            return self.problem
        unit = "pp" if self.figure.endswith("_pct") else "%"
        memory = f", memory {self.peak_over_p:.4g}" if self.too_large else ""
        return f"{self.excess:+.2f} {unit} {self.cost} {self.p}x{self.m} {self.objective}{memory}"


def shipped() -> list[Path]:
    """The files that come with Penstock; each states its source."""
    folder = resources.files("penstock") / "data" / "peers"
    return sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".csv"))


def rows_of(files: Iterable[Path], only: tuple[str, ...] = ()) -> list[Row]:
    """The rows of files, ``only`` those of some peers if any is named.

    Raises:
        ValueError: a column is missing, a value is not a number, or nobody knows a peer; the message names the row.
        OSError: a file cannot be read.
    """
    rows = [row for file in files for row in _read(file)]
    known = list(dict.fromkeys(row.peer for row in rows))
    for name in only:
        if name not in known:
            raise ValueError(f"--only {name}: no row has this peer; {suggest(name, known)}")
    return [row for row in rows if not only or row.peer in only]


def compare(row: Row) -> list[Comparison]:
    """Our schedule against each figure of a row, made for that figure's objective."""
    found = []
    for objective, columns in FIGURES.items():
        column = next((name for name in columns if row.figures.get(name)), None)
        if column is not None:
            found.append(_compare(row, objective, column))
    return found


def _compare(row: Row, objective: Objective, column: str) -> Comparison:
    ours, printed = row.ours, row.figures[column]
    rounding = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    begun = time.perf_counter()

    def result(problem: str = "", found: float | None = None, peak: float | None = None) -> Comparison:
        sizes = (row.cost, row.w_share, row.p, row.m, objective, column, float(printed), rounding, row.limit)
        took_s = time.perf_counter() - begun
        return Comparison(row.source, row.peer, ours.name, *sizes, found, peak, took_s, problem)

    if ours.name not in SCHEDULES:
        return result(f"no schedule {ours.name}")
    prices = pricing(row.cost, row.w_share)
    limit = None if row.limit is None else row.limit * row.p
    try:
        timeline = _timeline(row, prices.on, limit, objective)
    except ValueError as error:
        return result(str(error))
    return result("", _figure(timeline, column), float(timeline.peak_bytes.max()) / row.p)


def _timeline(row: Row, costs: Callable[[Placement], Costs], limit: float | None, objective: Objective) -> Timeline:
    ours = row.ours
    sizes, options = (row.p, row.m, ours.chunks), ours.options(row.p)
    plan = build(ours.name, *sizes, costs=costs, memory_limit=limit, objective=objective, **options)
    check(plan)
    return simulate(plan, costs(plan.placement))


def _figure(timeline: Timeline, column: str) -> float:
    figures = {
        "span": timeline.span_s,
        "makespan": timeline.makespan_s,
        "bubble_span_pct": 100 * timeline.bubble_span,
        "bubble_sync_pct": 100 * timeline.bubble_sync,
    }
    return figures[column]


def _read(file: Path) -> Iterable[Row]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    reader = csv.DictReader(lines)
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if lacking:
        raise ValueError(f"{file}: lacks the column {lacking[0]}; it needs {', '.join(COLUMNS)}")
    for number, entry in enumerate(reader, 2):
        try:
            yield _row(file.stem, entry)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, row {number}: {error}") from None


def _row(source: str, entry: dict[str, str]) -> Row:
    if entry["peer"] not in (*PEERS, "zb"):
        raise ValueError(f"unknown peer {entry['peer']!r}; {suggest(entry['peer'], (*PEERS, 'zb'))}")
    share = SHARES.get(entry["w_share"]) or float(entry["w_share"])
    figures = {name: entry.get(name) or "" for columns in FIGURES.values() for name in columns}
    for value in filter(None, figures.values()):
        float(value)
    sizes = (int(entry["p"]), int(entry["m"]))
    return Row(source, entry["peer"], entry["cost"], share, *sizes, _limit(entry), figures)


def _limit(entry: dict[str, str]) -> float | None:
    """The limit that the peer had, else what it used (to its last digit), else none."""
    given, used = float(entry["limit_over_p"]), entry.get("peak_over_p") or ""
    if given:
        return given
    return float(used) + 0.5 * 10.0 ** -len(used.partition(".")[2]) if used else None
