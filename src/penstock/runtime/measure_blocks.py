"""Times within what runs as one, or beside: the halves of fused blocks, sums over replicas, copies to the host."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import index, rings
from penstock.core.op import HOST, Kind
from penstock.core.plan import Plan


def fill_halves(plan: Plan, lasted: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Fill in the times of kinds that stand in fused blocks alone, and give the overlap of the blocks.

    Args:
        plan: with or without blocks.
        lasted: time of each op id, of both ops of a block the block's.
        seconds: shape (kinds, stages), zero where unknown; filled in place by least squares over the blocks, as if
            nothing in those blocks overlapped.

    Returns:
        The share of the shorter half that the longer hides, over all blocks; 0 where halves explain them.
    """
    first = np.flatnonzero(plan.fused)
    if not len(first):
        return 0.0
    ids = [plan.ops[rows, 0] * plan.placement.stages + plan.ops[rows, 1] for rows in (first, first + 1)]
    flat = seconds.reshape(-1)
    unknown = np.array([each for each in np.unique(ids) if not flat[each]], dtype=np.int64)
    if len(unknown):
        holds = sum((each[:, None] == unknown).astype(np.float64) for each in ids)
        rest = lasted[first] - flat[ids[0]] - flat[ids[1]]
        flat[unknown] = np.maximum(0.0, np.linalg.lstsq(holds, rest, rcond=None)[0])
    f_s, b_s = flat[ids[0]], flat[ids[1]]
    hidden = float((f_s + b_s - lasted[first]).sum() / max(np.minimum(f_s, b_s).sum(), 1e-12))
    return min(1.0, max(0.0, hidden))


def summing_s(plan: Plan, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """How long each ``REDUCE_GRAD`` was under way in each step, zero for other ops: shape (steps, ops).

    Args:
        plan: with or without sums.
        times: start and end of each op id in each step, shape (steps, 2, ops).
    """
    found = np.zeros(times[:, 0].shape)
    rows = np.flatnonzero(plan.ops[:, 0] == Kind.REDUCE_GRAD)
    begun, ring = times[:, 0].copy(), rings(plan)
    for a, b in pairwise(rows):
        if plan.rank_of_op[a] == plan.rank_of_op[b]:
            begun[:, b] = np.maximum(begun[:, b], times[:, 1, a])
    for row in rows:
        members = [int(row)]
        while ring[members[-1]] != row:
            members.append(int(ring[members[-1]]))
        found[:, row] = np.maximum(0.0, times[:, 1, row] - begun[:, members].max(axis=1))
    return found


def copying_s(plan: Plan, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """How long each ``OFFLOAD`` and ``FETCH`` was under way in each step, zero for other ops: shape (steps, ops).

    Under way from when it was asked for and its direction of the rank's host link was free; a fetch not before its
    activations were out.

    Args:
        plan: with or without copies.
        times: start and end of each op id in each step, shape (steps, 2, ops).
    """
    found, (kind, stage, micro) = np.zeros(times[:, 0].shape), plan.ops.T
    begun, out = times[:, 0].copy(), index(plan)[Kind.OFFLOAD]
    for direction in HOST:
        rows = np.flatnonzero(kind == direction)
        same = plan.rank_of_op[rows[1:]] == plan.rank_of_op[rows[:-1]]
        before, behind = rows[:-1][same], rows[1:][same]
        begun[:, behind] = np.maximum(begun[:, behind], times[:, 1, before])
        if direction == Kind.FETCH:
            begun[:, rows] = np.maximum(begun[:, rows], times[:, 1, out[stage[rows], micro[rows]]])
        found[:, rows] = np.maximum(0.0, times[:, 1, rows] - begun[:, rows])
    return found


def same_block(lead: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Places of equal entries, in pairs: two messages that one block consumes."""
    order = np.argsort(lead, kind="stable").tolist()
    return [(a, b) for a, b in pairwise(order) if lead[a] == lead[b]]
