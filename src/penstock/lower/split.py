"""Whole backwards and their two halves: B to I and W, adjacent or apart, and back."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.core.play import play

Rows = NDArray[np.int32]


def split_backward(plan: Plan) -> Plan:
    """The plan with ``I W`` in place of every ``B``: ranks before need not wait for ``W``, so it is never slower where
    ``B`` takes as long as both.

    Raises:
        ValueError: the plan has sends, which would no longer follow what they send; split first.

    Example:
        >>> from penstock.schedules import build
        >>> print(split_backward(build("gpipe", ranks=1, micros=2)).lanes[0])
        0F0 0F1 0I0 0W0 0I1 0W1
    """
    _without_sends(plan, "split_backward")
    return plan.with_lanes(Lane(*_split(lane)) for lane in plan.lanes)


def merge_backward(plan: Plan) -> Plan:
    """The plan with ``B`` in place of every ``I`` that its own ``W`` follows at once: fewer launches, but the gradient
    of the input leaves later, so it is never faster where ``B`` takes as long as both.

    Raises:
        ValueError: the plan has sends; merge first.

    Example:
        >>> print(merge_backward(Plan.from_text('''
        ...     plan mine
        ...     micros 2
        ...     sends overlapped
        ...     rank_of 0
        ...     prev -1
        ...     part_of 0
        ...     lane 0F0 0F1 0I0 0W0 0I1 0W1'''.replace("    ", ""))).lanes[0])
        0F0 0F1 0B0 0B1
    """
    _without_sends(plan, "merge_backward")
    return plan.with_lanes(Lane(*_merge(lane)) for lane in plan.lanes)


def two_bp(plan: Plan, fill: bool = True) -> Plan:
    """The plan with all backwards split and their weight gradients late (2BP: Rae et al. 2024, arXiv:2405.18047).

    The other ops keep their order. With ops of equal length it is never slower than the plan it was made of; it keeps
    more activations, those of every ``I`` whose ``W`` waits.

    Args:
        plan: legal, without sends.
        fill: put ``W``, oldest first, where its rank would wait if every op took the same time; else all at the end.

    Raises:
        ValueError: the plan has sends or sums of gradients, or applies gradients as they come, or its lanes cannot run
            to their end.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("1f1b", ranks=2, micros=2)
        >>> print(two_bp(plan).lanes[0], "|", two_bp(plan, fill=False).lanes[0])
        0F0 0F1 0I0 0W0 0I1 0W1 | 0F0 0F1 0I0 0I1 0W0 0W1
    """
    _without_sends(plan, "two_bp")
    if plan.weights != "synced":
        raise ValueError(f"plan {plan.name!r} applies gradients as they come; those of its weights cannot be late")
    if (plan.ops[:, 0] == Kind.REDUCE_GRAD).any():
        raise ValueError(f"plan {plan.name!r} sums gradients already; call two_bp before reduce_gradients")
    split = split_backward(plan)
    kept = [lane.codes[:, 0] != Kind.W for lane in split.lanes]
    ahead = split.with_lanes(Lane(lane.codes[k], lane.fused[k]) for lane, k in zip(split.lanes, kept, strict=True))
    ranks = plan.placement.ranks
    starts = play(ahead, np.ones(len(ahead)), np.zeros((ranks, ranks))).start_s
    if np.isnan(starts).any():
        raise ValueError(f"plan {plan.name!r} cannot run to its end; engine.check says why")
    slots = np.split(starts.astype(np.int64), ahead.first[1:-1])
    if not fill:
        slots = [np.arange(len(lane)) for lane in ahead.lanes]
    return split.with_lanes(_late(lane, slot) for lane, slot in zip(ahead.lanes, slots, strict=True))


def _without_sends(plan: Plan, verb: str) -> None:
    if plan.lowered:
        raise ValueError(f"plan {plan.name!r} has sends already; call {verb} before add_sends")


def _split(lane: Lane) -> tuple[Rows, NDArray[np.bool_]]:
    full = lane.codes[:, 0] == Kind.B
    ops = np.repeat(lane.codes, 1 + full, axis=0)
    first = (np.cumsum(1 + full) - (1 + full))[full]
    ops[first, 0], ops[first + 1, 0] = Kind.I, Kind.W
    return ops, np.repeat(lane.fused, 1 + full)


def _merge(lane: Lane) -> tuple[Rows, NDArray[np.bool_]]:
    codes = lane.codes
    same = (codes[1:, 1:] == codes[:-1, 1:]).all(axis=1)
    pair = np.flatnonzero(same & (codes[:-1, 0] == Kind.I) & (codes[1:, 0] == Kind.W))
    ops = codes.copy()
    ops[pair, 0] = Kind.B
    return np.delete(ops, pair + 1, axis=0), np.delete(lane.fused, pair + 1)


def _late(lane: Lane, slots: NDArray[np.int64]) -> Lane:
    """The lane with a ``W`` for each ``I``: in the free slots between the others, the rest at the end."""
    rows: list[tuple[int, int, int]] = []
    fused: list[bool] = []
    waiting: deque[tuple[int, int, int]] = deque()
    free = 0
    for (kind, stage, micro), slot, one in zip(lane.codes.tolist(), slots.tolist(), lane.fused.tolist(), strict=True):
        for _ in range(min(slot - free, len(waiting))):
            rows.append(waiting.popleft())
        fused += [False] * (len(rows) - len(fused)) + [one]
        rows.append((kind, stage, micro))
        if kind == Kind.I:
            waiting.append((Kind.W, stage, micro))
        free = slot + 1
    fused += [False] * (len(rows) + len(waiting) - len(fused))
    return Lane(np.array([*rows, *waiting], dtype=np.int32), np.array(fused, dtype=np.bool_))
