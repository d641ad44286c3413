"""GIS, interleaving in groups: short warm-up, split backward, p/2 to p a group (Wan et al. 2025, arXiv:2503.01328)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.interleaved import even, most, one_forward_one_backward


def lane(r: int, p: int, m: int, v: int, group: int | None = None) -> NDArray[np.int64]:
    """As interleaved 1F1B, but with 1F1B's warm-up of one forward per rank to the end, and each W right after its I.

    Args:
        group: micro-batches that run through a chunk before the next chunk, from p/2 (rounded up) to p; smaller ones
            keep fewer activations and wait longer. Default p. Where it does not divide m, groups are larger and even.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("gis", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3I0 3W0 3F1 3I1 3W1 1I0 1W0 1I1 1W1'
    """
    return one_forward_one_backward(r, p, v, sizes(p, m, group), p - 1 - r, (Kind.I, Kind.W))


def sizes(p: int, m: int, group: int | None) -> list[int]:
    """Micro-batches of each group, the largest first."""
    return even(m, groups(p, m, group))


def groups(p: int, m: int, group: int | None) -> int:
    """How many groups there are."""
    return max(1, m // (group or p))


def valid(p: int, m: int, v: int, group: int | None = None) -> str:
    """Smaller groups would not come back in time."""
    least = (p + 1) // 2
    if group is not None and not least <= group <= p:
        return f"group={group} is not between {least} and ranks={p}; use {min(max(least, group), p)}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float, group: int | None = None) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I)/v.

    Groups of g < p add (v-1)(p-g)(F+max(I,W)-W)/v, the paper's figure for g = p/2.
    """
    short = max(0, p - most(m, groups(p, m, group)))
    return ((p - 1) * (f + i) + (v - 1) * short * (f + max(i, w) - w)) / v


def holds(p: int, m: int, v: int, f: float, i: float, w: float, group: int | None = None) -> tuple[bool, bool]:
    """Where the figure is proved: m >= p; for whole groups of p or p/2 at all times, for others where I <= W."""
    largest = most(m, groups(p, m, group))
    whole = m % largest == 0 and (largest >= p or 2 * largest == p)
    return (v == 1 or (m >= p and (whole or i <= w)),) * 2


def peak_micros(r: int, p: int, m: int, v: int, group: int | None = None) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all of them: p on the first rank.

    With groups of g: ((v-1)g+p-r)/v, for g = p/2 the paper's (v+1)/(2v) of p.
    """
    return min(m * v, (v - 1) * most(m, groups(p, m, group)) + p - r) / v
