"""Predicted over measured figures as a picture, a colour for each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.view.plot import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Points = Sequence[tuple[str, float, float]]
"""Source, measured, predicted."""
OTHERS, OTHERS_COLOUR = "other sources", "#9aa4b2"
BAND = 0.2
_OWN = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "#1c2430")
_MARKERS = "osD^v"
_INK, _GRID = "#1c2430", "#e3e7ed"


def save(panels: Mapping[str, Points], sources: Sequence[str], path: str | Path) -> None:
    """Write one square per panel, predicted over measured on logarithmic axes, with a band of 20 % around equality.

    Args:
        panels: points by what they measure, for example ``step time, s``.
        sources: all of them, those first that shall have a colour.
        path: a file ending in ``.png`` or ``.svg``.

    Raises:
        ValueError: there are no points.
    """
    if not panels:
        raise ValueError("no row has both a measured and a predicted figure; there is nothing to draw")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(panels), 7.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        colours = _colours(sources)
        for each, (name, points) in zip(axes, panels.items(), strict=True):
            _panel(each, name, points, colours)
        drawn = {source for points in panels.values() for source, _, _ in points}
        marks = _legend(colours, drawn)
        figure.legend(handles=marks, loc="outside lower left", ncols=len(panels), frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)


def _colours(sources: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each source; those that are beyond the colours share a grey."""
    own = dict(zip(sources, zip(_OWN, cycle(_MARKERS), strict=False), strict=False))
    return own | dict.fromkeys(sources[len(own) :], (OTHERS_COLOUR, "."))


def _panel(axes: Axes, name: str, points: Points, colours: Mapping[str, tuple[str, str]]) -> None:
    values = [value for _, *pair in points for value in pair]
    low, high = min(values) / 1.3, max(values) * 1.3
    axes.fill_between([low, high], [low * (1 - BAND), high * (1 - BAND)], [low * (1 + BAND), high * (1 + BAND)],
                      color=_GRID, linewidth=0, zorder=0)  # fmt: skip
    axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, zorder=1)
    for source, (colour, marker) in [*colours.items()][::-1]:
        mine = [(x, y) for name_, x, y in points if name_ == source]
        if mine:
            x, y = zip(*mine, strict=True)
            axes.scatter(x, y, s=13, color=colour, marker=marker, alpha=0.55, linewidths=0, zorder=2)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"measured {name}")
    axes.set_ylabel(f"predicted {name}")
    axes.set_title(f"{len(points):,} runs; the band is within {BAND:.0%}", fontsize=10, loc="left")
    axes.grid(color=_GRID, linewidth=0.6, zorder=0)


def _legend(colours: Mapping[str, tuple[str, str]], drawn: set[str]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    def mark(label: str, colour: str, marker: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="", label=label)

    own = {source: look for source, look in colours.items() if source in drawn and look[0] != OTHERS_COLOUR}
    marks = [mark(source, *look) for source, look in own.items()]
    rest = drawn - set(own)
    return [*marks, mark(f"{len(rest)} {OTHERS}", OTHERS_COLOUR, ".")] if rest else list(marks)
