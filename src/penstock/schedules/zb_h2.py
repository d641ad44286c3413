"""ZB-H2: enough forwards to fill the bubble before the first gradient, W delayed (Qi et al. 2023, arXiv:2401.10241)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """Twice the warm-up of 1F1B, and rank r lets 2r weight gradients wait until the end.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("zb-h2", ranks=2, micros=3).lanes[0])
        '0F0 0F1 0F2 0I0 0W0 0I1 0W1 0I2 0W2'
    """
    warm = min(2 * (p - 1 - r), m)
    lag = min(2 * r, m - warm)
    return [(warm, "F"), (lag, "F I"), (m - warm - lag, "F I w"), (warm, "I w"), (lag, "w")]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step until the last rank is done: as of one rank, but at least the head (p-1)F."""
    return max((p - 1) * f, idle_span(p, m, v, f, i, w))


def idle_span(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time of the busiest rank between its own ends: the paper's (p-1)(F+I-2W) where W is least, 0 if all equal.

    In general (p-1)(F+I) - 2(p-1)min(F,I,W), more where m < 2p-1 leaves too few W.
    """
    return (p - 1) * (f + i) - min(2 * p - 2, m - 1) * min(f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved from m = 2p-1 on, for fewer where W is least; of the span there only (else the last ranks end later)."""
    least = w <= min(f, i)
    return m >= 2 * p - 1 or least, least


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, if W needs all of them."""
    return min(2 * p - 1, m)
