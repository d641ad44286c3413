"""ZB-V, also V-ZB: two chunks a rank in a V, the backward split (Qi et al. 2023, arXiv:2401.10241, section 6)."""

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.phases import expand


def lane(r: int, p: int, m: int, v: int) -> NDArray[np.int32]:
    """One F, one I and one W of each chunk in turn; fewer than 2p-1 micro-batches are those of a longer step, cut.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("zb-v", ranks=1, micros=2, chunks=2).lanes[0])
        '0F0 1F0 1I0 1W0 0F1 0I0 0W0 1F1 1I1 1W1 0I1 0W1'
    """
    n, up = max(m, 2 * p - 1), p - r
    phases = [(2 * up - 1, "F0"), (r, "F1 F0"), (up, "F1 I1 W1")]
    phases += [(n - 2 * p + r + 1, "F0 I0 W0 F1 I1 W1"), (up - 1, "I0 W0 F1 I1 W1")]
    phases += [(r, "I0 I1"), (up, "I0 W0"), (r, "W1"), (r, "W0")]
    codes = expand(phases, (r, 2 * p - 1 - r)).codes
    return codes[codes[:, 2] < m]


def valid(p: int, m: int, v: int) -> str:
    """A V has two chunks."""
    return "" if v == 2 else f"chunks={v}, and a V has two per rank; use chunks=2"


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step until the last rank is done: the head (p-1)F/2, from m = 2p-1 on."""
    return max((p - 1) * f / 2, idle_span(p, m, v, f, i, w))


def idle_span(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time of the busiest rank between its own ends: 0 from m = 2p-1 on, one more for each micro-batch less."""
    return (p - 1) * (f + i) - min(2 * p - 2, m - 1) * w


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W alone; the order fits no other times."""
    return (f == i == w,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak: p on every rank, if W needs all of them."""
    return min(2 * m, 2 * p, m + 1 + r) / 2
