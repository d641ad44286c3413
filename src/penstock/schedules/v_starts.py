"""Published orders on a V of two chunks that keep a limit of memory, for searches to begin with."""

from dataclasses import replace
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from penstock.schedules import v_half, v_min, zb_v
from penstock.schedules.work import Work

STEP, PERIODS = 0.5, 3
"""Slots by which periods are lengthened, and how many of those that keep the limit are tried."""


def v_starts(work: Work, p: int, m: int) -> list[NDArray[np.int64]]:
    """Orders that keep the limit of ``work``: V-Min's and V-Half's at the shortest periods that do, and ZB-V's."""
    zero_bubble = work.of_rows(zb_v.lane(r, p, m, 2) for r in range(p))
    found = [zero_bubble] if work.fits(zero_bubble) else []
    for block in (v_min.block(p), v_half.block(p)):
        slowed = (replace(block, period=block.period + STEP * n).order(work) for n in count())
        found += islice(filter(work.fits, slowed), PERIODS)
    return found
