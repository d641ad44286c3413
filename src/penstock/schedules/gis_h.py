"""GIS-H: GIS with groups of half the ranks, half of interleaved 1F1B's memory (Wan et al. 2025, arXiv:2503.01328)."""

import numpy as np
from numpy.typing import NDArray

from penstock.schedules import gis


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int64]:
    """As GIS with groups of p/2 micro-batches, rounded up.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("gis-h", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 3F0 3I0 3W0 1F1 1I0 1W0 3F1 3I1 3W1 1I1 1W1'
    """
    return gis.lane(r, p, m, v, group=(p + 1) // 2)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: ((p-1)(F+I) + (v-1)(p/2)(F+max(I,W)-W))/v."""
    return gis.idle(p, m, v, f, i, w, group=(p + 1) // 2)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Where the figure is proved: m >= p; at all times for even p and whole groups, else where I <= W."""
    return gis.holds(p, m, v, f, i, w, group=(p + 1) // 2)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all: (v+1)p/(2v) on the first rank."""
    return gis.peak_micros(r, p, m, v, group=(p + 1) // 2)
