"""Plans that update without a flush: which weights each forward runs with, and how late its gradient is applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine.problem import Problem, name

NONE = -1
"""Stands where a stage does not run a micro-batch."""


@dataclass(frozen=True, eq=False)
class Versions:
    """Versions of each stage's weights count its updates: 0 are the first weights. Arrays of shape (stages, micros)."""

    used: NDArray[np.int64]
    """The version that the forward runs with (or starts its prediction from)."""
    applied: NDArray[np.int64]
    """The version that the gradient is applied to."""

    @property
    def staleness(self) -> NDArray[np.int64]:
        """Updates between the weights of the forward and those the gradient is applied to."""
        return np.where(self.used == NONE, NONE, self.applied - self.used)

    def kept(self, plan: Plan) -> NDArray[np.int64]:
        """Most versions of its weights a stage holds at a time, the newest included: shape (stages,)."""
        most = np.ones(len(self.used), dtype=np.int64)
        for lane in plan.lanes:
            newest, running = dict.fromkeys(lane.codes[:, 1].tolist(), 0), set[tuple[int, int]]()
            for kind, stage, micro in lane.codes.tolist():
                if kind == Kind.F:
                    running.add((stage, micro))
                elif kind in (Kind.B, Kind.W):
                    running.discard((stage, micro))
                elif kind == Kind.UPDATE:
                    newest[stage] += 1
                alive = {int(self.used[s, i]) for s, i in running if s == stage} | {newest[stage]}
                most[stage] = max(most[stage], len(alive))
        return most


def versions(plan: Plan) -> Versions:
    """Versions that forwards use and gradients are applied to; in a plan without updates all are 0.

    Example:
        >>> from penstock.schedules import build
        >>> versions(build("pipedream", ranks=3, micros=5)).staleness.tolist()
        [[0, 1, 2, 2, 2], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
        >>> versions(build("pipedream-2bw", ranks=2, micros=6)).staleness.tolist()
        [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
    """
    return plan.memo(_versions)


def _versions(plan: Plan) -> Versions:
    used, applied = (np.full((plan.placement.stages, plan.micros), NONE, dtype=np.int64) for _ in range(2))
    for lane in plan.lanes:
        kind, stage, micro = lane.codes.T
        for s in np.unique(stage):
            done = np.cumsum((kind == Kind.UPDATE) & (stage == s))
            forward, back = (np.flatnonzero((stage == s) & np.isin(kind, of)) for of in ((Kind.F,), (Kind.B, Kind.W)))
            used[s, micro[forward]] = done[forward]
            applied[s, micro[back]] = done[back]
    if plan.weights == "double":
        used = np.where(used == NONE, NONE, np.maximum(applied - 1, 0))
    return Versions(used, applied)


def updates(plan: Plan) -> Iterator[Problem]:
    """What is wrong with updates: each gradient must be applied once, and the weights it was made with be at hand."""
    has = bool((plan.ops[:, 0] == Kind.UPDATE).any())
    if has == (plan.weights == "synced") and (has or plan.trains):
        row = int(np.flatnonzero(plan.ops[:, 0] == Kind.UPDATE)[0]) if has else 0
        fix = "give weights 'stashed', 'double' or 'predicted'" if has else "give weights 'synced', or add updates"
        yield _problem(plan, row, f"the plan's weights are {plan.weights!r}", fix)
    if not has:
        return
    for row in np.flatnonzero(np.isin(plan.ops[:, 0], (Kind.STEP, Kind.REDUCE_GRAD))).tolist():
        yield _problem(plan, row, "the gradients of all micro-batches never meet: updates apply them", "drop it")
    yield from _once(plan)
    if plan.weights == "double":
        yield from _two(plan)


def _problem(plan: Plan, row: int, message: str, fix: str) -> Problem:
    return Problem(int(plan.rank_of_op[row]), name(plan, row), message, fix)


def _once(plan: Plan) -> Iterator[Problem]:
    waiting: dict[int, int] = {}
    for row, (kind, stage, micro) in enumerate(plan.ops.tolist()):
        if kind in (Kind.B, Kind.W):
            waiting[stage] = row
        elif kind == Kind.UPDATE:
            last = waiting.pop(stage, None)
            if last is None:
                yield _problem(plan, row, "no gradient has come since the update before it", "drop it")
            elif plan.ops[last, 2] != micro:
                yield _problem(plan, row, f"the last gradient before it is that of {plan.op(last)}",
                               "name the last micro-batch that it applies")  # fmt: skip
    for row in waiting.values():
        yield _problem(plan, row, "its gradient is never applied", "add an update of its stage after it")


def _two(plan: Plan) -> Iterator[Problem]:
    found = versions(plan)
    for micro in np.flatnonzero((found.applied != found.applied[0]).any(axis=0)):
        stage = int(np.flatnonzero(found.applied[:, micro] != found.applied[0, micro])[0])
        row = int(np.flatnonzero((plan.ops[:, 1] == stage) & (plan.ops[:, 2] == micro))[0])
        yield _problem(plan, row, "other stages apply its gradient in another group", "group alike on all stages")
    done = dict.fromkeys(range(plan.placement.stages), 0)
    for row, (kind, stage, micro) in enumerate(plan.ops.tolist()):
        done[stage] += kind == Kind.UPDATE
        if kind == Kind.F and found.used[stage, micro] > done[stage]:
            yield _problem(plan, row, f"runs with the weights after update {found.used[stage, micro]} of its stage, "
                           "which comes later", "make groups larger")  # fmt: skip
