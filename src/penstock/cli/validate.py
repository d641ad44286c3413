"""The command ``penstock validate``: measured training runs beside their predictions."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.calibrate.published import Run
    from penstock.calibrate.summaries import Choice, Summary
    from penstock.calibrate.validation import Compared

WORST = 3


def validate(
    file: Path | None = None,
    /,
    *,
    source: str = "",
    framework: str = "",
    strict: bool = True,
    worst: int = WORST,
    regret: bool = False,
    json: Path | None = None,
    png: Path | None = None,
) -> None:
    """Predict each row of a table of measured runs, and say how far the predictions are off.

    Args:
        file: a CSV table of runs (.gz too); the one that comes with Penstock without it.
        source: only rows whose source_title holds this text.
        framework: all rows are predicted for it, whatever they name: a name, or FILE.toml or FILE.toml:NAME.
        strict: rows marked strict_time=0 or strict_mem=0, whose setup is not known well enough, are predicted but do
            not count in the errors of time or memory.
        worst: so many rows, those furthest off, are opened up.
        regret: for each task that was measured with several setups, the fastest beside the one predicted to be fastest.
        json: write every row and every summary as one JSON object.
        png: write predicted over measured as a picture (.png or .svg).
    """
    from penstock.calibrate.published import read_runs
    from penstock.calibrate.shipped import runs_file
    from penstock.calibrate.summaries import choices, in_time, summaries
    from penstock.cli.validate_text import print_regrets, print_report
    from penstock.core.files import writable, write_whole
    from penstock.cost.stack_file import named
    from penstock.view.plot import SUFFIXES

    if worst < 0:
        raise ValueError(f"--worst {worst} is too small; use 0 or more")
    if png is not None and png.suffix not in SUFFIXES:
        raise ValueError(f"--png {png}: pictures end in {' or '.join(SUFFIXES)}")
    for out in filter(None, (json, png)):
        writable(out)
    path = file or runs_file()
    rows = _compared(_of_source(read_runs(path, named(framework) if framework else None), source, path))
    found, tasks = summaries(rows, strict=strict), choices(in_time(rows, strict=strict))
    if json is not None:
        said = report(rows, tasks, found, str(file or "shipped"), strict)
        write_whole(json, json_format.dumps(said, indent=1) + "\n")
    if png is not None:
        _write_picture(rows, png)
    print_report(rows, found, worst, strict)
    if regret:
        print_regrets(tasks)


def report(
    rows: Sequence[Compared], tasks: Sequence[Choice], found: dict[str, dict[str, Summary]], name: str, strict: bool
) -> dict[str, Any]:
    """Return what ``--json`` writes: the file, each row, tasks with several setups, and the summaries by what they are
    of."""
    from dataclasses import asdict

    return {
        "file": name,
        "strict": strict,
        "rows": [facts_of(row) for row in rows],
        "choices": [_facts_of(one) for one in tasks],
        "summaries": {key: {value: asdict(one) for value, one in group.items()} for key, group in found.items()},
    }


def facts_of(row: Compared) -> dict[str, Any]:
    """Return a row by the names that scripts read; what is not known is ``None``."""
    made, given = row.figures, row.run.row
    return {
        "id": given["id"],
        "source": row.source,
        "device": row.device,
        "framework": row.framework,
        "model": given.get("model_name", ""),
        "predicted_seconds_per_iter": made and made.seconds,
        "predicted_seconds_interval": made and [made.low_s, made.high_s],
        "predicted_peak_mem_gb": made and made.memory_gb,
        "memory_counts": made and made.counts,
        "predicted_device_mem_gb": made and made.device_gb,
        "predicted_tokens_per_s_per_device": made and made.tokens_per_s_per_device,
        "predicted_tflops_per_device": made and made.tflops,
        "predicted_mfu": made and made.mfu,
        "flops_convention": made and made.convention,
        "predicted_fits": made and made.fits,
        "measured_seconds_per_iter": row.measured_s,
        "measured_peak_mem_gb": row.measured_gb,
        "measured_tokens_per_s_per_device": row.measured_rate,
        "measured_tflops_per_device": row.measured_tflops,
        "measured_fits": row.fitted,
        "time_error": row.time_error,
        "memory_error": row.memory_error,
        "tflops_error": row.tflops_error,
        "inside_interval": row.inside,
        "strict_time": row.strict_time,
        "strict_mem": row.strict_memory,
        "parts_s": made and dict(made.parts),
        "memory_gb": made and row.run.memory.parts(made.room),
        "guessed": list(made.guessed) if made else [],
        "why_not": row.why_not,
        "unread": row.unread,
    }


def _facts_of(one: Choice) -> dict[str, Any]:
    """A task with several setups by the names that scripts read."""
    return {
        "source": one.fastest.source,
        "model": one.fastest.run.row.get("model_name", ""),
        "ids": [row.run.row["id"] for row in one.rows],
        "fastest": one.fastest.run.row["id"],
        "picked": one.picked.run.row["id"],
        "regret": one.regret,
    }


def _of_source(runs: list[Run], text: str, path: Path) -> list[Run]:
    """Those runs whose source's title holds a text."""
    from penstock.core.words import suggest

    titles = {run.row.get("source_title", "") for run in runs}
    found = [run for run in runs if text.lower() in run.row.get("source_title", "").lower()]
    if not found:
        raise ValueError(f"--source {text}: no title of a source in {path} holds this; {suggest(text, sorted(titles))}")
    return found


def _compared(runs: list[Run]) -> list[Compared]:
    from penstock.calibrate.validation import compared

    with _watched() as watch:
        return list(watch(compared(runs), len(runs)))


@contextmanager
def _watched() -> Iterator[Callable[[Iterable[Compared], int], Iterable[Compared]]]:
    """A bar of the rows that are done, where somebody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    if not bar.console.is_terminal:
        yield lambda rows, total: rows
        return
    with bar:
        yield lambda rows, total: bar.track(rows, total=total)


def _write_picture(rows: Sequence[Compared], png: Path) -> None:
    from penstock.calibrate.summaries import grouped
    from penstock.core.files import whole_file
    from penstock.view import scatter

    times = [(row.source, row.measured_s, row.figures.seconds) for row in rows if row.figures and row.measured_s]
    memory = [(row.source, row.measured_gb, row.figures.memory_gb) for row in rows if row.figures and row.measured_gb]
    panels = {"step time, s": times, "peak memory, GiB": memory}
    with whole_file(png) as stand_in:
        drawn = {name: points for name, points in panels.items() if points}
        scatter.save(drawn, [*grouped(rows, lambda row: row.source)], stand_in)
