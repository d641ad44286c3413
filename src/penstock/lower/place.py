"""New ops put at places among those of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.plan import Plan


def place(plan: Plan, ops: NDArray[Any], ranks: NDArray[Any], places: NDArray[Any]) -> Plan:
    """The plan with more ops in its lanes.

    Args:
        plan: its own ops keep their order.
        ops: rows of kind, stage, micro-batch: shape (new, 3).
        ranks: whose lane each goes to: shape (new,).
        places: where: 4k stands just before op id k (which may be the end of the lane), 4k + 3 after it, 4k + 2 between
            it and those; what would come between the two ops of a block stands before or after it. Those of
            one place keep the order they have here. Shape (new,).

    Example:
        >>> from penstock.core.op import Kind
        >>> from penstock.schedules import build
        >>> plan = build("gpipe", ranks=1, micros=1)
        >>> print(place(plan, np.array([(Kind.R, 0, 0)]), np.array([0]), np.array([4])).lanes[0])
        0F0 0R0 0B0
    """
    ids, places = np.arange(len(plan)), np.asarray(places, dtype=np.int64)
    inside = plan.fused[np.minimum(places // 4, len(plan) - 1)] & (places % 4 > 0) & (places < 4 * len(plan))
    places = np.where(inside, places + 4, places)
    second = np.r_[False, plan.fused[:-1]]
    before = second[np.minimum(places // 4, len(plan) - 1)] & (places % 4 == 0) & (places < 4 * len(plan))
    places = np.where(before, places - 4, places)
    keys = np.concatenate([4 * ids + 1, places])
    nth = np.concatenate([np.zeros(len(plan), dtype=np.int64), np.arange(len(places))])
    rank = np.concatenate([plan.rank_of_op, ranks])
    order = np.lexsort((nth, keys, rank))
    codes = np.concatenate([plan.ops, np.asarray(ops, dtype=np.int32).reshape(-1, 3)])[order]
    fused = np.concatenate([plan.fused, np.zeros(len(places), dtype=np.bool_)])[order]
    lengths = np.bincount(rank, minlength=plan.placement.ranks)
    ends = np.cumsum(lengths)[:-1]
    return plan.with_lanes(map(Lane, np.split(codes, ends), np.split(fused, ends)))
