"""Seq1F1B with the backward split and W delayed as in ZB-H1 (Sun et al. 2024, arXiv:2406.03488, section on zero bubble;
Qi et al. 2023, arXiv:2401.10241)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.seq1f1b import last_slice_first


def lane(r: int, p: int, m: int, v: int, slices: int = 4) -> NDArray[np.int64]:
    """As Seq1F1B, but rank r lets r weight gradients wait until the end, when it would idle.

    Args:
        slices: of each sequence.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("seq1f1b-zb", ranks=2, micros=1, slices=2).lanes[1])
        '1F0 1F1 1I1 1I0 1W1 1W0'
    """
    count = m * slices
    warm = min(p - 1 - r + slices - 1, count)
    ops = [(Kind.F, r, i) for i in range(warm)]
    order = last_slice_first(m, slices)
    for done, i in enumerate(order):
        if warm + done < count:
            ops.append((Kind.F, r, warm + done))
        ops.append((Kind.I, r, i))
        if done >= r:
            ops.append((Kind.W, r, order[done - r]))
    ops += [(Kind.W, r, i) for i in order[max(0, count - r) :]]
    return np.array(ops, dtype=np.int64)


def idle(p: int, m: int, v: int, f: float, i: float, w: float, slices: int = 4) -> float:
    """Idle time per step on the busiest rank, of slices that take equal times: ZB-H1's divided by their number,
    (p-1)(F+I-W)/slices."""
    return (p - 1) * (f + i - w) / slices


def holds(p: int, m: int, v: int, f: float, i: float, w: float, slices: int = 4) -> tuple[bool, bool]:
    """Proved where W is least and no rank runs out of forwards in its warm-up."""
    proved = m * slices >= p + slices - 1 and w <= min(f, i)
    return proved, proved


def peak_micros(r: int, p: int, m: int, v: int, slices: int = 4) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all of them: (p+slices-1)/slices, or all."""
    return min(p + slices - 1, m * slices) / slices
