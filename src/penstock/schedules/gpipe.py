"""GPipe: all forwards, then all backwards (Huang et al. 2019, arXiv:1811.06965)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """Every rank the same.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("gpipe", ranks=2, micros=2).lanes[0])
        '0F0 0F1 0B0 0B1'
    """
    return [(m, "F"), (m, "B")]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W)."""
    return (p - 1) * (f + i + w)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: all of them."""
    return m
