"""Where a rank must know that the last step stands, and what to mend if it does not (post-validation)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import NOTHING, dependencies, of_kind, partners, predecessors, rings
from penstock.core.op import COLLECTIVES, RECVS, SENDS, Kind
from penstock.core.plan import Plan

TO_GRADIENTS = (Kind.B, Kind.I, Kind.W, Kind.T, Kind.IB, Kind.REDUCE_GRAD, Kind.STEP)
"""What adds to gradients, or uses them: none of it may come before the last step's gradients are settled."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A place in every lane that all ranks reach without any going past its own.

    Args:
        at: id of the first op behind the place of each rank, shape (ranks,).
        lost: receives behind the place whose message is sent before it: ids in the order of the lanes. When the ops
            before the place are run again, these messages come twice.
        open: receives before the place whose message is sent behind it: they stay posted when the rest is run again.
    """

    at: NDArray[np.int64]
    lost: NDArray[np.int64]
    open: NDArray[np.int64]


def cut(plan: Plan) -> Cut:
    """The latest places such that nothing before them makes gradients or waits for anything behind them.

    A message may cross them: sent before, received behind, or posted before and sent behind. The latter only on links
    that carry nothing before the cut, so that messages of a link arrive in order when some are sent again.

    Example:
        >>> from penstock.lower import add_sends
        >>> from penstock.schedules import build
        >>> plan = add_sends(build("1f1b", ranks=2, micros=4))
        >>> found = cut(plan)
        >>> [str(plan.op(row)) for row in found.at], [str(plan.op(row)) for row in found.open]
        (['0B0', '1B0'], ['0RECV_B0'])
    """
    return plan.memo(_cut)


def _cut(plan: Plan) -> Cut:
    at = plan.first[1:].copy()
    rank, ids = plan.rank_of_op, np.arange(len(plan))
    never = of_kind(plan.ops[:, 0], TO_GRADIENTS)
    while True:
        inside = ids < at[rank]
        bad = inside & (never | _waits_outside(plan, inside) | _severed(plan, at))
        if not bad.any():
            return Cut(at, *_crossing(plan, inside))
        rows = np.flatnonzero(bad)
        np.minimum.at(at, rank[rows], rows)


def _waits_outside(plan: Plan, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which ops wait for one that is not inside."""
    kind = plan.ops[:, 0]
    needed, partner, before, ring = dependencies(plan), partners(plan), predecessors(plan), rings(plan)
    receives = of_kind(kind, RECVS) & (partner >= 0)
    arrives = inside & ~(receives & ~inside[np.maximum(partner, 0)])
    lacks = ((needed >= 0) & ~arrives[np.maximum(needed, 0)]).any(axis=1) & ~receives
    full = before >= 0
    lacks[full] |= ~inside[partner[before[full]]]
    together = of_kind(kind, COLLECTIVES) | of_kind(kind, (*SENDS, *RECVS)) & plan.blocking
    lacks |= together & (ring >= 0) & ~inside[np.maximum(ring, 0)]
    return lacks | receives & ~inside[np.maximum(partner, 0)] & np.isin(_links(plan), _links(plan)[_sent(plan, inside)])


def _severed(plan: Plan, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ops stand just before a place though they are one with what stands behind it."""
    found = np.zeros(len(plan), dtype=np.bool_)
    message = of_kind(plan.ops[:, 0], (*SENDS, *RECVS))
    for begin, end, place in zip(plan.first[:-1], plan.first[1:], at, strict=True):
        if begin < place < end:
            one = message[place - 1] and message[place] and plan.sends == "batched"
            found[place - 1] = plan.fused[place - 1] or one
    return found


def _links(plan: Plan) -> NDArray[np.int64]:
    """Number of the link from rank to rank of each message, ``NOTHING`` for other ops."""
    partner, rank, ranks = partners(plan), plan.rank_of_op.astype(np.int64), plan.placement.ranks
    peer = rank[np.maximum(partner, 0)]
    link = np.where(of_kind(plan.ops[:, 0], SENDS), rank * ranks + peer, peer * ranks + rank)
    return np.where(partner >= 0, link, NOTHING)


def _sent(plan: Plan, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return of_kind(plan.ops[:, 0], SENDS) & inside


def _crossing(plan: Plan, inside: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    receives = np.flatnonzero(of_kind(plan.ops[:, 0], RECVS))
    sent, posted = inside[partners(plan)[receives]], inside[receives]
    return receives[sent & ~posted], receives[posted & ~sent]
