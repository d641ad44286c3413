"""Seq1F1B-I: interleaved 1F1B over the slices of each sequence (Sun et al. 2024, arXiv:2406.03488)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.interleaved import even
from penstock.schedules.seq1f1b import last_slice_first


def lane(r: int, p: int, m: int, v: int, slices: int = 4) -> NDArray[np.int64]:
    """Groups of whole sequences of at least p slices run through every chunk in turn, backwards likewise from the last
    chunk, a sequence's last slice first; 1F1B between them, slices-1 forwards later than plain interleaved 1F1B.

    Args:
        slices: of each sequence.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("seq1f1b-i", ranks=2, micros=1, chunks=2, slices=2).lanes[1])
        '1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0'
    """
    forward, back, begin = [], [], 0
    for size in groups(p, m, slices):
        first, up = begin * slices, np.arange(v) * p + r
        forward.append(_passes(Kind.F, up, first + np.arange(size * slices)))
        back.append(_passes(Kind.B, up[::-1], first + np.array(last_slice_first(size, slices))))
        begin += size
    f, b = np.concatenate(forward), np.concatenate(back)
    warm = min(len(f), ahead(r, p, m, v, slices))
    steady = np.stack([f[warm:], b[: len(f) - warm]], axis=1).reshape(-1, 3)
    return np.concatenate([f[:warm], steady, b[len(f) - warm :]])


def _passes(kind: Kind, stages: NDArray[np.int64], micros: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every micro-batch on one stage after the other."""
    return np.array(np.broadcast_arrays(kind, stages[:, None], micros)).reshape(3, -1).T


def groups(p: int, m: int, slices: int) -> list[int]:
    """Sequences of each group, the largest first: as many even groups of at least p slices as there can be."""
    return even(m, max(1, m // -(-p // slices)))


def ahead(r: int, p: int, m: int, v: int, slices: int) -> int:
    """Forwards before the first backward, one of which it needs."""
    return (v - 1) * groups(p, m, slices)[0] * slices + 2 * (p - 1 - r) + slices - 1


def idle(p: int, m: int, v: int, f: float, i: float, w: float, slices: int = 4) -> float:
    """Idle time per step on the busiest rank, span and sync alike, of slices that take equal times:
    (p-1)(F+I+W)/(v slices), interleaved 1F1B's divided by the number of slices.

    Fewer slices than ranks wait at each chunk for the one before: (v-1)(p-m slices)(F+I+W)/(v slices) more.
    """
    return (p - 1 + (v - 1) * max(0, p - m * slices)) * (f + i + w) / (v * slices)


def peak_micros(r: int, p: int, m: int, v: int, slices: int = 4) -> float:
    """Micro-batches whose activations rank r holds at its peak, in units of all its chunks: with groups of g sequences
    ((v-1)g slices + 2(p-1-r) + slices)/(v slices), or all."""
    return min(m * v * slices, ahead(r, p, m, v, slices) + 1) / (v * slices)
