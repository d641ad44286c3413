"""Sums of gradients over the replicas of a stage."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import NOTHING
from penstock.core.op import NO_MICRO, Kind
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.lower.place import place

UNIT_SECONDS = {Kind.F: 1.0, Kind.B: 2.0, Kind.I: 1.0, Kind.W: 1.0}
"""Times by which sums are ordered."""


def reduce_gradients(plan: Plan, eager: bool = True, every: bool = False) -> Plan:
    """The plan with one ``REDUCE_GRAD`` for each stage that has replicas, or for every stage.

    A rank only starts a sum, and sums of a rank follow each other. They stand in one order on all ranks, that in which
    the last replicas have their gradients at unit times, so that none waits for another in a ring.

    Args:
        plan: legal. One that has sums already, or no replicas or no backwards, stays as it is.
        eager: start a sum right after the last gradient of its stage (or right after the sum before it in the common
            order), beside the work that is left (Li and Hoefler 2021, arXiv:2107.06925); else all behind that work.
        every: also for stages without replicas in the plan, whose gradients are summed over data-parallel copies of
            the whole pipeline.

    Example:
        >>> from penstock.schedules import build
        >>> print(reduce_gradients(build("chimera", ranks=2, micros=2)).lanes[0])
        0F0 3F1 3B1 3REDUCE_GRAD 0B0 0REDUCE_GRAD
    """
    part_of, rank_of = plan.placement.part_of, plan.placement.rank_of
    copies = Counter(part_of)
    stages = [s for s, part in enumerate(part_of) if every or copies[part] > 1]
    if not stages or not plan.trains or (plan.ops[:, 0] == Kind.REDUCE_GRAD).any():
        return plan
    last = _last_gradients(plan)
    ready_s = _ready_s(plan, last)
    stages.sort(key=lambda s: (ready_s[part_of[s]], part_of[s], s))
    behind = [_behind_work(plan, rank) for rank in range(plan.placement.ranks)]
    latest = [4 * int(first) for first in plan.first[:-1]]
    places = []
    for s in stages:
        rank = rank_of[s]
        own = 4 * int(last[s]) + 3 if eager and last[s] != NOTHING else 0 if eager else behind[rank]
        latest[rank] = max(latest[rank], own)
        places.append(latest[rank])
    ops = [(Kind.REDUCE_GRAD, s, NO_MICRO) for s in stages]
    return place(plan, np.array(ops), np.array([rank_of[s] for s in stages]), np.array(places))


def _last_gradients(plan: Plan) -> NDArray[np.int64]:
    """Id of the op that adds the last gradient of each stage's weights, ``NOTHING`` if none does."""
    kind, stage, _ = plan.ops.T
    rows = np.flatnonzero(np.isin(kind, (Kind.B, Kind.W)))
    last = np.full(plan.placement.stages, NOTHING, dtype=np.int64)
    np.maximum.at(last, stage[rows], rows)
    return last


def _ready_s(plan: Plan, last: NDArray[np.int64]) -> dict[int, float]:
    """When the last replica of each part has its gradients, at unit times."""
    unit = np.zeros(len(Kind))
    unit[list(UNIT_SECONDS)] = list(UNIT_SECONDS.values())
    ranks = plan.placement.ranks
    end_s = play(plan, unit[plan.ops[:, 0]], np.zeros((ranks, ranks))).end_s
    found: dict[int, float] = {}
    for part, row in zip(plan.placement.part_of, last, strict=True):
        found[part] = max(found.get(part, 0.0), float(end_s[row]) if row != NOTHING else 0.0)
    return found


def _behind_work(plan: Plan, rank: int) -> int:
    """The place behind all work of a rank but its steps."""
    lane = plan.lanes[rank].codes[:, 0]
    work = np.flatnonzero(lane != Kind.STEP)
    return 4 * int(plan.first[rank]) + (4 * int(work[-1]) + 3 if len(work) else 0)
