"""The verbs of planning: build, check, simulate, show, predict_step."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.costs import Costs
from penstock.core.files import read_text, whole_file, write_whole
from penstock.core.filling import filling
from penstock.core.plan import Plan
from penstock.core.setup import FRAMEWORK
from penstock.core.timeline import Timeline
from penstock.core.words import suggest
from penstock.cost.stack_file import named
from penstock.engine import bounds, check, period_s, problems, simulate
from penstock.export import read_csv, to_csv
from penstock.lower import add_sends, add_step, split_vocabulary
from penstock.predict import Prediction, predict
from penstock.schedules import build

__all__ = [
    "add_sends",
    "add_step",
    "bounds",
    "build",
    "check",
    "period_s",
    "predict_step",
    "problems",
    "read_csv",
    "read_plan",
    "show",
    "simulate",
    "split_vocabulary",
    "to_csv",
]


def show(thing: Plan | Timeline, path: str | Path | None = None) -> str:
    """A plan or a timeline for people.

    Args:
        thing: a plan is shown as its lanes; in a picture it runs at unit costs (F, I and W take 1 each per rank).
        path: where to write it too, whole or not at all: ``.txt`` text, ``.png`` or ``.svg`` a picture, ``.html`` a
            page that opens without a network, ``.json`` a plan that ``read_plan`` reads or a timeline's Perfetto trace.

    Returns:
        The text for a terminal.

    Raises:
        ValueError: the suffix is none of these, the folder is missing, or a plan cannot run to its end.

    Example:
        >>> plan = build("1f1b", ranks=2, micros=2)
        >>> print(show(plan), end="")
        1f1b: 2 ranks, 2 stages, 2 micro-batches, 8 ops
        rank 0  0F0 0F1 0B0 0B1
        rank 1  1F0 1B0 1F1 1B1
    """
    from penstock.view import text

    if path is not None:
        suffix = Path(path).suffix
        if suffix not in _WRITERS:
            raise ValueError(f"{path}: cannot write {suffix or 'a file without suffix'}; {suggest(suffix, _WRITERS)}")
        _WRITERS[suffix](thing, Path(path))
    if isinstance(thing, Plan):
        return text.lanes(thing)
    return text.gantt(thing) + "\n" + text.summary(thing)


def read_plan(path: str | Path) -> Plan:
    """The plan in a file: ``.json`` or ``.txt`` as Penstock writes it, ``.csv`` as PyTorch does.

    Raises:
        ValueError: another suffix, or the file does not hold a plan.
        OSError: the file cannot be read, or is a folder.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mine.json"
        >>> _ = show(build("gpipe", 2, 2), file)
        >>> read_plan(file) == build("gpipe", 2, 2)
        True
    """
    readers: dict[str, Callable[[str], Plan]] = {".json": Plan.from_json, ".txt": Plan.from_text}
    suffix = Path(path).suffix
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a plan in it (.json, .txt or .csv)", str(path))
    if suffix == ".csv":
        return read_csv(path)
    if suffix not in readers:
        choices = suggest(suffix, [*readers, ".csv"])
        raise ValueError(f"{path}: cannot read a plan from {suffix or 'a file without suffix'}; {choices}")
    text = read_text(Path(path))
    try:
        return readers[suffix](text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def predict_step(
    model: str | Path | Architecture, cluster: str | Path | Cluster, framework: str = FRAMEWORK, **setup: Any
) -> Prediction:
    """What one training step takes: time and where it goes, memory, an interval, and what was guessed.

    Args:
        model: a published model's name, a ``config.json`` or a folder with one, sizes as ``gpt:L=24,h=1024,a=16,
            vocab=50304``, or an ``Architecture``.
        cluster: as ``Cluster.read`` takes it, or a ``Cluster``.
        framework: whose software runs it: a name in ``data/frameworks.toml``, FILE.toml, or FILE.toml:NAME.
        setup: fields of a ``Setup``; ``seq`` and ``batch`` are needed, and ``dp`` is what is left for all devices.

    Raises:
        ValueError: a name that is not known, or a split that does not divide the model or the devices.

    Example:
        >>> found = predict_step("llama-3-8b", "dgx-h100:1", seq=4096, batch=64, tp=4, sp=True)
        >>> found.fits, found.devices, found.low_s < found.seconds < found.high_s
        (True, 8, True)
    """
    architecture = model if isinstance(model, Architecture) else model_of(str(model))
    machines = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
    software = named(framework)
    return predict(architecture, machines, filling(machines.devices, **(software.usual | setup)), software)


def _unit_costs(plan: Plan) -> Costs:
    return Costs.uniform(plan.placement).sliced(plan.slices)


def _timeline(thing: Plan | Timeline) -> Timeline:
    return simulate(thing, _unit_costs(thing), "unit costs") if isinstance(thing, Plan) else thing


def _write_text(thing: Plan | Timeline, path: Path) -> None:
    write_whole(path, thing.to_text() if isinstance(thing, Plan) else show(thing))


def _write_picture(thing: Plan | Timeline, path: Path) -> None:
    from penstock.view import plot

    with whole_file(path) as stand_in:
        plot.save([_timeline(thing)], stand_in)


def _write_page(thing: Plan | Timeline, path: Path) -> None:
    from penstock.view import html

    timeline = _timeline(thing)
    write_whole(path, html.page([timeline], timeline.plan.name, {}))


def _write_json(thing: Plan | Timeline, path: Path) -> None:
    from penstock.view import perfetto

    write_whole(path, thing.to_json() if isinstance(thing, Plan) else perfetto.trace([thing]))


_WRITERS: dict[str, Callable[[Plan | Timeline, Path], None]] = {
    ".txt": _write_text,
    ".png": _write_picture,
    ".svg": _write_picture,
    ".html": _write_page,
    ".json": _write_json,
}
