"""Plans and timelines as text for terminals and golden files."""

from __future__ import annotations

import io
import shutil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import MESSAGES, NO_MICRO, Kind
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.view.marks import COLOURS, bar_end_s, bar_name, bars, memory_text, tick_texts, ticks, time_text

IDLE = "·"
GOES_ON = "─"
ON_THE_WIRE = "~"
"""Stands for a message that holds its rank, in plans with blocking sends."""
MOST_RANKS = 40
_NOTHING = -1
T = TypeVar("T")
_LETTERS = {kind: ON_THE_WIRE if kind in MESSAGES else kind.name[0] for kind in Kind}


def lanes(plan: Plan, width: int | None = None, most_ranks: int = MOST_RANKS) -> str:
    """The ops of each rank in order, one line per rank; lines too long for ``width`` columns lose their middle.

    Args:
        plan: any plan, legal or not.
        width: columns; the terminal's if not given.
        most_ranks: with more ranks than this, the middle ones are left out.
    """
    width = width or shutil.get_terminal_size().columns
    head = f"{plan.name}: {_count(plan.placement.ranks, 'rank')}, {_count(plan.placement.stages, 'stage')}, "
    head += f"{_count(plan.micros, 'micro-batch')}, {_count(len(plan), 'op')}"
    names = _rank_names(plan.placement.ranks)
    rows = [f"{name}  {_shortened(plan.lanes[r], width - len(name) - 2)}" for r, name in enumerate(names)]
    return "\n".join([head, *_without_middle(rows, most_ranks)]) + "\n"


def gantt(
    timeline: Timeline,
    width: int | None = None,
    unit: str = "s",
    colour: bool = False,
    most_ranks: int = MOST_RANKS,
) -> str:
    """One row per rank, time to scale: kind and micro-batch where they fit, dots where the rank idles.

    Args:
        timeline: simulated or measured.
        width: columns; the terminal's if not given.
        unit: ``s`` for seconds, else the name of the time unit (may be empty).
        colour: add terminal colours, for output that goes to a terminal.
        most_ranks: with more ranks than this, the middle ones are left out.
    """
    width = width or shutil.get_terminal_size().columns
    names = _rank_names(timeline.plan.placement.ranks)
    left = len(names[0]) + 2
    columns = _whole_columns(timeline, max(10, width - left))
    kept = _without_middle(list(range(len(names))), most_ranks)
    rows = [
        row if isinstance(row, str) else f"{names[row]}  {_painted(*_row(timeline, row, columns), colour)}"
        for row in kept
    ]
    head = f"{timeline.label}: {timeline.plan.name}, {time_text(timeline.step_s, unit)}"
    return "\n".join([head, *rows, " " * left + _axis(timeline.step_s, columns, unit)]) + "\n"


def summary(timeline: Timeline, unit: str = "s", most_ranks: int = MOST_RANKS) -> str:
    """Makespan, span and bubble in one line each, then busy time and peak memory of each rank."""
    makespan, span = timeline.makespan_s, timeline.span_s
    rows = [
        f"makespan  {time_text(makespan, unit)}  ({timeline.bubble_sync:.1%} bubble on the busiest rank)",
        f"span      {time_text(span, unit)}  ({timeline.bubble_span:.1%} bubble on the busiest rank)",
    ]
    if timeline.step_only_s > 0:
        rows.append(f"step      {time_text(timeline.step_s, unit)}  with optimizer and late messages")
    busy = [time_text(s, unit) for s in timeline.busy_s]
    share = [f"{s / makespan:.1%}" if makespan else "0.0%" for s in timeline.busy_s]
    peak = [memory_text(b, unit) for b in timeline.peak_bytes]
    columns = (_rank_names(len(busy)), ["busy", *busy], ["", *share], ["peak memory", *peak])
    wide = [max(map(len, column)) for column in columns[1:]]
    cells = zip(["", *columns[0]], *columns[1:], strict=True)
    left = len(columns[0][0])
    table = [f"{name:<{left}}" + "".join(f"  {c:>{w}}" for c, w in zip(row, wide, strict=True)) for name, *row in cells]
    return "\n".join([*rows, table[0], *_without_middle(table[1:], most_ranks)]) + "\n"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 'es' if word.endswith('ch') else 's'}"


def _rank_names(ranks: int) -> list[str]:
    return [f"rank {r:>{len(str(ranks - 1))}}" for r in range(ranks)]


def _without_middle(rows: list[T], most: int) -> list[T | str]:
    if len(rows) <= most:
        return list(rows)
    kept = max(1, most // 2)
    return [*rows[:kept], f"  ⋮ {_count(len(rows) - 2 * kept, 'more rank')}", *rows[-kept:]]


def _shortened(lane: Lane, width: int) -> str:
    """The lane's first and last ops, as many as fit, and how many were left out between them."""
    few = max(2, width // 4)
    if len(lane) <= 2 * few and len(text := str(lane)) <= width:
        return text
    few = min(few, len(lane) // 2)
    begin, end = few + int(lane.fused[few - 1]), len(lane) - few
    end -= int(lane.fused[end - 1])
    head, tail = str(lane[:begin]).split(), str(lane[max(begin, end) :]).split()
    kept = max(1, min(len(head), len(tail)))
    while True:
        shown = head[:kept] + tail[-kept:]
        dropped = len(lane) - sum(1 + word.startswith("(") for word in shown)
        text = " ".join([*head[:kept], f"… {dropped} more …", *tail[-kept:]])
        if len(text) <= width or kept == 1:
            return text
        kept -= 1


def _whole_columns(timeline: Timeline, columns: int) -> int:
    """A little fewer columns where that gives every op a whole number of them (as with unit costs)."""
    held, end_s = bars(timeline.plan), bar_end_s(timeline)
    lengths = (end_s - timeline.start_s)[held]
    shortest = lengths.min(initial=np.inf, where=lengths > 0)
    if not 0 < shortest < np.inf:
        return columns
    times = end_s[held] / shortest
    fits = round(timeline.step_s / shortest)
    if fits > columns or not np.allclose(times, np.round(times), atol=1e-6):
        return columns
    whole = columns // fits * fits
    return whole if whole >= 0.75 * columns else columns


def _row(timeline: Timeline, rank: int, columns: int) -> tuple[list[str], NDArray[np.int64]]:
    """Character and kind (``_NOTHING`` where idle) of each column of one rank; a block has the colours of both ops."""
    plan, end_s = timeline.plan, bar_end_s(timeline)
    a, b = plan.first[rank : rank + 2]
    ids = np.arange(a, b)[bars(plan)[a:b]]
    edges = np.linspace(0.0, timeline.step_s, columns + 1)
    scale = columns / timeline.step_s if timeline.step_s else 0.0
    begin, end = (np.floor(times[ids] * scale + 0.5).astype(int) for times in (timeline.start_s, end_s))
    wide, narrow = np.flatnonzero(end - begin >= 2), ids[end - begin < 2]
    share = np.stack([_occupied(timeline.start_s, end_s, narrow[plan.ops[narrow, 0] == kind], edges) for kind in Kind])
    blocks = narrow[plan.fused[narrow]]
    half = _occupied(timeline.start_s, end_s, blocks, edges) / 2
    share[Kind.F] -= half
    share[Kind.B] += half
    chars, kinds = [""] * columns, np.full(columns, _NOTHING, dtype=np.int64)
    virtual = plan.placement.stages > plan.placement.ranks
    for op_id, at, to in zip(ids[wide].tolist(), begin[wide].tolist(), end[wide].tolist(), strict=True):
        chars[at:to] = _label(plan, op_id, to - at, virtual)
        kinds[at:to] = plan.ops[op_id, 0]
        if plan.fused[op_id]:
            kinds[(at + to) // 2 : to] = plan.ops[op_id + 1, 0]
    _fill_narrow(chars, kinds, share)
    return chars, kinds


def _fill_narrow(chars: list[str], kinds: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    """Give columns that no label covers one letter each, so that letters stand in the proportion of their times."""
    share = np.vstack([share, 1.0 - share.sum(axis=0)])
    owed = np.zeros(len(share))
    for column in [at for at, char in enumerate(chars) if not char]:
        owed += share[:, column]
        most = int(np.argmax(np.where(share[:, column] > 1e-9, owed, -np.inf)))
        owed[most] -= 1.0
        chars[column] = IDLE if most == len(Kind) else _LETTERS[Kind(most)]
        kinds[column] = _NOTHING if most == len(Kind) else most


def _occupied(
    start_s: NDArray[np.float64], end_s: NDArray[np.float64], ids: NDArray[np.int64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each column that the bars take."""
    if not len(ids) or edges[-1] == 0:
        return np.zeros(len(edges) - 1)
    start, end = start_s[ids], end_s[ids]
    total = np.cumsum(end - start)
    times = np.stack([start, end], axis=1).ravel()
    done = np.stack([total - (end - start), total], axis=1).ravel()
    reached: NDArray[np.float64] = np.interp(edges, times, done)
    return np.diff(reached) / float(edges[1] - edges[0])


def _label(plan: Plan, op_id: int, columns: int, virtual: bool) -> str:
    """The longest name of an op that fits, drawn out to its length."""
    op = plan.op(op_id)
    letter = _LETTERS[op.kind]
    if op.kind in MESSAGES:
        return letter * columns
    short = op.kind.name if op.micro == NO_MICRO else f"{letter}{op.micro}"
    names = [bar_name(plan, op_id), short] if virtual and op.micro != NO_MICRO else [short]
    if plan.fused[op_id]:
        back = plan.op(op_id + 1)
        names[-1:] = [f"{short}+{_LETTERS[back.kind]}{back.micro}", f"{letter}+{_LETTERS[back.kind]}"]
    return next((name for name in names if len(name) <= columns), letter).ljust(columns, GOES_ON)


def _axis(step_s: float, columns: int, unit: str) -> str:
    """Times under the rows, each written from its column on."""
    line = [" "] * columns
    free = 0
    found = ticks(0.0, step_s, max(1, columns // 12))
    for tick, text in zip(found.tolist(), tick_texts(found, unit), strict=True):
        at = int(tick / step_s * columns) if step_s else 0
        if at >= free and at + len(text) <= columns:
            line[at : at + len(text)] = text
            free = at + len(text) + 2
    return "".join(line).rstrip()


def _painted(chars: list[str], kinds: NDArray[np.int64], colour: bool) -> str:
    text = "".join(chars)
    if not colour:
        return text
    from rich.console import Console
    from rich.text import Text

    styled = Text(text, no_wrap=True)
    edges = np.flatnonzero(np.diff(kinds, prepend=-2, append=-2))
    for at, to in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kind = int(kinds[at])
        styled.stylize("dim" if kind == _NOTHING else f"black on {COLOURS[Kind(kind)]}", at, to)
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="truecolor", width=len(text) + 1).print(styled, end="")
    return out.getvalue()
