"""Stages cut into parts that follow each other on their rank: the same order of work, in smaller ops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.plan import Plan


def in_parts(plan: Plan, parts: int) -> Plan:
    """Each forward as those of its stage's parts one after the other, each gradient as theirs the other way round.

    The plan takes as long as before, and its ranks hold no more: a part that comes later takes its bytes later.

    Args:
        plan: forwards and backwards, whole or split, in no blocks; without sends.
        parts: of each stage.

    Example:
        >>> from penstock.schedules import build
        >>> [[str(op) for op in lane] for lane in in_parts(build("gpipe", 2, 1), 2).lanes]
        [['0F0', '1F0', '1B0', '0B0'], ['2F0', '3F0', '3B0', '2B0']]
    """
    lanes = tuple(Lane.of(_cut(lane.codes, parts)) for lane in plan.lanes)
    return replace(plan, placement=plan.placement.in_parts(parts), lanes=lanes)


def _cut(codes: NDArray[np.int32], parts: int) -> NDArray[np.int32]:
    """Rows of kind, stage and micro-batch."""
    found = np.repeat(codes, parts, axis=0)
    part = np.tile(np.arange(parts), len(codes))
    found[:, 1] = found[:, 1] * parts + np.where(found[:, 0] == Kind.F, part, parts - 1 - part)
    return found
