"""The table of names. Adding a schedule is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from penstock.core.op import Op
from penstock.core.placement import Placement
from penstock.schedules import gpipe, interleaved, one_f_one_b, zb_h1
from penstock.schedules.phases import Phase

Ops = NDArray[Any] | Iterable[Phase] | Iterable[Op] | Iterable[str]
LaneFunction = Callable[[int, int, int, int], Ops]


def _always(p: int, m: int, v: int) -> str:
    return ""


@dataclass(frozen=True)
class Schedule:
    """A published schedule and what its paper claims, in terms of p, m, v and times of a rank's chunks together."""

    lane: LaneFunction
    """What rank r does: ``lane(r, p, m, v)``."""
    idle: Callable[[int, int, int, float, float, float], float]
    """Idle time of the busiest rank per step: ``idle(p, m, v, f, i, w)``."""
    peak_micros: Callable[[int, int, int, int], float]
    """Peak activations of rank r in micro-batches: ``peak_micros(r, p, m, v)``."""
    placement: Callable[[int, int], Placement] = Placement.loop
    """Where stages live: ``placement(p, v)``."""
    valid: Callable[[int, int, int], str] = _always
    """Why these sizes cannot be built, with the nearest that can; empty if they can."""
    chunks: bool = False
    """Whether it can have more than one chunk per rank."""


SCHEDULES: dict[str, Schedule] = {
    "gpipe": Schedule(gpipe.lane, gpipe.idle, gpipe.peak_micros),
    "1f1b": Schedule(one_f_one_b.lane, one_f_one_b.idle, one_f_one_b.peak_micros),
    "interleaved": Schedule(
        interleaved.lane, interleaved.idle, interleaved.peak_micros, valid=interleaved.valid, chunks=True
    ),
    "zb-h1": Schedule(zb_h1.lane, zb_h1.idle, zb_h1.peak_micros),
}
