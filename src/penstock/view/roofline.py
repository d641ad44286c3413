"""Rooflines as pictures: operators by FLOPs per byte and FLOP/s, under the peaks of a device and what lasts of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from penstock.predict.roofline import Ceiling, Point, Roofline
from penstock.view.plot import STYLE, suffix_of, write
from penstock.view.svg import Box, touch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "matmul": "#2f6fb7", "grouped_matmul": "#1aa3a3", "attention": "#d9722e", "scan": "#b1484f", "norm": "#7d5ba6",
    "elementwise": "#8a9a3b", "gather": "#6b7686", "loss": "#c2a12b",
}  # fmt: skip
"""Of each kind of operator."""
MOST_LABELS = 9
RIGHT_PX, DOWN_PX = 24.0, 20.0
"""From a point to its label, at least; in pixels of 100 to the inch, as below."""
WIDE_PX, HIGH_PX, PX_OF_PT = 6.6, 15.0, 100 / 72
"""A letter of a label and its line; a point of type."""
ROOM_RIGHT = 100.0
"""How far the axis of FLOPs per byte goes beyond the last point, for the names of lines and operators."""
LARGEST_AREA, LEAST_AREA = 1400.0, 14.0
_INK, _MUTED, _GRID = "#1c2430", "#6b7686", "#e3e7ed"


def save(roofline: Roofline, path: str | Path, title: str = "") -> None:
    """Write the roofline: the area of a point is its share of all points' time, its colour its kind.

    Args:
        roofline: of one rank.
        path: a file ending in ``.png`` or ``.svg``.
        title: over the picture.

    Raises:
        ValueError: another suffix.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    suffix_of(path)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 6.8), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title or roofline.device.name, fontsize=11, loc="left")
        _frame(axes, roofline)
        figure.draw_without_rendering()  # the angle of the slope, and what labels are apart, hang on the layout
        _ceilings(axes, roofline)
        _points(axes, roofline.points)
        write(figure, path)


def _frame(axes: Axes, roofline: Roofline) -> None:
    """Axes that hold all points and the ridges of the precisions in use."""
    used = [one.peak for one in roofline.flops if one.lasting is not None]
    ridges = [peak / roofline.memory.peak for peak in used]
    x = [point.flops_per_byte for point in roofline.points] + ridges
    y = [point.flops_per_s for point in roofline.points] + used
    axes.set(xscale="log", yscale="log", xlim=(min(x) / 2.5, max(x) * ROOM_RIGHT), ylim=(min(y) / 3, max(y) * 2.2))
    axes.set_xlabel("FLOPs per byte of memory")
    axes.set_ylabel("FLOP/s of one device")
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _ceilings(axes: Axes, roofline: Roofline) -> None:
    """Peaks as lines, dashed what large work reaches of them through a step."""
    used = sorted((one for one in roofline.flops if one.lasting is not None), key=lambda one: -one.peak)
    slope, top = roofline.memory, max(one.peak for one in used)
    _line(axes, slope.peak, top, top, _INK, "-")
    if slope.lasting is not None:
        _line(axes, slope.lasting, top, top, _MUTED, "--", flat=False)
    for number, one in enumerate(used):
        lasting = one.lasting or one.peak
        _line(axes, slope.peak, one.peak, one.peak, _INK, "-")
        _line(axes, slope.lasting or slope.peak, lasting, lasting, _MUTED, "--")
        _note(axes, number == 0, one.peak, f"{one.name} peak {one.peak / 1e12:,.4g} TFLOP/s", _INK)
        _note(axes, number == 0, lasting, f"{one.name} through a step {lasting / 1e12:,.4g}", _MUTED)
    _name_slope(axes, slope)


def _line(axes: Axes, slope: float, level: float, top: float, colour: str, style: str, flat: bool = True) -> None:
    """A level from where the slope of memory meets it, or the slope up to there."""
    left, right = axes.get_xlim()
    x = [top / slope, right] if flat else [left, top / slope]
    y = [level, level] if flat else [left * slope, top]
    axes.plot(x, y, color=colour, linewidth=1.2, linestyle=style, zorder=2)
    if flat and style == "-":
        axes.plot([left, top / slope], [left * slope, top], color=colour, linewidth=1.2, zorder=2)


def _note(axes: Axes, above: bool, y: float, text: str, colour: str) -> None:
    """The name of a level, at the right end of its line."""
    axes.annotate(
        text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(-6, 2 if above else -2),
        textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=8, color=colour,
    )  # fmt: skip


def _name_slope(axes: Axes, memory: Ceiling) -> None:
    """The rate of memory along its line."""
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    start = max(left, bottom / memory.peak) * 1.3
    ends = axes.transData.transform([(start, start * memory.peak), (10 * start, 10 * start * memory.peak)])
    angle = float(np.degrees(np.arctan2(*(ends[1] - ends[0])[::-1])))
    words = f"memory {memory.peak / 1e9:,.4g} GB/s"
    words += f", through a step {memory.lasting / 1e9:,.4g}" if memory.lasting is not None else ""
    axes.annotate(
        words, (start, start * memory.peak), xytext=(-3, 4), textcoords="offset points", rotation=angle,
        rotation_mode="anchor", fontsize=8, color=_INK, ha="left", va="bottom",
    )  # fmt: skip


def _points(axes: Axes, points: Sequence[Point]) -> None:
    whole = sum(point.seconds for point in points)
    largest = max((point.seconds for point in points), default=1.0)
    for kind, colour in COLOURS.items():
        mine = [point for point in points if point.kind == kind]
        if not mine:
            continue
        areas = [_area(point.seconds / largest) for point in mine]
        part = sum(point.seconds for point in mine) / whole
        axes.scatter(
            [point.flops_per_byte for point in mine], [point.flops_per_s for point in mine], s=areas, color=colour,
            alpha=0.55, edgecolors="white", linewidths=0.8, zorder=3, label=f"{kind.replace('_', ' ')}, {part:.1%}",
        )  # fmt: skip
    look = {"fontsize": 8.5, "title_fontsize": 8.5, "framealpha": 0.9, "edgecolor": _GRID}
    legend = axes.legend(loc="lower right", title="kind, share of their time", **look)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([60.0])  # type: ignore[attr-defined]
    _labels(axes, sorted(points, key=lambda point: -point.seconds)[:MOST_LABELS], whole)


def _labels(axes: Axes, points: Sequence[Point], whole: float) -> None:
    """Names of the largest below their right, the last on the axis first, each lower as long as it touches another or
    a point."""
    largest = max(point.seconds for point in points) if points else 1.0
    taken: list[Box] = []
    places = {point: axes.transData.transform((point.flops_per_byte, point.flops_per_s)) for point in points}
    for point, (x, y) in places.items():
        radius = PX_OF_PT * (_area(point.seconds / largest) / np.pi) ** 0.5
        taken.append((x - radius, y - radius, x + radius, y + radius))
    for point in sorted(points, key=lambda point: -point.flops_per_byte):
        text, (x, y) = f"{point.name}  {point.seconds / whole:.1%}", places[point]
        right, down = RIGHT_PX, DOWN_PX
        while any(touch(_box(x + right, y - down, text), other) for other in taken):
            down += 2.0
        taken.append(_box(x + right, y - down, text))
        axes.annotate(
            text, (point.flops_per_byte, point.flops_per_s), xytext=(right / PX_OF_PT, -down / PX_OF_PT),
            textcoords="offset points", ha="left", va="center", fontsize=8, color=_INK, zorder=4,
            arrowprops={"arrowstyle": "-", "color": _MUTED, "linewidth": 0.5, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def _area(share: float) -> float:
    """Of a point, in square points, by its time over that of the largest."""
    return max(LEAST_AREA, LARGEST_AREA * share)


def _box(x: float, y: float, text: str) -> Box:
    return x, y - HIGH_PX / 2, x + WIDE_PX * len(text), y + HIGH_PX / 2
