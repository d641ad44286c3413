"""Uniform interleaving: each micro-batch's passes at even distances, as under PipeOffload (Wan et al. 2025,
arXiv:2503.01328).

The activations of each chunk then take the same memory at any time, those of chunk c as much as its v-c backwards and
forwards behind it last. ``lower.offload`` of the first half of the chunks leaves (v+2)/(8v) of 1F1B's memory (the
paper's PO-H) and what is on its way, at most v/2 chunks.
"""

import math

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int64]:
    """One forward, one backward of each chunk in turn, in the order of a clock on which a forward takes 1, a backward 2
    and a micro-batch follows the one before by 3v.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("uniform", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 3F0 3B0 1F1 3F1 3B1 1B0 1B1'
    """
    starts = np.concatenate([_forwards(r, p, v), _backwards(r, p, v)])
    kind, chunk = np.repeat([Kind.F, Kind.B], v), np.tile(np.arange(v), 2)
    ops = np.stack([kind, chunk * p + r], axis=1)
    order = np.argsort((starts[:, None] + 3 * v * np.arange(m)).ravel(), kind="stable")
    rows = np.concatenate([np.repeat(ops, m, axis=0), np.tile(np.arange(m), 2 * v)[:, None]], axis=1)
    return rows[order].astype(np.int64)


def _forwards(r: int, p: int, v: int) -> NDArray[np.int64]:
    """Start of the forward of each chunk of micro-batch 0."""
    return np.arange(v) * _distance(p, v) + r


def _backwards(r: int, p: int, v: int) -> NDArray[np.int64]:
    """Start of the backward of each chunk of micro-batch 0."""
    turn = (v - 1) * _distance(p, v) + p
    return turn + np.arange(v)[::-1] * _distance(2 * p, v) + 2 * (p - 1 - r)


def _distance(least: int, v: int) -> int:
    """From one chunk to the next on a rank: the first multiple of 3 with which chunks never meet."""
    thirds = -(-least // 3)
    return 3 * next(k for k in range(thirds, thirds + v) if math.gcd(k, v) == 1)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: 1F1B's, (p-1)(F+I+W)."""
    return (p - 1) * (f + i + w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for backwards twice as long as forwards, and no more chunks than ranks."""
    proved = 2 * f == i + w and v <= p
    return proved, proved


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: of each chunk those whose forward has begun and whose
    backward has not ended. About (v+1)p/(2v) on the first rank."""
    begin, end, period = _forwards(r, p, v), _backwards(r, p, v) + 2, 3 * v
    at = (begin[:, None] + period * np.arange(m)).reshape(-1, 1)
    begun, done = (np.clip((at - times) // period + 1, 0, m) for times in (begin, end))
    return float((begun - done).sum(axis=1).max()) / v
