"""DualPipeV: DualPipe's order over two chunks a rank in a V, one copy of the weights (DeepSeek-AI 2025, after
arXiv:2412.19437; in the order of PyTorch's ``ScheduleDualPipeV``)."""

from penstock.schedules.phases import Phase


def lane(r: int, p: int, m: int, v: int) -> list[Phase]:
    """Warm-up, blocks of a forward of one chunk and a backward of the other, and a tail whose W waits.

    Chunk 0 is the one whose end is nearer. On the last rank nothing hides behind the first backward.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("dualpipev", ranks=1, micros=2, chunks=2).lanes[0])
        '0F0 1F0 0F1 1B0 (1F1;0B0)OVERLAP_F_B 1B1 0I1 0W1'
    """
    up, half = p - 1 - r, (r + 1) // 2
    steady = m - 2 * p + r + 1
    apart = int(r == p - 1)
    phases = [(2 * up, "F0"), (r + 1, "F0 F1"), (up, "I1 w F1"), (apart, "F0 B1 F1+B0")]
    phases += [(steady - apart, "F0+B1 F1+B0"), (up, "B1 F1+B0"), (half, "B1 B0"), ((r + 1) % 2, "B1 I0")]
    return [*phases, (half, "I1 I0"), (up, "w I0"), (r + 1, "w")]


def valid(p: int, m: int, v: int) -> str:
    """A V has two chunks, and every stage is under way at once."""
    if v != 2:
        return f"chunks={v}, and a V has two per rank; use chunks=2"
    return "" if m >= 2 * p else f"micros={m} is fewer than the {2 * p} stages; use {2 * p}"


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step, span and sync alike: (p-1)(2F+I-W)/2 for F >= I >= W where a block takes F+I+W.

    Where F = I >= W, whatever a block takes, it is the paper's (p-1)(F&B+B-3W) on the idlest rank, in times of a chunk.
    """
    return ((p - 1) * (f + 2 * i - min(i, w)) - min(f, (p - 1) * (i - f))) / 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r holds at its peak, the same on all."""
    return p + 0.5
