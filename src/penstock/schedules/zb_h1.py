"""ZB-H1: 1F1B with the backward split and W delayed to fill the drain (Qi et al. 2023, arXiv:2401.10241)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """As 1F1B, but rank r lets r weight gradients wait until the end, when it would idle.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("zb-h1", ranks=2, micros=2).lanes[1])
        '1F0 1I0 1F1 1I1 1W0 1W1'
    """
    warm = min(p - 1 - r, m)
    lag = min(r, m - warm)
    return [
        (warm, "F"),
        (lag, "F I"),
        (m - warm - lag, "F I w"),
        (warm, "I w"),
        (lag, "w"),
    ]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank: (p-1)(F+I-min(F,I,W)), the paper's (p-1)(F+I-W) where W is least.

    More where m < p leaves too few W.
    """
    return (p - 1) * (f + i) - min(p - 1, m - 1) * min(f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for m >= p, for fewer where I >= min(F,W); of the span where W is least (else last ranks end later)."""
    return m >= p or i >= min(f, w), w <= min(f, i)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all of them: as 1F1B's first rank."""
    return min(p, m)
