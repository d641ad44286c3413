"""Chimera: two pipelines in opposite directions over the same weights (Li and Hoefler 2021, arXiv:2107.06925)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules.slots import in_slots


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int32]:
    """Units of p micro-batches, half from each end, one after the other ("direct concatenation"); B fills F's gaps.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("chimera", ranks=2, micros=2).lanes[0])
        '0F0 3F1 3B1 0B0'
    """
    return in_slots(Placement.both_ways(p), m, p // 2)[r]


def valid(p: int, m: int, v: int) -> str:
    """Both directions take half of the ranks' micro-batches."""
    if p % 2:
        return f"ranks={p} is odd, and half of each unit comes from either end; use {p + 1}"
    if m % p:
        return f"micros={m} is not a multiple of ranks={p}; use {max(p, round(m / p) * p)}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-2)(I+W) where F = I+W.

    Longer backwards stretch every further unit of p micro-batches by (p-2)(I+W-F). Proved where F <= I+W.
    """
    return (p - 2) * (i + w + (m // p - 1) * (i + w - f))


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Where the figure is proved."""
    return (f <= i + w,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: from p/2+1 on the outer ranks to p in the middle."""
    return p // 2 + 1 + min(r, p - 1 - r)
