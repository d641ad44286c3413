"""The legality of what passes add: recompute, copies to the host, gathered weights, sums of gradients, vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.core.needs import MISSING, NOTHING, index, rings
from penstock.core.op import AMONG_RANKS, VOCABULARY, Kind, Op
from penstock.core.plan import Plan
from penstock.engine.problem import Problem, name


def extras(plan: Plan) -> Iterator[Problem]:
    """What is wrong with ops that no schedule needs but a plan may hold."""
    kinds = set(np.unique(plan.ops[:, 0]).tolist())
    if Kind.OFFLOAD in kinds:
        yield from _never_fetched(plan)
    if {Kind.UNSHARD, Kind.RESHARD} & kinds:
        yield from _not_gathered(plan)
    if Kind.REDUCE_GRAD in kinds:
        yield from _never_reduced(plan)
    if kinds & {*VOCABULARY, *AMONG_RANKS}:
        yield from _vocabulary(plan, kinds)
    if plan.slices > 1 and Kind.R in kinds:
        row = int(np.flatnonzero(plan.ops[:, 0] == Kind.R)[0])
        yield _problem(plan, row, "recomputes a slice, which needs keys and values of others", "use one or the other")
    if plan.trains and kinds & {Kind.REDUCE_GRAD, *AMONG_RANKS}:
        ring = rings(plan)
        alone = (ring == MISSING) & np.isin(plan.ops[:, 0], (Kind.REDUCE_GRAD, *AMONG_RANKS))
        for one in np.flatnonzero(alone):
            where = "replica of the stage" if plan.ops[one, 0] == Kind.REDUCE_GRAD else "rank"
            yield _problem(plan, one, f"not every {where} has its own; none ends before all do", "add the others")


def _problem(plan: Plan, row: int | np.intp, message: str, fix: str) -> Problem:
    return Problem(int(plan.rank_of_op[row]), name(plan, row), message, fix)


def _never_fetched(plan: Plan) -> Iterator[Problem]:
    ids = index(plan)
    _, stage, micro = plan.ops.T
    for row in np.flatnonzero(plan.ops[:, 0] == Kind.OFFLOAD):
        at = stage[row], micro[row]
        if ids[(Kind.FETCH, *at)] == NOTHING:
            back = Op(Kind.FETCH, int(at[0]), int(at[1]))
            yield _problem(plan, row, "its backward finds nothing there", f"add {back} before the backward")


def _not_gathered(plan: Plan) -> Iterator[Problem]:
    """Ops that need the weights of a stage whose weights are sharded, while they are not gathered."""
    using = (Kind.F, Kind.B, Kind.I, Kind.R)
    for rank, lane in enumerate(plan.lanes):
        kind, stage, _ = lane.codes.T
        for s in np.unique(stage[np.isin(kind, (Kind.UNSHARD, Kind.RESHARD))]):
            rows = np.flatnonzero((stage == s) & np.isin(kind, (*using, Kind.UNSHARD, Kind.RESHARD)))
            gathered = _last_of(kind[rows], Kind.UNSHARD) > _last_of(kind[rows], Kind.RESHARD)
            for row in rows[~gathered & np.isin(kind[rows], using)]:
                gone = np.flatnonzero((kind[:row] == Kind.RESHARD) & (stage[:row] == s))
                since = f", {Op(Kind.RESHARD, int(s))} stands before it" if len(gone) else ""
                fix = f"add {Op(Kind.UNSHARD, int(s))} before it"
                yield _problem(plan, plan.first[rank] + row, f"the stage's weights are not gathered then{since}", fix)


def _last_of(kinds: NDArray[np.int32], kind: Kind) -> NDArray[np.intp]:
    """Place of the last op of a kind up to each place, -1 if there is none."""
    return np.maximum.accumulate(np.where(kinds == kind, np.arange(len(kinds)), -1))


def _never_reduced(plan: Plan) -> Iterator[Problem]:
    """Gradients that come after the last sum of their stage."""
    for rank, lane in enumerate(plan.lanes):
        kind, stage, _ = lane.codes.T
        for s in np.unique(stage[kind == Kind.REDUCE_GRAD]):
            last = np.flatnonzero((stage == s) & (kind == Kind.REDUCE_GRAD))[-1]
            for row in np.flatnonzero((stage == s) & np.isin(kind, (Kind.B, Kind.W)))[::-1]:
                if row > last:
                    fix = f"move {lane[int(last)]} after it"
                    yield _problem(plan, plan.first[rank] + row, "its gradient comes after the last sum", fix)


def _vocabulary(plan: Plan, kinds: set[int]) -> Iterator[Problem]:
    """Every rank runs every vocabulary pass that the plan has on every micro-batch."""
    if plan.placement.chains > 1:
        row = int(np.flatnonzero(np.isin(plan.ops[:, 0], (*VOCABULARY, *AMONG_RANKS)))[0])
        yield _problem(plan, row, "vocabulary passes follow one chain, and this plan has several", "use one chain")
        return
    ids = index(plan)
    for kind in sorted(kinds & {*VOCABULARY, *AMONG_RANKS}):
        for rank in range(plan.placement.ranks):
            part = plan.placement.on(rank)[0]
            for i in np.flatnonzero(ids[kind, part] == NOTHING):
                op = Op(Kind(kind), part, int(i))
                yield Problem(rank, str(op), "is missing", "every rank runs it on every micro-batch")
