"""Interleaved 1F1B, also VPP: v chunks a rank, groups of p micro-batches (Narayanan et al. 2021, arXiv:2104.04473)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int64]:
    """Forwards run a group through every chunk in turn, backwards likewise from the last chunk; 1F1B between them.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("interleaved", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1'
    """
    chunk, i = np.divmod(np.arange(m * v), m)
    forward = _ops(Kind.F, chunk * p + r, i, p, chunk)
    backward = _ops(Kind.B, chunk * p + r, i, p, v - 1 - chunk)
    warm = min(m * v, (v - 1) * p + 2 * (p - 1 - r))
    steady = m * v - warm
    pairs = np.stack([forward[warm:], backward[:steady]], axis=1).reshape(-1, 3)
    return np.concatenate([forward[:warm], pairs, backward[steady:]])


def _ops(
    kind: Kind, stage: NDArray[np.int64], i: NDArray[np.int64], p: int, turn: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows of kind, stage, micro-batch: a group of p micro-batches through every chunk, then the next group."""
    order = np.lexsort((i % p, turn, i // p))
    return np.stack([np.full_like(stage, kind), stage, i], axis=1)[order]


def valid(p: int, m: int, v: int) -> str:
    """Groups must be full, else warm-up and backward order do not meet."""
    if m % p:
        near = max(p, round(m / p) * p)
        return f"micros={m} is not a multiple of ranks={p}; use {near}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W)/v."""
    return (p - 1) * (f + i + w) / v


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: warm-up plus one, in units of all its chunks."""
    return min(m * v, (v - 1) * p + 2 * (p - 1 - r) + 1) / v
