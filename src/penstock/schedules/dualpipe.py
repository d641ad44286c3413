"""DualPipe: two pipelines in opposite directions, a forward of one and a backward of the other as one block
(DeepSeek-AI 2024, arXiv:2412.19437)."""

from penstock.schedules import dualpipev
from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """DualPipeV's order of half the ranks and micro-batches, twice: once from each end.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("dualpipe", ranks=2, micros=4).lanes[0])
        '0F0 3F2 0F1 3B2 (3F3;0B0)OVERLAP_F_B 3B3 0I1 0W1'
    """
    return dualpipev.lane(min(r, p - 1 - r), p // 2, m // 2, 2)


def valid(p: int, m: int, v: int) -> str:
    """Both directions take half of the micro-batches, and each fills its p stages."""
    if p % 2:
        return f"ranks={p} is odd, and half of the micro-batches come from either end; use {p + 1}"
    if m % 2 or m < 2 * p:
        return f"micros={m} is not an even number of at least {2 * p}, twice the ranks; use {max(2 * p, m + m % 2)}"
    return ""


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step, span and sync alike: (p/2-1)(2F+I-W) for F >= I >= W where a block takes F+I+W.

    Where F = I >= W, whatever a block takes, it is the paper's (p/2-1)(F&B+B-3W) on the idlest rank.
    """
    return 2 * dualpipev.idle(p // 2, m // 2, 2, f, i, w)


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, the same on all."""
    return p + 1
