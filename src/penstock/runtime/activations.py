"""What a plan does with activations between forward and backward: keep, make again, move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from penstock.core.needs import NOTHING, index
from penstock.core.op import Kind, Op
from penstock.core.plan import Plan
from penstock.runtime.host import Host
from penstock.runtime.recompute import Recompute
from penstock.runtime.stage import Stage


class Activations:
    """The actions of ``R``, ``OFFLOAD`` and ``FETCH`` of one rank, and what they ask of forwards and backwards."""

    def __init__(self, plan: Plan, rank: int, stages: dict[int, Stage]) -> None:
        self.plan, self.stages = plan, stages
        kinds = {kind: {op.stage for op in plan.lanes[rank] if op.kind == kind} for kind in (Kind.R, Kind.OFFLOAD)}
        self.again = {s: Recompute(stages[s]) for s in kinds[Kind.R]}
        self.hosts = {s: Host(stages[s]) for s in kinds[Kind.OFFLOAD]}

    def forward(self, op: Op) -> Callable[..., Tensor]:
        """What ``F`` runs."""
        stage = self.stages[op.stage]
        work: Callable[..., Tensor] = stage.forward if self.plan.trains else stage.evaluate
        if self._has(Kind.R, op):
            work = self.again[op.stage].forward
        return partial(self.hosts[op.stage].forward, work) if self._has(Kind.OFFLOAD, op) else work

    def action(self, op: Op) -> Callable[[], None]:
        """What ``R``, ``OFFLOAD`` or ``FETCH`` runs."""
        match op.kind:
            case Kind.OFFLOAD:
                return partial(self.hosts[op.stage].offload, op.micro)
            case Kind.FETCH:
                return partial(self.hosts[op.stage].fetch, op.micro)
            case _:
                return self.arrived(op, partial(self.again[op.stage].again, op.micro))

    def arrived(self, op: Op, action: Callable[..., None]) -> Callable[..., None]:
        """An action that first waits for what comes back from the host, if something does."""
        if not self._has(Kind.FETCH, op):
            return action
        arrived = self.hosts[op.stage].arrived

        def after(*arguments: Any) -> None:
            arrived(op.micro)
            action(*arguments)

        return after

    def forget(self) -> None:
        """Drop what forwards have left to be made again or moved: they will be run again."""
        for again in self.again.values():
            again.forget()
        for host in self.hosts.values():
            host.forget()

    def _has(self, kind: Kind, op: Op) -> bool:
        """Whether the plan has an op of another kind for the same stage and micro-batch."""
        return bool(index(self.plan)[kind, op.stage, op.micro] != NOTHING)
