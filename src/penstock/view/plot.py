"""Timelines as pictures: PNG or SVG, lanes over time with memory under each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import COMPUTE, MESSAGES, Kind
from penstock.core.plan import Plan
from penstock.core.timeline import MemoryCurve, Timeline
from penstock.view.marks import (
    COLOURS,
    PHRASES,
    bar_end_s,
    bars,
    holds_rank,
    local_chunks,
    memory_text,
    messages,
    tick_texts,
    ticks,
    time_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
WIDTH_IN = 12.0
MOST_LABELS = 1500
LEAST_FONT = 4.5
BOXES_PER_PATH = 500
MOST_MESSAGES = 400
MOST_WORDS = 6
"""A legend of more words takes two rows, beside the title."""
MOST_VECTORS = 20_000
"""An SVG with more bars than this holds them as one bitmap, else it would not open."""
_INK, _MUTED, _IDLE = "#1c2430", "#6b7686", "#f0f2f5"
_ACTIVATION, _BUFFER, _GATHERED = "#b9c4d6", "#7d5ba6", "#c2bb7a"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "penstock",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": _INK,
}
_LEFT_IN, _RIGHT_IN, _HEAD_IN, _PANEL_HEAD_IN, _FOOT_IN = 0.75, 0.8, 0.62, 0.34, 0.5
PLOT_IN = WIDTH_IN - _LEFT_IN - _RIGHT_IN
_MEMORY_ROW = 0.62
"""Height of the memory strip, of the lane's height."""
_ROW = 1.0 + _MEMORY_ROW + 0.3


def save(timelines: Sequence[Timeline], path: str | Path, title: str = "", unit: str = "s", dpi: int = 150) -> None:
    """Write one picture of all timelines, one above the other on a shared time axis.

    Args:
        timelines: for example predicted and measured.
        path: file ending in ``.png`` or ``.svg``.
        title: over the picture; the first plan's name if empty.
        unit: ``s`` for seconds and bytes, else the name of the time unit (may be empty).
        dpi: pixels per inch of a PNG; the picture is 12 inches wide.

    Raises:
        ValueError: no timeline, or a suffix that is not supported.
    """
    import matplotlib as mpl

    suffix = suffix_of(path)
    if not timelines:
        raise ValueError("no timeline to draw; give at least one")
    with mpl.rc_context(STYLE):
        figure = _figure(timelines, title or timelines[0].plan.name, unit, suffix)
        write(figure, path, dpi)


def suffix_of(path: str | Path) -> str:
    """Return how the file of a picture ends.

    Raises:
        ValueError: with a suffix that is not supported.
    """
    if (suffix := Path(path).suffix) not in SUFFIXES:
        raise ValueError(f"{str(path)!r}: pictures end in {' or '.join(SUFFIXES)}, not in {suffix!r}")
    return suffix


def write(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a picture, the same one always as the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Date": None} if suffix_of(path) == ".svg" else {"Software": "Penstock"})


def _figure(timelines: Sequence[Timeline], title: str, unit: str, suffix: str) -> Figure:
    from matplotlib.figure import Figure

    row_in = min(0.62, max(0.16, 11.0 / max(t.plan.placement.ranks for t in timelines)))
    heights = [t.plan.placement.ranks * row_in for t in timelines]
    tall = _HEAD_IN + sum(heights) + _PANEL_HEAD_IN * len(timelines) + _FOOT_IN
    figure = Figure(figsize=(WIDTH_IN, tall))
    end_s = max(t.step_s for t in timelines) or 1.0
    peak = max(float(t.peak_bytes.max(initial=0.0)) for t in timelines) or 1.0
    top = tall - _HEAD_IN
    for timeline, height in zip(timelines, heights, strict=True):
        top -= _PANEL_HEAD_IN
        axes = figure.add_axes((_LEFT_IN / WIDTH_IN, (top - height) / tall, PLOT_IN / WIDTH_IN, height / tall))
        axes.set_xlim(0, end_s)
        _panel(
            axes, timeline, peak, unit, row_in, suffix == ".svg" and sum(len(t.plan) for t in timelines) > MOST_VECTORS
        )
        top -= height
        axes.tick_params(labelbottom=timeline is timelines[-1])
    _time_axis(axes, end_s, unit)
    figure.text(_LEFT_IN / WIDTH_IN, 1 - 0.36 / tall, title, fontsize=15, fontweight="bold", va="center")
    _legend(figure, timelines, tall)
    return figure


def _panel(axes: Axes, timeline: Timeline, peak: float, unit: str, row_in: float, as_bitmap: bool) -> None:
    """One timeline: rank r's lane at y = r * _ROW, its memory below; y grows downwards."""
    ranks = timeline.plan.placement.ranks
    axes.set_ylim(ranks * _ROW - 0.15, -0.15)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5, colors=_MUTED)
    every = int(np.ceil(0.13 / row_in))
    axes.set_yticks([r * _ROW + 0.5 for r in range(0, ranks, every)], [f"rank {r}" for r in range(0, ranks, every)])
    words = [f"{timeline.label}", timeline.plan.name, time_text(timeline.step_s, unit)]
    words.append(f"bubble {timeline.bubble_sync:.1%}")
    axes.text(0, -0.15 - 0.1 / row_in * _ROW, "   ".join(words), fontsize=9.5, color=_MUTED, va="bottom")
    idle = np.array([[0.0, r * _ROW, timeline.step_s, r * _ROW + 1] for r in range(ranks)])
    _boxes(axes, idle, _IDLE, 0, as_bitmap)
    _ops(axes, timeline, as_bitmap)
    _messages(axes, timeline)
    _labels(axes, timeline, row_in)
    for rank, curve in enumerate(timeline.memory):
        _memory(axes, rank, curve, peak, timeline.step_s, as_bitmap)
        if rank % every == 0 and len(curve.time_s):
            text = memory_text(curve.peak_bytes, unit)
            axes.annotate(
                text,
                (1.0, rank * _ROW + 1 + _MEMORY_ROW),
                xycoords=("axes fraction", "data"),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=7.5,
                color=_MUTED,
                va="bottom",
            )


def _ops(axes: Axes, timeline: Timeline, as_bitmap: bool) -> None:
    """Bars of what holds a rank: of a block, the forward in the upper half and the backward in the lower."""
    plan = timeline.plan
    shade = _shades(timeline)[plan.ops[:, 1]]
    held, second = holds_rank(plan), np.r_[False, plan.fused[:-1]]
    end_s = bar_end_s(timeline)
    start_s = np.where(second, np.r_[0.0, timeline.start_s[:-1]], timeline.start_s)
    end_s = np.where(second, np.r_[0.0, end_s[:-1]], end_s)
    for kind in Kind:
        for level in np.unique(shade):
            rows = np.flatnonzero(held & (plan.ops[:, 0] == kind) & (shade == level))
            y = plan.rank_of_op[rows] * _ROW
            top, bottom = y + 0.5 * second[rows], y + 1 - 0.5 * plan.fused[rows]
            corners = np.stack([start_s[rows], top, end_s[rows], bottom], axis=1)
            _boxes(axes, corners, _lighter(COLOURS[kind], float(level)), 2 if kind in COMPUTE else 1, as_bitmap)


def _shades(timeline: Timeline) -> NDArray[np.float64]:
    """How much lighter each stage is drawn: later chunks of a rank stand apart from earlier ones, shape (stages,)."""
    chunk = local_chunks(timeline.plan).astype(np.float64)
    shades: NDArray[np.float64] = 0.5 * chunk / max(1.0, chunk.max())
    return shades


def _lighter(colour: str, share: float) -> str:
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def _boxes(axes: Axes, corners: NDArray[np.float64], colour: str, layer: int, as_bitmap: bool) -> None:
    """Rectangles from rows of x0, y0, x1, y1; a hairline of white sets neighbours apart where bars are wide."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    points = corners[:, [[0, 1], [2, 1], [2, 3], [0, 3], [0, 1]]].reshape(-1, 2)
    codes = np.tile([Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY], len(corners))
    line = 0.0 if layer == 0 else float(np.clip(_points(axes, corners[:, 2] - corners[:, 0]) / 12, 0.0, 0.6))
    style: dict[str, Any] = {"fc": colour, "ec": "white" if line > 0.05 else colour, "lw": line if line > 0.05 else 0.2}
    for at in range(0, len(codes), 5 * BOXES_PER_PATH):
        part = slice(at, at + 5 * BOXES_PER_PATH)
        patch = PathPatch(Outline(points[part], codes[part]), zorder=layer, rasterized=as_bitmap, **style)
        patch.set_transform(axes.transData)
        patch.set_clip_path(axes.patch)
        axes.add_artist(patch)


def _points(axes: Axes, seconds: NDArray[np.float64]) -> float:
    """Typical width of bars on the page, in points."""
    return float(np.median(seconds)) / float(axes.get_xlim()[1]) * PLOT_IN * 72 if len(seconds) else 0.0


def _labels(axes: Axes, timeline: Timeline, row_in: float) -> None:
    """Micro-batch numbers on bars, of each kind that is wide enough for all its numbers; letters too on blocks."""
    plan, end_s = timeline.plan, bar_end_s(timeline)
    lane_points = 72 * row_in / _ROW
    digits = len(str(plan.micros - 1))
    alone = bars(plan) & ~plan.fused
    for rows, letters in (
        *((np.flatnonzero(alone & (plan.ops[:, 0] == kind)), digits) for kind in COMPUTE),
        (np.flatnonzero(plan.fused), 2 * digits + 3),
    ):
        size = min(9.0, 0.72 * lane_points, (_points(axes, (end_s - timeline.start_s)[rows]) - 1) / 0.64 / letters)
        if size < LEAST_FONT or len(rows) > MOST_LABELS:
            continue
        middle = (timeline.start_s + end_s)[rows] / 2
        y = plan.rank_of_op[rows] * _ROW + 0.53
        for row, at, height in zip(rows.tolist(), middle.tolist(), y.tolist(), strict=True):
            axes.text(at, height, _label(plan, row), fontsize=size, ha="center", va="center", zorder=4)


def _label(plan: Plan, row: int) -> str:
    """The micro-batch of an op; ``F3+B1`` for a block."""
    micro = str(plan.ops[row, 2])
    if not plan.fused[row]:
        return micro
    back = plan.op(row + 1)
    return f"F{micro}+{back.kind.name}{back.micro}"


def _messages(axes: Axes, timeline: Timeline) -> None:
    """Lines from the sending rank to the receiving one, where they are few enough to follow."""
    from matplotlib.collections import LineCollection

    found = messages(timeline) if timeline.plan.lowered else None
    if found is None or not 0 < len(found) <= MOST_MESSAGES:
        return
    rank = timeline.plan.rank_of_op
    source, target = rank[found.send], rank[found.recv]
    down = target > source
    begin = np.stack([found.begin_s, source * _ROW + np.where(down, 1.0, 0.0)], axis=1)
    end = np.stack([found.end_s, target * _ROW + np.where(down, 0.0, 1.0)], axis=1)
    lines = LineCollection(list(np.stack([begin, end], axis=1)), colors=_INK, linewidths=0.5, alpha=0.45, zorder=5)
    axes.add_collection(lines, autolim=False)
    axes.plot(end[:, 0], end[:, 1], ls="", marker="o", ms=1.6, mew=0, color=_INK, zorder=6)


def _memory(axes: Axes, rank: int, curve: MemoryCurve, peak: float, end_s: float, as_bitmap: bool) -> None:
    """Activations, on top of them buffers, on top gathered weights; all ranks and timelines to one scale."""
    from matplotlib.collections import PolyCollection

    if not len(curve.time_s):
        return
    base = rank * _ROW + 1 + _MEMORY_ROW
    kept = np.append(np.diff(curve.time_s) > 0, True)
    x = np.repeat(np.append(curve.time_s[kept], max(end_s, curve.time_s[-1])), 2)[1:-1]
    parts = (curve.activation_bytes, curve.buffer_bytes, curve.gathered_bytes)
    levels = np.cumsum([np.zeros(int(kept.sum())), *(part[kept] for part in parts)], axis=0)
    ys = base - np.repeat(levels, 2, axis=1) / peak * _MEMORY_ROW * 0.9
    for low, top, colour in zip(ys[:-1], ys[1:], (_ACTIVATION, _BUFFER, _GATHERED), strict=True):
        outline = np.concatenate([np.stack([x, top], axis=1), np.stack([x, low], axis=1)[::-1]])
        area = PolyCollection([outline], facecolors=colour, edgecolors="none", zorder=1, rasterized=as_bitmap)
        axes.add_collection(area, autolim=False)
    axes.plot([0, end_s], [base, base], color=_ACTIVATION, lw=0.5, zorder=0)


def _time_axis(axes: Axes, end_s: float, unit: str) -> None:
    found = ticks(0.0, end_s, 10)
    axes.set_xticks(found, tick_texts(found, unit))
    axes.tick_params(axis="x", length=3, color=_MUTED)


def _legend(figure: Figure, timelines: Sequence[Timeline], tall: float) -> None:
    from matplotlib.patches import Patch

    kinds = np.unique(np.concatenate([t.plan.ops[holds_rank(t.plan), 0] for t in timelines])).tolist()
    shown: list[Any] = [Patch(color=COLOURS[Kind(k)], label=PHRASES[Kind(k)]) for k in kinds if Kind(k) not in MESSAGES]
    if any(t.plan.blocking for t in timelines):
        shown.append(Patch(color=COLOURS[Kind.SEND_F], label="message holds the rank"))
    shown.append(Patch(color=_ACTIVATION, label="activations"))
    if any(curve.buffer_bytes.any() for t in timelines for curve in t.memory):
        shown.append(Patch(color=_BUFFER, label="buffers"))
    if any(curve.gathered_bytes.any() for t in timelines for curve in t.memory):
        shown.append(Patch(color=_GATHERED, label="gathered weights"))
    rows = 1 if len(shown) <= MOST_WORDS else 2
    figure.legend(
        handles=shown,
        loc="upper right",
        bbox_to_anchor=(1 - _RIGHT_IN / WIDTH_IN, 1 - (_HEAD_IN + 0.08 if rows == 1 else 0.12) / tall),
        ncols=-(-len(shown) // rows),
        frameon=False,
        fontsize=8.5,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.3,
        borderaxespad=0,
        labelcolor=_MUTED,
    )
