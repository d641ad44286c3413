"""The input embedding and the output head, split over all ranks by rows of the vocabulary."""

from __future__ import annotations

from typing import Literal

import numpy as np

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import AMONG_RANKS, VOCABULARY, Kind
from penstock.core.plan import Plan
from penstock.lower.score_vocabulary import COLLECTIVES, PASSES, Passes, Score
from penstock.lower.units import advanced, ids_of, joined, units_of
from penstock.lower.weave_vocabulary import Woven, weave

PASS_SECONDS = {Kind.S: 0.25, Kind.T: 0.25, Kind.IF: 0.05, Kind.IB: 0.05}
"""Times by which passes are placed where the caller names none; a stage's ``F`` takes 1."""
Algorithm = Literal[1, 2]


def split_vocabulary(
    plan: Plan, algorithm: Algorithm = 1, inputs: bool = True, costs: Costs | None = None, ahead: int | None = None
) -> Plan:
    """The plan with the head's work (and the input embedding's) on all ranks (Yeung et al. 2024, arXiv:2411.05288).

    The last stage hands its output to all ranks (``BCAST_H``); each computes the logits of its rows and their
    statistics (``S``), which are summed (``REDUCE_S``). Algorithm 1: each then computes the gradients of its rows and
    its share of that of the head's input (``T``), which are summed (``REDUCE_T``) for the last stage's backward.
    Algorithm 2: ``S`` and ``REDUCE_S`` bring that gradient too, and ``T``, now of the rows alone, may come any time
    later. ``IF`` and ``REDUCE_E`` make the input of the first stage ahead of time; ``BCAST_E`` and ``IB`` take its
    gradient back. A plan of forwards alone gets those of forwards.

    Passes stand where their ranks would come to them if all went as the costs say; as the collectives stand in one
    order on all ranks, what ran before runs with them. The last stage's backward comes later than it did, so each rank
    runs up to ``ahead`` more forwards before its backwards, no more than 2 (algorithm 1) or 1 (algorithm 2)
    micro-batches of activations: as many as make the makespan least. Backwards of blocks form blocks with the forwards
    that then stand before them.

    Args:
        plan: legal, of one chain, without sends.
        algorithm: see above.
        inputs: split the input embedding too.
        costs: by which passes are placed; the last stage's without the head, the first's without the embedding.
        ahead: further forwards of a chunk that a rank runs before each backward; default found as above.

    Raises:
        ValueError: the plan has sends, several chains or vocabulary passes already, or its lanes cannot run.

    Example:
        >>> from penstock.schedules import build
        >>> print(split_vocabulary(build("1f1b", ranks=2, micros=1), inputs=False).lanes[0])
        0BCAST_H0 0F0 0S0 0REDUCE_S0 0T0 0REDUCE_T0 0B0
    """
    _fits(plan, algorithm)
    costs = costs or Costs.uniform(plan.placement, other_s=PASS_SECONDS)
    units = units_of(plan)
    score = Score.of(plan, units, Passes.of(plan, algorithm, inputs), costs)
    found: Woven | None = None
    for count in _tries(plan, algorithm) if ahead is None else [ahead]:
        order = advanced(units, count)
        woven = weave(score, order, joined(units, order))
        if woven is not None and (found is None or woven.makespan_s < found.makespan_s * (1 - MATTERS)):
            found = woven
    if found is None:
        raise ValueError(f"plan {plan.name!r} cannot run to its end; engine.check says why")
    return plan.with_lanes(_lane(score, found, rank) for rank in range(plan.placement.ranks))


def algorithm_of(plan: Plan) -> Literal[0, 1, 2]:
    """Which algorithm the vocabulary passes of a training plan follow; 0 if it has none.

    Example:
        >>> from penstock.schedules import build
        >>> algorithm_of(split_vocabulary(build("1f1b", ranks=2, micros=2), 2))
        2
    """
    kinds = set(plan.ops[:, 0].tolist())
    return 0 if Kind.S not in kinds else 1 if Kind.REDUCE_T in kinds else 2


MATTERS = 1e-3
"""Share of the makespan that is worth another micro-batch's memory."""


def _fits(plan: Plan, algorithm: int) -> None:
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm={algorithm}; use 1 or 2")
    if plan.lowered:
        raise ValueError(f"plan {plan.name!r} has sends already; call split_vocabulary before add_sends")
    if plan.weights != "synced":
        raise ValueError(f"plan {plan.name!r} updates its stages one by one; vocabulary passes need one step for all")
    if plan.placement.chains > 1:
        raise ValueError(f"plan {plan.name!r} has {plan.placement.chains} chains of stages; vocabulary passes follow 1")
    if {*VOCABULARY, *AMONG_RANKS} & set(plan.ops[:, 0].tolist()):
        raise ValueError(f"plan {plan.name!r} has vocabulary passes already")


def _tries(plan: Plan, algorithm: int) -> list[int]:
    """Numbers of further forwards worth a try."""
    if not plan.trains:
        return [0]
    chunks = max(len(plan.placement.on(rank)) for rank in range(plan.placement.ranks))
    fewest = min(len(plan.placement.on(rank)) for rank in range(plan.placement.ranks))
    most = (3 - algorithm) * fewest
    return sorted({count for half in range(5) if (count := -(-half * chunks // 2)) <= most} | {most})


def _lane(score: Score, woven: Woven, rank: int) -> Lane:
    """The woven order of a rank as a lane; what stood behind its last compute stays last.

    Each collective goes before the op that runs as it begins, behind what it needs here and behind all earlier
    collectives. Whoever waits for it starts no sooner than it ends, hence stands behind it.
    """
    plan, units = score.plan, score.units
    begun = np.searchsorted(woven.start_s[rank], woven.called_s) - 1
    places = np.maximum.accumulate(np.maximum(woven.row[rank][woven.called] + 1, begun))
    codes = np.insert(woven.started[rank], places, -1 - len(PASSES) * score.micros - woven.called)
    copies = 1 + ((codes >= 0) & woven.block[np.maximum(codes, 0)])
    second = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    codes, is_block = np.repeat(codes, copies) + second, np.repeat(copies == 2, copies) & (second == 0)
    unit = woven.order[np.maximum(codes, 0)]
    begin = np.where(codes >= 0, units.begin[unit], len(plan) - 1 - codes)
    end = np.where(codes >= 0, units.end[unit], begin + 1)
    last = units.end[units.rank == rank].max(initial=plan.first[rank])
    begin, end = np.append(begin, last), np.append(end, plan.first[rank + 1])
    ids = ids_of(begin, end)
    added = np.indices((len(PASSES) + len(COLLECTIVES), score.micros)).reshape(2, -1)
    part = np.full(added.shape[1], plan.placement.on(rank)[0])
    table = np.concatenate([plan.ops, np.stack([np.array(PASSES + COLLECTIVES)[added[0]], part, added[1]], axis=1)])
    fused = np.zeros(len(ids), dtype=np.bool_)
    fused[np.cumsum(end - begin)[:-1][is_block] - 1] = True
    return Lane(table[ids].astype(np.int32), fused)
