"""V-Half: a V of two chunks with half of 1F1B's memory (Qi et al. 2024, arXiv:2405.15362)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules.building_block import Block, repeat
from penstock.schedules.task import Task


def lanes(task: Task) -> list[NDArray[np.int64]]:
    """The block once per micro-batch, improved at the task's costs within the block's own peak."""
    return repeat(task, block(task.placement.ranks))


def block(p: int) -> Block:
    """Down the V two slots a rank, up one, with gradients as with outputs; six slots a period.

    Example:
        >>> block(4).forward.tolist(), block(4).backward.tolist()
        ([0, 2, 4, 6, 7, 8, 9, 10], [25, 24, 23, 22, 20, 18, 16, 14])
    """
    r = np.arange(p)
    wait = 0 if p % 2 else 3
    down, up = 2 * r, 3 * p - 2 - r
    back_down, back_up = 3 * p + wait - 1 + 2 * r, 6 * p + wait - 2 - r
    return Block(6, np.r_[down, up[::-1]], np.r_[back_up, back_down[::-1]]).with_weights(Placement.vee(p))


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: F+I+W for each rank beyond the peak, less F/2."""
    return (p - ((p + 2) // 2)) * (f + i + w) - f / 2


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W alone, from 3 ranks and one micro-batch more than the peak on."""
    return (f == i == w and p > 2 and m > (p + 2) // 2,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations any rank holds at most, if W needs all: (p + 2) // 2."""
    return min(m, (p + 2) // 2)
