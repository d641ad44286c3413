"""1F1B-V: 1F1B on a V of two chunks, with two thirds of its memory (Qi et al. 2024, arXiv:2405.15362)."""

import numpy as np
from numpy.typing import NDArray

from penstock.schedules import building_block
from penstock.schedules.building_block import Block
from penstock.schedules.task import Task


def lanes(task: Task) -> list[NDArray[np.int64]]:
    """The block once per micro-batch, improved at the task's costs within the block's own peak."""
    return building_block.lanes(task, block(task.placement.ranks))


def block(p: int) -> Block:
    """Whole backwards of two slots, and six slots a period.

    Forwards go on without a wait. With equal steps, backwards would meet them again and again, so both chunks'
    gradients wait three slots at every third rank. Where the last rank turns is chosen so that nothing meets.

    Example:
        >>> block(4).forward.tolist(), block(4).backward.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [28, 26, 21, 19, 17, 12, 10, 8])
    """
    from_turn = np.arange(p)[::-1]
    thirds = p % 3 == 0
    up = p + from_turn + (2 if thirds else 0)
    back_down = -2 * from_turn - 3 * ((from_turn + (0 if thirds else 2)) // 3)
    back_up = 2 * from_turn + 3 * ((from_turn + (2 if thirds else 1)) // 3) + (3 if thirds else 2)
    phase = p + (3 if thirds else 1)
    least = up[0] + 1 - back_down[0]
    turn = least + (phase - least) % 6
    forward, backward = np.r_[0:p, up[::-1]], np.r_[turn + back_up, turn + back_down[::-1]]
    return Block(6, forward, backward, seconds=(1, 2))
