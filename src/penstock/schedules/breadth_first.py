"""Breadth-first, also looped BFS: a chunk runs all micro-batches before the next (Lamy-Poirier 2022, arXiv:2211.05953).

``modular`` is this order with a sum of gradients behind each chunk.
"""


def lane(r: int, p: int, m: int, v: int) -> list[str]:
    """All forwards chunk by chunk, then all backwards from the last chunk and the last micro-batch.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("breadth-first", ranks=2, micros=2, chunks=2).lanes[1])
        '1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0'
    """
    return [f"{c * p + r}F{i}" for c in range(v) for i in range(m)] + [
        f"{c * p + r}B{i}" for c in reversed(range(v)) for i in reversed(range(m))
    ]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W)/v.

    Fewer micro-batches than ranks wait at each chunk for the one before: (v-1)(p-m)(F+I+W)/v more.
    """
    return (p - 1 + (v - 1) * max(0, p - m)) * (f + i + w) / v


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: all of them."""
    return m
