"""PipeDream-2BW: 1F1B that updates after each group of micro-batches and keeps two versions of the weights
(Narayanan et al. 2020, arXiv:2006.09503)."""

from penstock.core.op import Kind, Op
from penstock.schedules import one_f_one_b


def lane(r: int, p: int, m: int, v: int, group: int = 0) -> list[Op]:
    """As 1F1B, with an update after each ``group`` of backwards (0 means p); a group runs with the weights before the
    group before it was applied, on all stages, so its gradient is one update late.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("pipedream-2bw", ranks=2, micros=4).lanes[1])
        '1F0 1B0 1F1 1B1 1UPDATE1 1F2 1B2 1F3 1B3 1UPDATE3'
    """
    warm = min(p - 1 - r, m)
    ops = [Op(Kind.F, r, i) for i in range(warm)]
    for i in range(m):
        ops += [Op(Kind.F, r, i + warm)] if i + warm < m else []
        ops += [Op(Kind.B, r, i)]
        ops += [Op(Kind.UPDATE, r, i)] if (i + 1) % (group or p) == 0 or i == m - 1 else []
    return ops


def idle(p: int, m: int, v: int, f: float, i: float, w: float, group: int = 0) -> float:
    """Idle time of the window, which fills and drains the pipeline once: (p-1)(F+I+W)."""
    return one_f_one_b.idle(p, m, v, f, i, w)


def peak_micros(r: int, p: int, m: int, v: int, group: int = 0) -> float:
    """Micro-batches whose activations rank r holds at its peak: as 1F1B."""
    return one_f_one_b.peak_micros(r, p, m, v)


def valid(p: int, m: int, v: int, group: int = 0) -> str:
    """Two versions are enough if the first rank has updated with a group before the second after it comes in."""
    if group and group < p - 1 and m > 2 * group:
        return f"group={group} needs more than two versions on ranks={p}; use {p - 1} or more"
    return ""
