"""Timelines as a trace for ui.perfetto.dev or chrome://tracing (the Trace Event Format, JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from penstock.core.needs import NOTHING
from penstock.core.op import NO_MICRO, Op
from penstock.core.timeline import Timeline
from penstock.view.marks import MESSAGES, PHRASES, Messages, messages

Event = dict[str, Any]
COMPUTE_TRACK = 0
_PHASE_ORDER = {"M": 0, "X": 1, "C": 2, "s": 3, "t": 4, "f": 5}
"""Events of one instant: slices first, so that the flows that bind to them find them."""


def trace(timelines: Sequence[Timeline]) -> str:
    """One JSON trace: a process per timeline and rank, tracks for compute and for each link, memory, message arrows.

    A message stands on the sender's and the receiver's track for as long as it is on the wire; messages of plans
    without sends are arrows only. A second of the timeline is a second of the trace, whatever the unit of its costs.
    """
    events: list[Event] = []
    flow = 0
    for number, timeline in enumerate(timelines):
        first_process = 1 + sum(t.plan.placement.ranks for t in timelines[:number])
        found = messages(timeline)
        events += _names(timeline, found, first_process)
        events += _compute(timeline, first_process)
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
        yield _meta("process_name", process, 0, {"name": f"{timeline.label} / rank {rank}"})
        yield _meta("process_sort_index", process, 0, {"sort_index": process})
        for track, name in tracks.items():
            yield _meta("thread_name", process, track, {"name": name})
            yield _meta("thread_sort_index", process, track, {"sort_index": track})


def _meta(name: str, process: int, track: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": track, "args": args}


def _compute(timeline: Timeline, first_process: int) -> Iterator[Event]:
    plan = timeline.plan
    rows = np.flatnonzero(~np.isin(plan.ops[:, 0], MESSAGES))
    columns = (rows, plan.rank_of_op[rows], timeline.start_s[rows], timeline.end_s[rows], timeline.waited_for[rows])
    for row, rank, start_s, end_s, waited in zip(*(column.tolist() for column in columns), strict=True):
        op = plan.op(row)
        args = _facts(op)
        if waited != NOTHING:
            args["waited for"] = f"{plan.op(waited)} on rank {plan.rank_of_op[waited]}"
        yield _slice(str(op), first_process + rank, COMPUTE_TRACK, start_s, end_s, args)


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
    middle = (timeline.start_s + timeline.end_s) / 2
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


def _rows(*columns: Any) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _memory(timeline: Timeline, first_process: int) -> Iterator[Event]:
    for rank, curve in enumerate(timeline.memory):
        for time_s, activations, buffers in _rows(curve.time_s, curve.activation_bytes, curve.buffer_bytes):
            values = {"activations": activations, "buffers": buffers}
            yield {"ph": "C", "name": "memory", "pid": first_process + rank, "ts": _us(time_s), "args": values}
