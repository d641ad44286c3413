"""Lanes in pieces that a pass may move: each op that computes with what is posted before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import WORK, Kind
from penstock.core.plan import Plan


@dataclass(frozen=True, eq=False)
class Units:
    """Ops that stay together: one that computes, and what is posted before it; rank after rank, in lane order.

    Args:
        rank: of each, shape (units,), as all that follows.
        begin, end: ids of its first op, and of the first behind it; the last one computes.
        forward: whether that is a forward.
        micro: its micro-batch.
        joins: whether it is the backward of a block, to run as one with the forward before it.
    """

    rank: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    forward: NDArray[np.bool_]
    micro: NDArray[np.int64]
    joins: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rank)


def units_of(plan: Plan) -> Units:
    """The lanes up to their last ops that compute.

    Example:
        >>> from penstock.schedules import build
        >>> units_of(build("gpipe", ranks=2, micros=1)).begin.tolist()
        [0, 1, 2, 3]
    """
    kind, _, micro = plan.ops.T
    work = np.flatnonzero(np.isin(kind, WORK))
    rank = plan.rank_of_op[work].astype(np.int64)
    behind = np.r_[0, work[:-1] + 1]
    begin = np.maximum(behind, plan.first[rank])
    joins = (work > plan.first[rank]) & plan.fused[work - 1]
    return Units(rank, begin, work + 1, kind[work] == Kind.F, micro[work].astype(np.int64), joins)


def advanced(units: Units, count: int) -> NDArray[np.int64]:
    """The units in the order in which each that is no forward comes behind ``count`` forwards more; shape (units,)."""
    begun = np.cumsum(units.forward)
    seen = begun - np.r_[0, begun][np.searchsorted(units.rank, units.rank)]
    keys = np.where(units.forward, 2 * seen - 1, 2 * (seen + count))
    return np.lexsort((keys, units.rank))


def joined(units: Units, order: NDArray[Any]) -> NDArray[np.bool_]:
    """Where in an order a forward and the backward behind it, of another micro-batch, become a block; shape (units,).

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("dualpipev", ranks=2, micros=4, chunks=2)
        >>> units = units_of(plan)
        >>> bool(joined(units, advanced(units, 0)).sum() == plan.fused.sum())
        True
    """
    one, other = order[:-1], order[1:]
    follows = units.forward[one] & units.joins[other] & (units.rank[one] == units.rank[other])
    blocks: NDArray[np.bool_] = np.r_[follows & (units.micro[one] != units.micro[other]), False]
    return blocks


def ids_of(begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """All ids from each begin up to its end, one after the other."""
    sizes = end - begin
    ids: NDArray[np.int64] = np.repeat(end - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
    return ids
