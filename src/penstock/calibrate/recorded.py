"""Errors of the shipped table by source, in the form in which they are recorded, and what grew since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.calibrate.published import run_of
from penstock.calibrate.rows import read_rows
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import Errors, Summary, grouped, summary
from penstock.calibrate.validation import compared

Record = Mapping[str, Mapping[str, float | None]]
"""Figures by source and name; errors are shares."""
SLACK = 0.002
"""By which an error may grow, or a correlation or a share shrink, beyond rounding."""
RISES = ("time_n", "memory_n", "spearman", "judged_right")
"""Figures that are the better the larger they are."""


def recorded_errors(every: int = 1) -> dict[str, dict[str, float | None]]:
    """Predict every ``every``-th row of the shipped table; return the figures of each source, and of all rows."""
    rows = list(compared(map(run_of, read_rows(runs_file())[::every])))
    found = {source: _figures(summary(group)) for source, group in grouped(rows, lambda row: row.source).items()}
    return {"all": _figures(summary(rows))} | {source: one for source, one in found.items() if any(one.values())}


def _figures(one: Summary) -> dict[str, float | None]:
    rest = {"spearman": one.spearman, "judged_right": one.judged_right}
    return _of("time", one.time) | _of("memory", one.memory) | {name: _rounded(value) for name, value in rest.items()}


def _of(name: str, errors: Errors | None) -> dict[str, float | None]:
    if errors is None:
        return {f"{name}_n": 0, f"{name}_median": None, f"{name}_p90": None}
    median, p90 = _rounded(errors.median), _rounded(errors.p90)
    return {f"{name}_n": errors.n, f"{name}_median": median, f"{name}_p90": p90}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def worse(now: Record, before: Record, slack: float = SLACK) -> list[str]:
    """Return in words which figures are worse than recorded; those of a source that is not recorded count as new.

    >>> worse({"a": {"time_median": 0.08}}, {"a": {"time_median": 0.07}})
    ['a: time_median 0.08, recorded 0.07']
    >>> worse({"a": {"time_median": 0.06}}, {"a": {"time_median": 0.07}})
    []
    """
    found = []
    for source, figures in before.items():
        for name, recorded in figures.items():
            value: Any = now.get(source, {}).get(name)
            if recorded is None:
                continue
            drop = value is None or (recorded - value if name in RISES else value - recorded) > slack
            if drop:
                found.append(f"{source}: {name} {value}, recorded {recorded}")
    return found
