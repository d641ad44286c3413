"""V-Min: a V of two chunks with a third of 1F1B's memory (Qi et al. 2024, arXiv:2405.15362)."""

import numpy as np
from numpy.typing import NDArray

from penstock.core.placement import Placement
from penstock.schedules.building_block import Block, repeat
from penstock.schedules.task import Task


def lanes(task: Task) -> list[NDArray[np.int64]]:
    """The block once per micro-batch, improved at the task's costs within the block's own peak."""
    return repeat(task, block(task.placement.ranks))


def block(p: int) -> Block:
    """Every micro-batch goes on without a wait, but at the end of the V if p is a multiple of 3; six slots a period.

    Example:
        >>> block(4).forward.tolist(), block(4).backward.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [15, 14, 13, 12, 11, 10, 9, 8])
    """
    r = np.arange(p)
    wait = 0 if p % 3 else 2
    forward = np.arange(2 * p)
    backward = np.r_[4 * p + wait - 1 - r, (2 * p + wait + r)[::-1]]
    return Block(6, forward, backward).with_weights(Placement.vee(p))


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, span and sync alike: F+I+W for each rank beyond the peak, less F/2."""
    return (p - ((p + 4) // 3)) * (f + i + w) - f / 2


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W alone, from 3 ranks and one micro-batch more than the peak on."""
    return (f == i == w and p > 2 and m > (p + 4) // 3,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations any rank holds at most, if W needs all: (p + 4) // 3."""
    return min(m, (p + 4) // 3)
