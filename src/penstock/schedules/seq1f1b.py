"""Seq1F1B: 1F1B over the slices of each sequence (Sun et al. 2024, arXiv:2406.03488).

The paper cuts slices at unequal lengths, so that each takes as many operations, attention to earlier slices counted:
the option ``attention``. Without it they are of equal length, and ``Costs.slice_factor`` says how much longer later
ones take.
"""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind


def lane(r: int, p: int, m: int, v: int, slices: int = 4) -> NDArray[np.int64]:
    """Forwards slice by slice, and a sequence's backwards from its last slice to its first; 1F1B between them, slices-1
    forwards later than plain 1F1B, as the first backward needs a whole sequence.

    Args:
        slices: of each sequence.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("seq1f1b", ranks=2, micros=2, slices=2).lanes[1])
        '1F0 1F1 1B1 1F2 1B0 1F3 1B3 1B2'
    """
    warm = min(p - 1 - r + slices - 1, m * slices)
    forward = [(Kind.F, r, i) for i in range(m * slices)]
    backward = [(Kind.B, r, i) for i in last_slice_first(m, slices)]
    steady = [op for pair in zip(forward[warm:], backward, strict=False) for op in pair]
    return np.array(forward[:warm] + steady + backward[len(forward) - warm :], dtype=np.int64)


def last_slice_first(m: int, slices: int) -> list[int]:
    """Numbers of all slices in the order of their backwards.

    Example:
        >>> last_slice_first(2, 3)
        [2, 1, 0, 5, 4, 3]
    """
    return [i * slices + j for i in range(m) for j in reversed(range(slices))]


def valid(p: int, m: int, v: int, slices: int = 4) -> str:
    """Why there cannot be so many slices."""
    return "" if slices >= 1 else f"slices={slices} of a sequence; use 1"


def idle(p: int, m: int, v: int, f: float, i: float, w: float, slices: int = 4) -> float:
    """Idle time per step on the busiest rank, span and sync alike, of slices that take equal times: 1F1B's, divided by
    their number, (p-1)(F+I+W)/slices."""
    return (p - 1) * (f + i + w) / slices


def peak_micros(r: int, p: int, m: int, v: int, slices: int = 4) -> float:
    """Micro-batches whose activations rank r holds at its peak: (p-r+slices-1)/slices, or all."""
    return min(p - r + slices - 1, m * slices) / slices
