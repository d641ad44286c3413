"""MixPipe: Chimera with a free number of micro-batches under way (Zhang et al. 2023, at DAC)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules.slots import in_slots


def lane(r: int, p: int, m: int, v: int, inject: int | None = None) -> NDArray[np.int32]:
    """Each end lets in ``inject`` micro-batches, then one for each that is done; B before F, the oldest first.

    ``inject`` is between Chimera's p/2 and 1F1B's p; default the middle.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("mixpipe", ranks=2, micros=4).lanes[0])
        '0F0 3F2 3B2 0B0 0F1 3F3 3B3 0B1'
    """
    return in_slots(Placement.both_ways(p), m, inject or _middle(p))[r]


def _middle(p: int) -> int:
    return (3 * p + 3) // 4


def valid(p: int, m: int, v: int, inject: int | None = None) -> str:
    """Both directions take half of the micro-batches."""
    if p % 2:
        return f"ranks={p} is odd, and half of the micro-batches come from either end; use {p + 1}"
    if m % 2:
        return f"micros={m} is odd, and half come from either end; use {m + 1}"
    if inject is not None and not p // 2 <= inject <= p:
        return f"inject={inject} is not between {p // 2} and ranks={p}; use {max(p // 2, min(inject, p))}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float, inject: int | None = None) -> float:
    """Idle time per step on the busiest rank, span and sync alike: Chimera's (p-2)(I+W) where F = I+W.

    Proved there for whole multiples of p micro-batches.
    """
    return (p - 2) * (i + w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float, inject: int | None = None) -> tuple[bool, bool]:
    """Where the figure is proved."""
    return (f == i + w and m % p == 0,) * 2


def peak_micros(r: int, p: int, m: int, v: int, inject: int | None = None) -> float:
    """Micro-batches whose activations rank r holds at its peak: one more for each that is let in, up to p."""
    return min(p, min(inject or _middle(p), m // 2) + 1 + min(r, p - 1 - r, m // 2 - 1))
