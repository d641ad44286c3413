"""A ranking of schedules as a picture: the time of each beside what no order can beat, and its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.view.plot import STYLE, suffix_of, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_IN, _FRAME_IN = 0.28, 1.25
_WORK, _BUBBLE, _BOUND, _PEAK = "#4c78a8", "#e0b36a", "#b03a2e", "#b9c4d6"


def save(
    rows: Sequence[Mapping[str, Any]], objective: str, path: str | Path, title: str, memory: float | None = None
) -> None:
    """Write one picture: a row for each schedule, in the order given.

    Args:
        rows: figures as ``penstock schedule --json`` names them, with ``options``.
        objective: the time that counts, ``makespan`` or ``span``.
        path: file ending in ``.png`` or ``.svg``.
        title: over the picture.
        memory: the limit, as a fraction of 1F1B's peak; drawn as a line.

    Raises:
        ValueError: no row, or a suffix that is not supported.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    suffix_of(path)
    if not rows:
        raise ValueError("no schedule to draw; give at least one")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, _FRAME_IN + _ROW_IN * len(rows)), layout="constrained")
        times, peaks = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        _times(times, rows, objective)
        _peaks(peaks, rows, memory)
        times.set_yticks(range(len(rows)), [label(row) for row in rows])
        times.invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        write(figure, path)


def label(row: Mapping[str, Any]) -> str:
    """A schedule's name with its chunks and knobs.

    Example:
        >>> label({"name": "gis", "chunks": 2, "options": {"group": 4}})
        'gis, 2 chunks, group 4'
    """
    chunks = [f"{row['chunks']} chunks"] if row["chunks"] > 1 else []
    return ", ".join([row["name"], *chunks, *(f"{name} {value}" for name, value in row["options"].items())])


def _times(axes: Axes, rows: Sequence[Mapping[str, Any]], objective: str) -> None:
    bubble = "bubble_sync" if objective == "makespan" else "bubble_span"
    places = range(len(rows))
    total = [row[objective] for row in rows]
    work = [row[objective] * (1 - row[bubble] / 100) for row in rows]
    least = [row[f"lower_bound_{objective}"] for row in rows]
    idle = [whole - busy for whole, busy in zip(total, work, strict=True)]
    axes.barh(places, work, color=_WORK, label="work of the busiest rank")
    axes.barh(places, idle, left=work, color=_BUBBLE, label="bubble")
    axes.plot(least, places, linestyle="", marker="|", markersize=12, color=_BOUND, label="no order beats this")
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            f"{row[objective]:.5g}  ({row[bubble]:.1f} %)",
            (row[objective], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, max(total) * 1.2)
    axes.set_xlabel(objective)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.legend(loc="outside lower left", ncols=3, fontsize=8, frameon=False)


def _peaks(axes: Axes, rows: Sequence[Mapping[str, Any]], memory: float | None) -> None:
    axes.barh(range(len(rows)), [row["peak_over_p"] for row in rows], color=_PEAK)
    for place, row in enumerate(rows):
        axes.annotate(
            f"{row['peak_over_p']:.3g}",
            (row["peak_over_p"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if memory is not None:
        axes.axvline(memory, color=_BOUND, linewidth=1)
    axes.set_xlim(0, max(row["peak_over_p"] for row in rows) * 1.25)
    axes.tick_params(length=0)
    axes.set_xlabel("peak memory, 1F1B's is 1")
    axes.spines[["top", "right"]].set_visible(False)
