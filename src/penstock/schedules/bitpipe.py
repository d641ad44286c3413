"""BitPipe: two V-shaped interleaved pipelines in opposite directions (Wu et al. 2024, arXiv:2410.19367)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules import chimera
from penstock.schedules.slots import in_slots


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int32]:
    """As Chimera over chunks laid to and fro: backwards first, then the oldest micro-batch of its direction.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("bitpipe", ranks=2, micros=2, chunks=2).lanes[0])
        '0F0 5F1 6F1 3F0 3B0 6B1 5B1 0B0'
    """
    return in_slots(Placement.both_ways(p, v), m, p // 2)[r]


def valid(p: int, m: int, v: int) -> str:
    """The V has two chunks, more make a zigzag; each direction takes half of the micro-batches."""
    if v % 2:
        return f"chunks={v} is odd, and each V has two; use {v + 1}"
    return chimera.valid(p, m, v)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-2)(I+W)/v where F = I+W, Chimera's over v.

    Longer backwards stretch every further unit of p micro-batches by (p-2)(I+W-F)/v. Proved where F <= I+W.
    """
    return chimera.idle(p, m, v, f, i, w) / v


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Where the figure is proved."""
    return chimera.holds(p, m, v, f, i, w)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: p in the middle, (p/2-1)/v less on the outer ranks."""
    return (p * v - p // 2 + 1 + min(r, p - 1 - r)) / v
