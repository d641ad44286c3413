"""What PyTorch asks of a schedule beyond what makes a plan legal: it gathers, drops and sums sharded weights once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.core.op import Kind, Op
from penstock.core.plan import Plan
from penstock.engine.problem import Problem


def torch_problems(plan: Plan) -> list[Problem]:
    """Why PyTorch's runtime would stop at, or wrongly scale, a legal plan's actions on sharded weights.

    It asserts that ``UNSHARD`` finds the stage's weights sharded and ``RESHARD`` finds them gathered, and each
    ``REDUCE_GRAD`` divides all gradients of a stage, so each stage has one, or none does (torch 2.13).
    """
    return [*_gathers(plan), *_sums(plan)]


def _gathers(plan: Plan) -> Iterator[Problem]:
    for rank, lane in enumerate(plan.lanes):
        gathered: set[int] = set()
        for row in np.flatnonzero(np.isin(lane.codes[:, 0], (Kind.UNSHARD, Kind.RESHARD))).tolist():
            op = lane[row]
            if op.kind == Kind.UNSHARD and op.stage in gathered:
                fix = f"add {Op(Kind.RESHARD, op.stage)} before it or drop it"
                yield Problem(rank, str(op), "stands twice: the stage's weights are gathered already", fix)
            elif op.kind == Kind.RESHARD and op.stage not in gathered:
                fix = f"add {Op(Kind.UNSHARD, op.stage)} before it or drop it"
                yield Problem(rank, str(op), "the stage's weights are not gathered then", fix)
            (gathered.add if op.kind == Kind.UNSHARD else gathered.discard)(op.stage)
        for stage in sorted(gathered):
            drop, fix = str(Op(Kind.RESHARD, stage)), "add it after the stage's last op"
            message = f"no {drop} follows, and the next step would gather twice"
            yield Problem(rank, str(Op(Kind.UNSHARD, stage)), message, fix)


def _sums(plan: Plan) -> Iterator[Problem]:
    kind, stage, _ = plan.ops.T
    counts = np.bincount(stage[kind == Kind.REDUCE_GRAD], minlength=plan.placement.stages)
    if not counts.any():
        return
    for s in np.flatnonzero(counts != 1):
        op, rank = str(Op(Kind.REDUCE_GRAD, int(s))), plan.placement.rank_of[s]
        if counts[s]:
            yield Problem(rank, op, f"stands {counts[s]} times; each divides the gradients again", "keep one")
        else:
            yield Problem(rank, op, "is missing, and other stages have one", "add it after the stage's last backward")
