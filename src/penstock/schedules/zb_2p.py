"""ZB-2p: as ZB-1p in twice 1F1B's memory, where hardly a wait is left (Qi et al. 2023, arXiv:2401.10241)."""

from typing import Any

from numpy.typing import NDArray

from penstock.schedules import zb_h2
from penstock.schedules.task import Task
from penstock.schedules.zb_1p import on_a_line


def lanes(task: Task) -> list[NDArray[Any]]:
    """All lanes, by the costs, the objective and the limit of the task; by default 2p micro-batches on every rank.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("zb-2p", ranks=2, micros=3, objective="span").lanes[0])
        '0F0 0F1 0F2 0I0 0W0 0I1 0W1 0I2 0W2'
    """
    return on_a_line(task, 2.0 * task.placement.ranks)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step until the last rank is done: that of ZB-H2."""
    return zb_h2.idle(p, m, v, f, i, w)


def idle_span(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time of the busiest rank between its own ends: that of ZB-H2, 0 from m = 2p-1 on."""
    return zb_h2.idle_span(p, m, v, f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W, where it meets the warm-up bound; other times are what the search is for."""
    return (f == i == w,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r may hold, at most."""
    return min(2 * p, m)
