"""A framework of one's own, fitted to one's own measured runs."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.calibrate.dials import of_stack
from penstock.calibrate.fit_report import dial_lines, error_lines, rounded
from penstock.calibrate.least import Found
from penstock.calibrate.likely import framework_of
from penstock.calibrate.published import run_of
from penstock.calibrate.rows import read_rows
from penstock.calibrate.run_fit import Problem, unusable
from penstock.calibrate.shipped import runs_file
from penstock.core.words import suggest
from penstock.cost.stack import Stack, stack

Floats = NDArray[np.float64]
FOLDS = 5
"""Into which runs are cut to be left out; fewer runs are left out one by one."""


@dataclass(frozen=True, eq=False)
class Own:
    """A framework that was fitted to runs.

    Args:
        file: the runs.
        like: the framework it began as; ``name``: what it is called.
        whole: all constants that say how long things take; ``problem``: those of which the runs say enough.
        found: where the fit ended.
        left_out: errors of each run with constants that were fitted without it, logarithms.
        unused: runs that could not be fitted to -> why.
    """

    file: Path
    name: str
    like: Stack
    whole: Problem
    problem: Problem
    found: Found
    left_out: Floats
    unused: dict[str, str]

    @property
    def values(self) -> dict[str, float]:
        """The constants that are fitted, by name, in two digits."""
        return {dial.name: value for dial, value in zip(self.problem.dials, rounded(self.found.x), strict=True)}


def fit_own(file: Path, name: str, like: Stack | None = None) -> Own:
    """Return the framework that meets measured runs best.

    Args:
        file: a table of runs as ``penstock validate`` reads it.
        name: of the framework.
        like: what it begins as, and stays where the runs say little; else what most rows name.

    Raises:
        ValueError: an unknown column, or no run that can be fitted to.
    """
    rows = read_rows(file)
    _check_columns(file, rows)
    like = like or stack(Counter(framework_of(row, []).name for row in rows).most_common(1)[0][0])
    start = replace(like, name=name, aliases=(), source="")
    runs = [run_of(row, start) for row in rows]
    unused = {run.row["id"]: why for run in runs if (why := unusable(run))}
    runs = [run for run in runs if run.row["id"] not in unused]
    if not runs:
        first = next(iter(unused))
        raise ValueError(f"{file} holds no run that can be fitted to; {first}: {unused[first]}")
    dials = [replace(dial, usual=min(max(dial.value, dial.low), dial.high)) for dial in of_stack(start)]
    whole = Problem(runs, dials, {name: start}, np.ones(len(runs)))
    problem = whole.settled()
    found = problem.solved()
    return Own(file, name, like, whole, problem, found, _left_out(problem, found), unused)


def _check_columns(file: Path, rows: Sequence[dict[str, str]]) -> None:
    with runs_file().open(encoding="utf-8") as shipped:
        known = shipped.readline().strip().split(",")
    for column in rows[0]:
        if column not in known:
            raise ValueError(f"{file} has the unknown column {column!r}; {suggest(column, known)}")


def _left_out(problem: Problem, found: Found) -> Floats:
    """Errors of every run with constants that were fitted without it and some others."""
    count = len(problem.runs)
    errors = np.zeros(count)
    for first in range(min(FOLDS, count)):
        held = np.arange(first, count, FOLDS)
        errors[held] = problem.errors(problem.without(found, held), held)
    return errors


def toml_of(own: Own) -> str:
    """Return the framework as a file that ``--framework`` reads."""
    runs = f"{len(own.problem.runs)} runs of {own.file.name}"
    lines = [f"# Constants of a framework, fitted to {runs}; all else is as in {own.like.name}.", ""]
    lines += [f"[{_key(own.name)}]", f'like = "{own.like.name}"']
    lines += [f"{name} = {value}" for name, value in own.values.items()]
    date = datetime.datetime.now(tz=datetime.UTC).date()
    lines += [f"source = {json.dumps(f'fitted to {runs} by penstock calibrate, {date}')}", ""]
    return "\n".join(lines)


def _key(name: str) -> str:
    """A name as the key of a table."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def text_of(own: Own) -> str:
    """Return what was fitted, what stays, and the errors, as text."""
    problem, found = own.problem, own.found
    lines = [f"{len(problem.runs)} runs of {own.file}, as {own.like.name} and fitted"]
    lines += [f"left out {row}: {why}" for row, why in own.unused.items()]
    if problem.dials:
        deviations = problem.deviations(found)
        lines += dial_lines(problem.dials, [*own.values.values()], deviations, problem.said(deviations))
    stays = [dial.name for dial in own.whole.dials if dial not in problem.dials]
    lines += ["", f"as in {own.like.name}, since the runs say too little: {', '.join(stays) or 'nothing'}"]
    x = np.log([*own.values.values()])
    errors = {"before": problem.only([]).errors(np.zeros(0)), "after": problem.errors(x), "left out": own.left_out}
    return "\n".join([*lines, *error_lines({"errors, %": range(len(problem.runs))}, errors)])
