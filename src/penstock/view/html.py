"""Timelines as one HTML file that needs no network: lanes to zoom into, memory, tables and curves.

The page is written by hand in ``page/``; here its data are packed: arrays as one deflated, base64-coded block and their
places in it as JSON.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import COMPUTE, MESSAGES, Kind
from penstock.core.timeline import Timeline
from penstock.view.marks import COLOURS, PHRASES, holds_rank, local_chunks, memory_text, messages, time_text

SCRIPTS = ("data.js", "theme.js", "ticks.js", "view.js", "lane.js", "chain.js", "panel.js", "hover.js", "hands.js",
           "chart.js", "main.js")  # fmt: skip
"""Parts of the page's script in the order they are joined."""
_TYPES = {"float64": "Float64Array", "int32": "Int32Array", "uint8": "Uint8Array"}


@dataclass(frozen=True)
class Table:
    """A small table over the timelines; every cell is text. The first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a small chart, for example the loss of each step. Curves of one ``chart`` share its axes.

    Args:
        name: of this line.
        x, y: shape (points,), ``x`` rising.
        unit: of ``y``: ``s`` for seconds, else a word (may be empty).
        chart: title of the chart.
        x_name: what ``x`` counts.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    unit: str = ""
    chart: str = ""
    x_name: str = "step"


@dataclass
class _Block:
    """Arrays one after the other, each on a multiple of eight bytes."""

    parts: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, values: Any, dtype: str) -> dict[str, Any]:
        array = np.ascontiguousarray(values, dtype=dtype)
        place = {"type": _TYPES[dtype], "at": self.length, "length": array.size}
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        self.parts.append(raw + bytes(-len(raw) % 8))
        self.length += len(self.parts[-1])
        return place

    def text(self) -> str:
        return base64.b64encode(zlib.compress(b"".join(self.parts), 6)).decode()


def page(
    timelines: Sequence[Timeline],
    title: str,
    facts: Mapping[str, str] | Sequence[Table] = (),
    curves: Sequence[Curve] = (),
    unit: str = "s",
) -> str:
    """The whole page as text; write it to a file that ends in ``.html``.

    Args:
        timelines: for example predicted and measured, drawn one above the other on the same scale.
        title: of the page.
        facts: names and values, or tables, shown at the top.
        curves: small line charts, shown at the bottom.
        unit: ``s`` for seconds and bytes, else the name of the time unit (may be empty).

    Raises:
        ValueError: x and y of a curve differ in length.
    """
    words = {"title": escape(title), "facts": _facts(facts), "viewer": viewer(timelines, curves, unit)}
    return filled("page.html", words | {"head": head(title)})


def head(title: str, *styles: str) -> str:
    """The head of a page: its title and ``page.css``, with more files of styles behind it."""
    return filled("head.html", {"title": escape(title), "css": "".join(map(part, ("page.css", *styles)))})


def viewer(
    timelines: Sequence[Timeline], curves: Sequence[Curve] = (), unit: str = "s", until_s: float | None = None
) -> str:
    """The part of a page that draws timelines and curves: places for them, their data and the script; for pages with
    ``page.css``. It opens at the time up to ``until_s``, or at all of it. Other arguments and errors are those of
    ``page``."""
    block = _Block()
    header = {
        "unit": unit,
        "until": until_s,
        "kinds": [_kind(kind) for kind in Kind],
        "timelines": [_timeline(timeline, unit, block) for timeline in timelines],
        "curves": [_curve(curve, block) for curve in curves],
    }
    parts = {"header": json.dumps(header).replace("<", "\\u003c"), "data": block.text()}
    return filled("viewer.html", parts | {"script": "\n".join(map(part, SCRIPTS))})


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A file of ``page/`` with ``{{word}}`` replaced by the part of that name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], part(name))


def part(name: str) -> str:
    """A file of ``page/``."""
    return files("penstock.view").joinpath("page", name).read_text("utf-8")


def _kind(kind: Kind) -> dict[str, Any]:
    return {"name": kind.name, "phrase": PHRASES[kind], "colour": COLOURS[kind], "message": kind in MESSAGES}


def _timeline(timeline: Timeline, unit: str, block: _Block) -> dict[str, Any]:
    plan, memory = timeline.plan, timeline.memory
    bubble = f"{timeline.bubble_sync:.1%} bubble" if np.isin(plan.ops[:, 0], COMPUTE).any() else ""
    peak = memory_text(float(timeline.peak_bytes.max(initial=0.0)), unit)
    sizes = f"{plan.placement.ranks} ranks, {plan.placement.stages} stages, {plan.micros} micro-batches"
    sent = messages(timeline) if plan.lowered else None
    arrays = {
        "kind": (plan.ops[:, 0], "uint8"),
        "stage": (plan.ops[:, 1], "int32"),
        "micro": (plan.ops[:, 2], "int32"),
        "start": (timeline.start_s, "float64"),
        "duration": (timeline.end_s - timeline.start_s, "float64"),
        "waitedFor": (timeline.waited_for, "int32"),
        "holds": (holds_rank(plan), "uint8"),
        "fused": (plan.fused, "uint8"),
        "first": (plan.first, "int32"),
        "chunk": (local_chunks(plan), "uint8"),
        "send": (sent.send if sent else (), "int32"),
        "receive": (sent.recv if sent else (), "int32"),
        "departure": (sent.begin_s if sent else (), "float64"),
        "arrival": (sent.end_s if sent else (), "float64"),
        "memoryFirst": (np.cumsum([0, *(len(curve.time_s) for curve in memory)]), "int32"),
        "memoryTime": (np.concatenate([[], *(curve.time_s for curve in memory)]), "float64"),
        "activations": (np.concatenate([[], *(curve.activation_bytes for curve in memory)]), "float64"),
        "buffers": (np.concatenate([[], *(curve.buffer_bytes for curve in memory)]), "float64"),
        "gathered": (np.concatenate([[], *(curve.gathered_bytes for curve in memory)]), "float64"),
    }
    return {
        "label": timeline.label,
        "ranks": plan.placement.ranks,
        "micros": plan.micros,
        "step": timeline.step_s,
        "facts": [plan.name, time_text(timeline.step_s, unit), bubble, f"peak {peak}", sizes],
        "arrays": {name: block.add(values, dtype) for name, (values, dtype) in arrays.items()},
    }


def _curve(curve: Curve, block: _Block) -> dict[str, Any]:
    if len(curve.x) != len(curve.y):
        raise ValueError(f"curve {curve.name!r}: x has {len(curve.x)} points, y has {len(curve.y)}")
    words = {"name": curve.name, "unit": curve.unit, "chart": curve.chart or curve.unit, "xName": curve.x_name}
    return {**words, "arrays": {"x": block.add(curve.x, "float64"), "y": block.add(curve.y, "float64")}}


def _facts(facts: Mapping[str, str] | Sequence[Table]) -> str:
    if isinstance(facts, Mapping):
        pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        return f"<dl>{pairs}</dl>" if pairs else ""
    return "".join(drawn_table(table.title, table.columns, table.rows) for table in facts)


def drawn_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = ()) -> str:
    """A table of text; the first column names the rows, some columns are of ``words``. An empty title is not shown."""
    kinds = [' class="words"' if column in words else "" for column in range(len(columns))]
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    names = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>" for row in rows)
    return f'<div class="table"><table>{caption}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: Sequence[str], kinds: Sequence[str]) -> str:
    first, *others = row
    cells = (f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
    return f'<th scope="row">{escape(first)}</th>{"".join(cells)}'
