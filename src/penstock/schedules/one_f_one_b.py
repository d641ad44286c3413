"""1F1B, also DAPPLE, PipeDream-Flush (Fan et al. 2020, arXiv:2007.01045; Narayanan et al. 2020, arXiv:2006.09503)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """Just enough forwards to fill the pipe, then one forward one backward, then the rest of the backwards.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("1f1b", ranks=2, micros=3).lanes[0])
        '0F0 0F1 0B0 0F2 0B1 0B2'
    """
    warm = min(p - 1 - r, m)
    return [(warm, "F"), (m - warm, "F B"), (warm, "B")]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W)."""
    return (p - 1) * (f + i + w)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: as many as ranks lie from it to the end."""
    return min(p - r, m)
