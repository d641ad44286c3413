"""Fits frameworks and lasting rates to measured runs: ``python -m penstock.calibrate.fit_stacks [FILE.csv] [--dry]``.

Turned are the fields of ``data/frameworks.toml`` that say how long things take, as far as a table sets them, and the
levels ``sustained`` of ``data/constants.toml``: by least squares of the logarithms of predicted over measured step
times, each within its range and drawn to what is usual (``dials.USUAL``), or to what a framework has that it is like. A
source of n runs counts like the root of n; of a large one a part is fitted to. Printed are the constants with how well
the runs determine them, and the errors of every source before, after, and with constants that were fitted without it:
alone, and with all runs of the same title on other devices; and as if nobody had measured its device
(``penstock.calibrate.unknown``). The one-node grid is left out by size of model. Constants of which the runs say less
than a quarter stay. Both files are written in place, all other lines as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.calibrate.dials import SUSTAINED, Dial, of_tables
from penstock.calibrate.fit_report import dial_lines, error_lines, figures, rounded
from penstock.calibrate.fitting import write
from penstock.calibrate.least import Found
from penstock.calibrate.published import Run, read_runs
from penstock.calibrate.run_fit import Problem, unusable
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.unknown import as_unknown
from penstock.core.side_by_side import side_by_side
from penstock.core.words import suggest
from penstock.cost.constants import table
from penstock.cost.stack import stacks

Floats = NDArray[np.float64]
Which = NDArray[np.int64]
MOST = 100
"""Runs of a source that are fitted to; of a larger one, as many by lot."""
GRID = "calibration_grid"
"""The ``set`` of rows of one grid, left out by size of model."""


def title_of(run: Run) -> str:
    """Return the title of its source without version and place.

    >>> title_of(Run(row={"source_title": "Recipes (v24.11.1)"}))
    'Recipes'
    """
    title = run.row.get("source_title", "")
    return min((title.split(mark)[0] for mark in ("(", ",", ":", " skill ")), key=len).strip() or "no source"


def source_of(run: Run) -> tuple[str, str, str]:
    """Return title, framework and device: runs with the same count as one source."""
    device = run.cluster.device.name if run.cluster else ""
    return title_of(run), run.stack.name if run.stack else "", device


def model_of(run: Run) -> str:
    """Return the size of a model of the grid, else nothing."""
    return f"L={run.row['layers']} h={run.row['hidden']}" if run.row.get("set") == GRID else ""


def thinned(runs: Sequence[Run]) -> Which:
    """Return the rows that are fitted to: all of a small source, ``MOST`` of a large one, the same at every call."""
    rows: dict[Any, list[int]] = {}
    for row, run in enumerate(runs):
        rows.setdefault(source_of(run), []).append(row)
    lots = np.random.default_rng(0)
    kept = [mine if len(mine) <= MOST else lots.choice(mine, MOST, replace=False).tolist() for mine in rows.values()]
    return np.sort(np.concatenate([np.asarray(mine, np.int64) for mine in kept]))


def problem_of(runs: Sequence[Run], dials: Sequence[Dial]) -> Problem:
    """Return runs that weigh by source, with those dials that move any of them."""
    count = Counter(map(source_of, runs))
    weight = np.array([count[source_of(run)] ** -0.5 for run in runs])
    whole = Problem(runs, dials, stacks(), weight)
    return whole.only([dial for dial, rows in enumerate(whole.touched) if len(rows)])


Held = dict[str, Callable[[Run], Any]]
HELD: Held = {"alone": lambda run: (source_of(run), model_of(run)), "by title": title_of}
"""By what runs are left out together: a source of one device, the grid by size of model; and all of one title."""


def held_out(fitted: Problem, found: Found, runs: Problem) -> dict[str, Floats]:
    """Return the errors of all runs with constants that were fitted without them, by what was left out."""
    folds = [(how, value) for how, key in HELD.items() for value in dict.fromkeys(map(key, runs.runs))]

    def errors(fold: tuple[str, Any]) -> tuple[Which, Floats]:
        how, value = fold
        mine, theirs = (np.flatnonzero([HELD[how](run) == value for run in one.runs]) for one in (fitted, runs))
        return theirs, runs.errors(fitted.without(found, mine), theirs)

    left: dict[str, Floats] = {how: np.zeros(len(runs.runs)) for how in HELD}
    for (how, _), (rows, part) in zip(folds, side_by_side(errors, folds), strict=True):
        left[how][rows] = part
    return left


def groups_of(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Return the rows of each source, and of each size of model of the grid, the largest first."""
    found: dict[str, list[int]] = {}
    for row, run in enumerate(runs):
        title, framework, device = source_of(run)
        name = f"{framework}, {device}: {title}"
        for each in {name, f"  {model_of(run)} of {name}" if model_of(run) else name}:
            found.setdefault(each, []).append(row)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def stay(whole: Problem, fitted: Problem) -> list[str]:
    """Return the names of the constants that are not fitted."""
    return [f"{dial.owner}.{dial.name}" for dial in whole.dials if dial not in fitted.dials]


def chosen(dials: Sequence[Dial], of: Sequence[str]) -> list[Dial]:
    """Return the dials of these frameworks and the shares of these names; all, where none are named.

    Raises:
        SystemExit: one of them has no dial.
    """
    known = {name for dial in dials for name in (dial.owner, dial.name if dial.owner == SUSTAINED else dial.owner)}
    for name in of:
        if name not in known:
            raise SystemExit(f"--of {name!r} has no constants that are fitted; {suggest(name, known)}")
    return [dial for dial in dials if not of or dial.owner in of or (dial.owner == SUSTAINED and dial.name in of)]


def edited(text: str, framework: str, values: Mapping[str, float]) -> str:
    """Return the tables of frameworks with other values of one; all other lines stay.

    >>> edited("[a]\\nmoves = 1.0  # copies\\n[b]\\nmoves = 2.0\\n", "b", {"moves": 3.0})
    '[a]\\nmoves = 1.0  # copies\\n[b]\\nmoves = 3.0\\n'
    """
    lines, inside = text.split("\n"), False
    for at, line in enumerate(lines):
        if line.startswith("["):
            inside = line.strip() == f"[{framework}]"
        name = line.partition(" = ")[0]
        if inside and name in values:
            lines[at] = f"{name} = {values[name]}"
    return "\n".join(lines)


def put(dials: Sequence[Dial], values: Sequence[float], data: Path) -> None:
    """Write the values into ``frameworks.toml`` and ``constants.toml`` of a folder."""
    frameworks = (data / "frameworks.toml").read_text(encoding="utf-8")
    known = deepcopy(dict(table()))
    for dial, value in zip(dials, values, strict=True):
        if dial.owner == SUSTAINED:
            known["levels"][SUSTAINED][dial.name]["level"] = value
        else:
            frameworks = edited(frameworks, dial.owner, {dial.name: value})
    (data / "frameworks.toml").write_text(frameworks, encoding="utf-8")
    write(known, data / "constants.toml")


def main() -> None:
    """Fit, print the constants and the errors by source, and write the constants."""
    given = _arguments()
    try:
        runs = [run for run in read_runs(given.file) if not unusable(run)]
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    if not runs:
        raise SystemExit(f"{given.file} holds no run that can be fitted to")
    whole = problem_of([runs[row] for row in thinned(runs)], chosen(of_tables(), given.of))
    fitted = whole.settled()
    print(f"{len(fitted.runs)} of {len(runs)} runs, {len(fitted.dials)} of {len(whole.dials)} constants", flush=True)
    found = fitted.solved(given.turns, lambda turn, cost: print(f"turn {turn}: cost {cost:.1f}", flush=True))
    values, deviations = rounded(found.x), fitted.deviations(found)
    print("\n".join(dial_lines(fitted.dials, values, deviations, fitted.said(deviations))))
    print("\nstay, since the runs say too little:", ", ".join(stay(whole, fitted)), flush=True)
    _report(runs, fitted, found, given.json)
    if not given.dry:
        put(fitted.dials, values, Path(str(files("penstock") / "data")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=runs_file(), help="a table of runs; else the shipped one")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--turns", type=int, default=12, help="at most so many turns of the fit")
    parser.add_argument("--of", nargs="+", default=(), help="fit the constants of these frameworks and shares alone")
    parser.add_argument("--json", type=Path, help="write the errors by source, with the date")
    return parser.parse_args()


def _report(runs: Sequence[Run], fitted: Problem, found: Found, json_file: Path | None) -> None:
    """Print the errors of all runs by source, and write them."""
    everything = Problem(runs, fitted.dials, stacks(), np.ones(len(runs)))
    before = everything.only([]).all_errors(np.zeros(0))
    after = everything.all_errors(np.log(rounded(found.x)))
    strange = replace(everything, runs=[as_unknown(run) for run in runs]).all_errors(np.log(rounded(found.x)))
    left = {**held_out(fitted, found, everything), "unknown device": strange}
    errors, groups = {"before": before, "after": after, **left}, groups_of(runs)
    print("\n".join(error_lines(groups, errors)))
    if json_file:
        date = str(datetime.datetime.now(tz=datetime.UTC).date())
        record = {"date": date, "sources": figures(groups, errors)}
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
