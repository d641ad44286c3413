"""1F1B-V: 1F1B on a V of two chunks, with two thirds of its memory (Qi et al. 2024, arXiv:2405.15362)."""

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.building_block import Block, repeat
from penstock.schedules.task import Task


def lanes(task: Task) -> list[NDArray[np.int64]]:
    """Each block once per micro-batch, improved at the task's costs within its own peak; the better of both."""
    return repeat(task, *(block(task.placement.ranks, swapped) for swapped in (False, True)))


def block(p: int, swapped: bool = False) -> Block:
    """Whole backwards of two slots, and six slots a period.

    Forwards go on without a wait. With equal steps, backwards would meet them again and again, so the gradients of
    either chunk wait three slots at every third rank.

    Args:
        p: ranks.
        swapped: the two chunks' gradients wait at each other's ranks.

    Example:
        >>> block(4).forward.tolist(), block(4).backward.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [28, 26, 21, 19, 17, 12, 10, 8])
    """
    from_turn = np.arange(p)[::-1]
    thirds = p % 3 == 0
    waits = [3 * ((from_turn + shift) // 3) for shift in ((0, 2) if thirds else (2, 1))]
    down, up = waits[::-1] if swapped else waits
    forward_up = p + from_turn + 2 * thirds
    back_down = -2 * from_turn - down
    back_up = 2 * from_turn + up + 2 + thirds
    phase = p + (3 * (not swapped) if thirds else 1)
    least = forward_up[0] + 1 - back_down[0]
    turn = least + (phase - least) % 6 + 3 * (from_turn == p - 1) * (p % 3 == 2 and not swapped)
    forward, backward = np.r_[0:p, forward_up[::-1]], np.r_[turn + back_up, (turn + back_down)[::-1]]
    return Block(6, forward, backward, seconds=(1, 2))


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: (F+I+W)/2 for each rank but one, and F+I+W for each
    rank beyond the peak."""
    return (1.5 * p - 0.5 - _peak(p)) * (f + i + w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W and 1, 3, 4, 5 and 8 ranks, from one micro-batch more than the peak on."""
    return (f == i == w and p in (1, 3, 4, 5, 8) and m > _peak(p),) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations any rank holds at most: (p + (p+1)/3 + 1)/2, the third rounded down."""
    return min(m, _peak(p))


def _peak(p: int) -> float:
    return (p + (p + 1) // 3 + 1) / 2
