"""What a plan does with activations between forward and backward: keep, make again, move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from penstock.core.needs import NOTHING, index
from penstock.core.op import Kind, Op
from penstock.core.plan import Plan
from penstock.runtime.clock import Clock
from penstock.runtime.host import Host, HostLink
from penstock.runtime.keeping import Keeping
from penstock.runtime.recompute import Recompute
from penstock.runtime.stage import Stage


class Activations:
    """The actions of ``R``, ``OFFLOAD`` and ``FETCH`` of one rank, and what they ask of forwards and backwards.

    Args:
        plan: which micro-batches are made again or move.
        rank: whose stages.
        stages: by virtual stage number.
        clock: stamps the ends of copies.
        begins: called when an op has waited for a copy and begins.
        keeping: what recompute keeps and how much of the rest moves.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        stages: dict[int, Stage],
        clock: Clock,
        begins: Callable[[], None],
        keeping: Keeping | None = None,
    ) -> None:
        self.plan, self.stages, self._begins, keeping = plan, stages, begins, keeping or Keeping()
        self.lane = plan.lanes[rank]
        kinds = {kind: {op.stage for op in self.lane if op.kind == kind} for kind in (Kind.R, Kind.OFFLOAD)}
        self.again = {s: Recompute(stages[s], keeping.selective) for s in kinds[Kind.R]}
        self._links: tuple[HostLink, ...] = ()
        if kinds[Kind.OFFLOAD]:
            device = next((p.device for s in stages.values() for p in s.module.parameters()), torch.device("cpu"))
            self._links = out, back = HostLink(device, clock), HostLink(device, clock)
        self.hosts = {s: Host(stages[s], (out, back), keeping.host_share) for s in kinds[Kind.OFFLOAD]}

    def forward(self, op: Op) -> Callable[..., Tensor]:
        """What ``F`` runs."""
        stage = self.stages[op.stage]
        work: Callable[..., Tensor] = stage.forward if self.plan.trains else stage.evaluate
        if self._has(Kind.R, op):
            work = self.again[op.stage].forward
        if not self._has(Kind.OFFLOAD, op):
            return work
        return partial(self.hosts[op.stage].forward, work, self.again[op.stage] if self._has(Kind.R, op) else None)

    def action(self, place: int, op: Op) -> Callable[[], None]:
        """What ``R``, ``OFFLOAD`` or ``FETCH`` runs that stands at a place of the lane."""
        match op.kind:
            case Kind.OFFLOAD:
                return partial(self.hosts[op.stage].offload, place, op.micro)
            case Kind.FETCH:
                return partial(self.hosts[op.stage].fetch, place, op.micro)
            case _:
                return self.arrived(op, partial(self.again[op.stage].again, op.micro))

    def arrived(self, op: Op, action: Callable[[], Any]) -> Callable[[], Any]:
        """An action that first waits for what comes back from the host, if something does: for R, else for the
        backward."""
        if not self._has(Kind.FETCH, op) or (op.kind != Kind.R and self._has(Kind.R, op)):
            return action
        arrived = self.hosts[op.stage].arrived

        def after() -> Any:
            if arrived(op.micro):
                self._begins()
            return action()

        return after

    def forget(self) -> None:
        """Drop what forwards have left to be made again or moved: they will be run again."""
        for again in self.again.values():
            again.forget()
        for host in self.hosts.values():
            host.forget()

    def finish(self) -> Iterator[tuple[int, Any]]:
        """Wait for all copies: the place in the lane and the clock's stamp of the end of each."""
        return chain.from_iterable(link.finish() for link in self._links)

    def _has(self, kind: Kind, op: Op) -> bool:
        """Whether the plan has an op of another kind for the same stage and micro-batch."""
        return bool(index(self.plan)[kind, op.stage, op.micro] != NOTHING)
