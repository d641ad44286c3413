"""The beginning of a timeline, for readers that cannot show all of a large one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.timeline import MemoryCurve, Timeline


def beginning(timeline: Timeline, most_ops: int) -> Timeline:
    """Return a timeline up to a time, the latest before which at most so many ops begin; all of it if that is all.

    In a plan without sends, every op that one of them waited for is among them.

    Example:
        >>> from penstock import Costs, build, simulate
        >>> plan = build("1f1b", ranks=2, micros=8)
        >>> some = beginning(simulate(plan, Costs.uniform(plan.placement)), 10)
        >>> len(some.plan), some.step_s, str(some.plan.lanes[1])
        (10, 9.0, '1F0 1B0 1F1 1B1 1F2')
    """
    if len(timeline.plan) <= most_ops:
        return timeline
    until_s = float(np.sort(timeline.start_s)[most_ops])
    keep = timeline.start_s < until_s
    lanes = []
    for r, lane in enumerate(timeline.plan.lanes):
        kept = keep[timeline.plan.first[r] : timeline.plan.first[r + 1]]
        lanes.append(lane[: int(kept.argmin()) if not kept.all() else len(kept)])
    counts = np.array([len(lane) for lane in lanes])
    first = timeline.plan.first[:-1]
    rows = np.concatenate([np.arange(at, at + count) for at, count in zip(first, counts, strict=True)])
    return replace(
        timeline,
        plan=timeline.plan.with_lanes(lanes),
        start_s=timeline.start_s[rows],
        end_s=timeline.end_s[rows],
        waited_for=_renumbered(timeline.waited_for[rows], rows, len(timeline.plan)),
        memory=tuple(_until(curve, until_s) for curve in timeline.memory),
    )


def _renumbered(waited_for: NDArray[np.int32], rows: NDArray[np.int64], ops: int) -> NDArray[np.int32]:
    """Ids of ops among those that are left; -1 stays."""
    ids = np.full(ops + 1, -1, dtype=np.int32)
    ids[rows] = np.arange(len(rows), dtype=np.int32)
    return ids[waited_for]


def _until(curve: MemoryCurve, until_s: float) -> MemoryCurve:
    some = slice(int(np.searchsorted(curve.time_s, until_s)))
    return MemoryCurve(
        curve.time_s[some], curve.activation_bytes[some], curve.buffer_bytes[some], curve.gathered_bytes[some]
    )
