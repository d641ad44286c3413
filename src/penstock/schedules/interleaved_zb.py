"""Interleaved zero bubble: interleaved 1F1B with a short warm-up and W delayed (PyTorch; after arXiv:2401.10241)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.interleaved import even, most, one_forward_one_backward


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int64]:
    """Groups of p as interleaved 1F1B, one forward of warm-up per rank to the end; rank r lets r W wait.

    With one chunk it is ZB-H1. Groups are even, and larger than p where m is no multiple of it.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("interleaved-zb", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3I0 3F1 3I1 3W0 1I0 3W1 1I1 1W0 1W1'
    """
    ops = one_forward_one_backward(r, p, v, even(m, max(1, m // p)), p - 1 - r, (Kind.I,))
    gradients = ops[:, 0] == Kind.I
    late = ops[gradients]
    late[:, 0] = Kind.W
    after = np.minimum(np.flatnonzero(gradients)[np.minimum(np.arange(m * v) + r, m * v - 1)] + 1, len(ops))
    return np.insert(ops, after, late, axis=0)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I-min(F,I,W))/v, (p-1)F/v if all equal."""
    return (p - 1) * (f + i - min(f, i, w)) / v


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for m >= p: of the span where W is least (else the last ranks begin and end later)."""
    return m >= p, m >= p and w <= min(f, i)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all of them: p where p divides m."""
    return min(m * v, (v - 1) * most(m, max(1, m // p)) + p) / v
