"""Hanayo: micro-batches run in waves over the ranks, two chunks a wave (Liu et al. 2023, arXiv:2308.15762)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules.slots import in_slots


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int32]:
    """Backwards first, then the oldest micro-batch; p of them under way, in slots where F takes as long as B.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("hanayo", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1'
    """
    return in_slots(Placement.vee(p, v), m, p)[r]


def valid(p: int, m: int, v: int) -> str:
    """A wave is two chunks."""
    return f"chunks={v} is odd, and a wave has two; use {v + 1}" if v % 2 else ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank: 2(p-1)(I+W)/v where F = I+W.

    Longer backwards stretch every further p micro-batches by 2(p-1)(I+W-F)/v; fewer micro-batches than ranks wait
    (v-1)(F+I+W)/v - (I+W-F)/v each. Proved for m <= p and multiples of p where F <= I+W, sync and span alike.
    """
    back, short = i + w, max(0, p - m)
    waves = max(1, m // p)
    return (2 * (p - 1) * (back + (waves - 1) * (back - f)) + short * ((v - 1) * (f + back) - (back - f))) / v


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Where the figure is proved."""
    return (f <= i + w and (m <= p or m % p == 0),) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: from p-(p-1)/v on the first rank to p on the last."""
    return min(v * m, (v - 1) * min(p, m) + 1 + r) / v
