"""Timelines as a trace for ui.perfetto.dev or chrome://tracing (the Trace Event Format, JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import NOTHING
from penstock.core.op import COLLECTIVES, HOST, MESSAGES, NO_MICRO, Op
from penstock.core.timeline import Timeline
from penstock.view.marks import PHRASES, Messages, bar_end_s, bar_name, bars, messages

Event = dict[str, Any]
COMPUTE_TRACK = 0
SIDE_TRACKS = {"host link": HOST, "collectives": COLLECTIVES}
"""Names of the tracks of what a rank only starts, and kinds that stand there."""
_PHASE_ORDER = {"M": 0, "X": 1, "C": 2, "s": 3, "t": 4, "f": 5}
"""Events of one instant: slices first, so that the flows that bind to them find them."""


def trace(timelines: Sequence[Timeline]) -> str:
    """One JSON trace: a process per timeline and rank, tracks for compute and for each link, memory, message arrows.

    A block of a forward and a backward is one slice. What a rank only starts stands on tracks of its own: copies to and
    from the host, and collectives, from posting to end; where several are under way at once, on as many tracks. A
    message stands on the sender's and the receiver's track for as long as it is on the wire; messages of plans
    without sends are arrows only. A second of the timeline is a second of the trace, whatever the unit of its costs.
    """
    events: list[Event] = []
    flow = 0
    for number, timeline in enumerate(timelines):
        first_process = 1 + sum(t.plan.placement.ranks for t in timelines[:number])
        found = messages(timeline)
        events += _names(timeline, found, first_process)
        events += _compute(timeline, first_process)
        events += _posted(timeline, first_process)
        events += _on_wire(timeline, found, first_process)
        events += _flows(timeline, found, first_process, flow)
        events += _memory(timeline, first_process)
        flow += len(found)
    events.sort(key=lambda event: (event.get("ts", -1.0), _PHASE_ORDER[event["ph"]]))
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"))


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _slice(name: str, process: int, track: int, start_s: float, end_s: float, args: Event) -> Event:
    start, end = _us(start_s), _us(end_s)
    return {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": track,
        "ts": start,
        "dur": round(end - start, 3),
        "args": args,
    }


def _tracks(timeline: Timeline) -> tuple[int, int]:
    """Number of the track "send to rank 0", and of "receive from rank 0"."""
    return 1, 1 + timeline.plan.placement.ranks


def _side_tracks(timeline: Timeline, rank: int) -> tuple[dict[int, str], dict[int, int]]:
    """Names of the tracks of what a rank starts on its host link and for collectives, by number, and the track of each
    such op id: the first of its kind that is free then."""
    plan = timeline.plan
    a, b = plan.first[rank : rank + 2]
    names: dict[int, str] = {}
    track_of: dict[int, int] = {}
    number = 1 + 2 * plan.placement.ranks
    for title, kinds in SIDE_TRACKS.items():
        rows = a + np.flatnonzero(np.isin(plan.ops[a:b, 0], kinds))
        busy_until: list[float] = []
        for row in rows[np.argsort(timeline.start_s[rows], kind="stable")].tolist():
            free = next((k for k, end_s in enumerate(busy_until) if end_s <= timeline.start_s[row]), len(busy_until))
            busy_until[free : free + 1] = [float(timeline.end_s[row])]
            track_of[row] = number + free
        names |= {number + k: title if k == 0 else f"{title} {k + 1}" for k in range(len(busy_until))}
        number += len(busy_until)
    return names, track_of


def _posted(timeline: Timeline, first_process: int) -> Iterator[Event]:
    plan = timeline.plan
    for rank in range(plan.placement.ranks):
        for row, track in _side_tracks(timeline, rank)[1].items():
            op = plan.op(row)
            times = float(timeline.start_s[row]), float(timeline.end_s[row])
            yield _slice(str(op), first_process + rank, track, *times, _facts(op))


def _names(timeline: Timeline, found: Messages, first_process: int) -> Iterator[Event]:
    """Names of processes and tracks, and their order from top to bottom."""
    sends, receives = _tracks(timeline)
    rank_of = timeline.plan.rank_of_op
    sent = found.send >= 0
    links = sorted(set(zip(rank_of[found.send[sent]].tolist(), rank_of[found.recv[sent]].tolist(), strict=True)))
    for rank in range(timeline.plan.placement.ranks):
        process = first_process + rank
        tracks = {COMPUTE_TRACK: "compute"}
        tracks |= {sends + to: f"send to rank {to}" for source, to in links if source == rank}
        tracks |= {receives + source: f"receive from rank {source}" for source, to in links if to == rank}
        tracks |= _side_tracks(timeline, rank)[0]
        yield _meta("process_name", process, 0, {"name": f"{timeline.label} / rank {rank}"})
        yield _meta("process_sort_index", process, 0, {"sort_index": process})
        for track, name in tracks.items():
            yield _meta("thread_name", process, track, {"name": name})
            yield _meta("thread_sort_index", process, track, {"sort_index": track})


def _meta(name: str, process: int, track: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": track, "args": args}


def _compute(timeline: Timeline, first_process: int) -> Iterator[Event]:
    plan, bar_end = timeline.plan, bar_end_s(timeline)
    rows = np.flatnonzero(bars(plan) & ~np.isin(plan.ops[:, 0], MESSAGES))
    columns = (rows, plan.rank_of_op[rows], timeline.start_s[rows], bar_end[rows], timeline.waited_for[rows])
    for row, rank, start_s, end_s, waited in _rows(*columns):
        args = _facts(plan.op(row))
        if plan.fused[row]:
            args["with"] = _facts(plan.op(row + 1))
        if waited != NOTHING:
            args["waited for"] = f"{plan.op(waited)} on rank {plan.rank_of_op[waited]}"
        yield _slice(bar_name(plan, row), first_process + rank, COMPUTE_TRACK, start_s, end_s, args)


def _facts(op: Op) -> Event:
    args: Event = {"kind": PHRASES[op.kind], "stage": op.stage}
    return args if op.micro == NO_MICRO else {**args, "micro-batch": op.micro}


def _on_wire(timeline: Timeline, found: Messages, first_process: int) -> Iterator[Event]:
    plan = timeline.plan
    sends, receives = _tracks(timeline)
    for send, recv, begin_s, end_s in _rows(found.send, found.recv, found.begin_s, found.end_s):
        if send < 0:
            continue
        source, to = int(plan.rank_of_op[send]), int(plan.rank_of_op[recv])
        posted = {"send posted us": _us(timeline.start_s[send]), "receive posted us": _us(timeline.start_s[recv])}
        ends = ((send, source, sends + to), (recv, to, receives + source))
        for row, rank, track in ends:
            op = plan.op(row)
            yield _slice(str(op), first_process + rank, track, begin_s, end_s, {**_facts(op), **posted})


def _flows(timeline: Timeline, found: Messages, first_process: int, first_flow: int) -> Iterator[Event]:
    """One arrow per message, from the op that made the value, over the wire if there is one, to the op that used it.

    Arrows are tied to slices by time and track; the middle of a slice lies in no other.
    """
    plan = timeline.plan
    _, receives = _tracks(timeline)
    middle = _middle_of_bars(timeline)
    columns = (found.made_by, found.used_by, found.send, (found.begin_s + found.end_s) / 2)
    for number, (made_by, used_by, send, passing_s) in enumerate(_rows(*columns)):
        if made_by < 0 or used_by < 0:
            continue
        source, to = int(plan.rank_of_op[made_by]), int(plan.rank_of_op[used_by])
        arrow = {"cat": "message", "name": "message", "id": first_flow + number}
        leaves_s, arrives_s = float(middle[made_by]), float(middle[used_by])
        yield {"ph": "s", "pid": first_process + source, "tid": COMPUTE_TRACK, "ts": _us(leaves_s), **arrow}
        if send >= 0:
            yield {"ph": "t", "pid": first_process + to, "tid": receives + source, "ts": _us(passing_s), **arrow}
        end = {"ph": "f", "bp": "e", "pid": first_process + to, "tid": COMPUTE_TRACK}
        yield {**end, "ts": _us(arrives_s), **arrow}


def _middle_of_bars(timeline: Timeline) -> NDArray[np.float64]:
    """A time in the midst of the slice of each op id."""
    middle = (timeline.start_s + bar_end_s(timeline)) / 2
    first = np.flatnonzero(timeline.plan.fused)
    middle[first + 1] = middle[first]
    return middle


def _rows(*columns: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _memory(timeline: Timeline, first_process: int) -> Iterator[Event]:
    for rank, curve in enumerate(timeline.memory):
        columns = (curve.time_s, curve.activation_bytes, curve.buffer_bytes, curve.gathered_bytes)
        gathers = curve.gathered_bytes.any()
        for time_s, activations, buffers, gathered in _rows(*columns):
            values = {"activations": activations, "buffers": buffers}
            if gathers:
                values["gathered weights"] = gathered
            yield {"ph": "C", "name": "memory", "pid": first_process + rank, "ts": _us(time_s), "args": values}
