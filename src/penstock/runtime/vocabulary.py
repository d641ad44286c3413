"""The actions of a lane that run vocabulary passes and their collectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from penstock.core.op import Kind, Op
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.runtime.clock import Clock
from penstock.runtime.collectives import Collectives, Pending, Started
from penstock.runtime.part import Part, Scores

Key = tuple[Kind, int, int]
Action = Callable[[], None]


@dataclass(frozen=True)
class Desk:
    """How actions reach the values of a step."""

    put: Callable[[Key, Any], None]
    """Hand a value, or one that is on its way, to the op that takes this key."""
    take: Callable[[Key], Any]
    """What was put there; waits for it if it is on its way."""
    ids: Callable[[int], Tensor]
    """Tokens of a micro-batch, (micro, seq)."""
    targets: Callable[[int], Tensor]


class Vocabulary:
    """The vocabulary actions of one rank's lane.

    Args:
        plan: with vocabulary passes and those of the embedding.
        rank: whose lane.
        part: its rows.
        collectives: of all ranks.
        boundary: shape, type and device of the head's input and of the embedding.
        clock: stamps the ends of collectives.

    Raises:
        ValueError: the plan splits the head and not the embedding.
    """

    def __init__(
        self, plan: Plan, rank: int, part: Part, collectives: Collectives, boundary: Any, clock: Clock
    ) -> None:
        kinds = set(plan.ops[:, 0].tolist())
        if Kind.IF not in kinds:
            raise ValueError(f"plan {plan.name!r} splits the head alone; a run splits the embedding with it")
        placement = plan.placement
        self._first, self._last = placement.prev.index(NO_STAGE), placement.next.index(NO_STAGE)
        self._first_rank, self._last_rank = placement.rank_of[self._first], placement.rank_of[self._last]
        self._rank, self._trains, self._late = rank, plan.trains, Kind.REDUCE_T in kinds
        self._part, self._collectives, self._boundary, self._clock = part, collectives, boundary, clock
        self._unscored: list[Pending] = []
        self._open: dict[int, Started] = {}
        self._losses: list[Tensor] = []

    def action(self, position: int, op: Op, desk: Desk) -> Action:
        """The bound action of one op, which stands at ``position`` of the lane."""
        acts = {
            Kind.BCAST_H: self._send_hidden,
            Kind.S: self._score,
            Kind.REDUCE_S: self._sum_scores,
            Kind.T: self._gradients,
            Kind.REDUCE_T: self._sum_gradients,
            Kind.IF: self._embed,
            Kind.REDUCE_E: self._sum_embedding,
            Kind.BCAST_E: self._send_gradient,
            Kind.IB: self._embed_backward,
        }
        return torch.no_grad()(partial(acts[op.kind], position, op, desk))

    def finish(self) -> dict[int, Any]:
        """Wait for all collectives of the lane: stamps of their ends by position."""
        for started in self._open.values():
            started.wait()
        for scores in self._unscored:
            self._note(scores.take())
        ends = {position: started.ended for position, started in self._open.items()}
        self._unscored.clear()
        self._open.clear()
        return ends

    def take_losses(self) -> list[Tensor]:
        """Losses of the micro-batches since the last call, on the rank of the last stage."""
        found, self._losses = self._losses, []
        return found

    def _note(self, whole: Scores) -> None:
        if self._rank == self._last_rank:
            self._losses.append(whole.loss())

    def _start(self, position: int, work: Callable[[], tuple[Any, ...]]) -> Started:
        self._open[position] = self._collectives.start(work, position, self._clock)
        return self._open[position]

    def _spread(self, position: int, tensor: Tensor | None, source: int) -> Pending:
        """One rank's tensor to all."""
        if tensor is None:
            how = self._boundary
            tensor = torch.empty(how.shape, dtype=how.dtype, device=how.device)
        sent = tensor.contiguous()
        return Pending(self._start(position, lambda: (self._collectives.broadcast(sent, source),)))

    def _sum(self, position: int, tensor: Tensor, rank: int, key: Key, desk: Desk) -> None:
        """The sum of all ranks' tensors, for one of them."""
        mine = self._rank == rank

        def work() -> tuple[Tensor | None]:
            summed = self._collectives.sum_to(tensor, rank)
            return (summed if mine else None,)

        started = self._start(position, work)
        if mine:
            desk.put(key, Pending(started))

    def _send_hidden(self, position: int, op: Op, desk: Desk) -> None:
        own = desk.take((Kind.F, NO_STAGE, op.micro)) if self._rank == self._last_rank else None
        desk.put((Kind.BCAST_H, op.stage, op.micro), self._spread(position, own, self._last_rank))

    def _score(self, position: int, op: Op, desk: Desk) -> None:
        hidden = desk.take((Kind.BCAST_H, op.stage, op.micro))
        pull = self._trains and not self._late
        scores = self._part.score(op.micro, hidden, desk.targets(op.micro), pull, keep=self._trains)
        desk.put((Kind.S, op.stage, op.micro), scores)

    def _sum_scores(self, position: int, op: Op, desk: Desk) -> None:
        scores: Scores = desk.take((Kind.S, op.stage, op.micro))

        mine = self._rank == self._last_rank

        def work() -> tuple[Scores, Tensor | None]:
            whole = scores.whole(self._collectives)
            if scores.pulls is None:
                return whole, None
            pulled = self._collectives.sum_to(self._part.pull(scores, whole), self._last_rank)
            return whole, pulled.reshape(self._boundary.shape) if mine else None

        started = self._start(position, work)
        if not self._trains:
            self._unscored.append(Pending(started))
            return
        desk.put((Kind.REDUCE_S, op.stage, op.micro), Pending(started))
        if mine and not self._late:
            desk.put((Kind.B, self._last, op.micro), Pending(started, 1))

    def _gradients(self, position: int, op: Op, desk: Desk) -> None:
        whole: Scores = desk.take((Kind.REDUCE_S, op.stage, op.micro))
        self._note(whole)
        pulled = self._part.gradients(op.micro, whole, self._late)
        if pulled is not None:
            desk.put((Kind.T, op.stage, op.micro), pulled.reshape(self._boundary.shape))

    def _sum_gradients(self, position: int, op: Op, desk: Desk) -> None:
        pulled = desk.take((Kind.T, op.stage, op.micro))
        self._sum(position, pulled, self._last_rank, (Kind.B, self._last, op.micro), desk)

    def _embed(self, position: int, op: Op, desk: Desk) -> None:
        desk.put((Kind.IF, op.stage, op.micro), self._part.embed(desk.ids(op.micro)))

    def _sum_embedding(self, position: int, op: Op, desk: Desk) -> None:
        rows = desk.take((Kind.IF, op.stage, op.micro))
        self._sum(position, rows, self._first_rank, (Kind.F, self._first, op.micro), desk)

    def _send_gradient(self, position: int, op: Op, desk: Desk) -> None:
        own = desk.take((Kind.B, NO_STAGE, op.micro)) if self._rank == self._first_rank else None
        desk.put((Kind.BCAST_E, op.stage, op.micro), self._spread(position, own, self._first_rank))

    def _embed_backward(self, position: int, op: Op, desk: Desk) -> None:
        self._part.embed_backward(desk.ids(op.micro), desk.take((Kind.BCAST_E, op.stage, op.micro)))


@dataclass(frozen=True, eq=False)
class SplitEnds:
    """What a rank holds of embedding and head, for the executors of its plans."""

    part: Part
    held: dict[str, tuple[int, int]]
    """First row and number of rows of the whole, by name of each split parameter."""
    collectives: Collectives

    @classmethod
    def of(
        cls, modules: Mapping[int, Any], rows: Mapping[int, range], scale: float, vocabulary: int, device: torch.device
    ) -> SplitEnds:
        """Of decoder stages, of which the one in ``rows`` holds them; all ranks make theirs at the same time."""
        ((stage, mine),) = rows.items()
        table, head = modules[stage].embedding(), modules[stage].lm_head.weight
        padding = -1 if table.padding_idx is None else table.padding_idx
        named = modules[stage].named_parameters()
        held = {name: (mine.start, vocabulary) for name, each in named if each is head or each is table.weight}
        return cls(Part(head, table.weight, mine.start, padding, scale), held, Collectives(device))

    def vocabulary(self, plan: Plan, rank: int, boundary: Any) -> Vocabulary:
        """The actions of a plan's lane."""
        return Vocabulary(plan, rank, self.part, self.collectives, boundary, Clock.for_device(boundary.device))
