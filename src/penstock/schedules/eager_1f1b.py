"""Eager 1F1B: twice the warm-up, which leaves messages time to pass (Zhuang et al. 2022, arXiv:2211.05322)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """As 1F1B with two warm-up forwards for every rank between this one and the last.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("eager-1f1b", ranks=2, micros=4).lanes[0])
        '0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3'
    """
    warm = min(2 * (p - 1 - r), m)
    return [(warm, "F"), (m - warm, "F B"), (warm, "B")]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (p-1)(F+I+W), while messages take no time."""
    return (p - 1) * (f + i + w)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: 2p-1 on the first rank, one on the last."""
    return min(2 * (p - 1 - r) + 1, m)
