"""The messages of one rank: tensors that cross stage boundaries, and the buffers they take."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.needs import partners, predecessors
from penstock.core.op import SENDS, Kind, Op
from penstock.core.plan import Plan
from penstock.runtime.collectives import Pending
from penstock.runtime.transport import Links

Action = Callable[[], None]
Key = tuple[Kind, int, int]
"""What a tensor is for: the kind, stage and micro-batch of the op that consumes it."""


@dataclass(frozen=True)
class Boundary:
    """The tensor that crosses stage boundaries: the same for every micro-batch, but for the length of slices.

    Args:
        shape: (micro, tokens, ...).
        dtype, device: its type and where it lives.
        lengths: tokens of the slices of a sequence, where they are not equal.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    lengths: tuple[int, ...] = ()

    def buffer(self, micro: int) -> Callable[[], Tensor]:
        """What makes a buffer for that of a micro-batch."""
        tokens = self.lengths[micro % len(self.lengths) :][:1] if self.lengths else self.shape[1:2]
        shape = (*self.shape[:1], *tokens, *self.shape[2:])
        return partial(torch.empty_like, self._one.expand(shape), memory_format=torch.contiguous_format)

    @cached_property
    def _one(self) -> Tensor:
        """An element for models of buffers; ``empty_like`` takes half the time of ``empty``."""
        return torch.empty(1, dtype=self.dtype, device=self.device)


class Messages:
    """Sends and receives of one rank, and what waits to be sent or consumed.

    A receive takes its buffer when its op comes and the buffer goes to the op that consumes it; a sent tensor is let go
    when its link needs the room (``plan.in_flight``), when it has passed if the plan's messages hold their ranks, or at
    the end of the lane.

    Args:
        arrived: called when an op has got what it had to wait for, and begins.

    Attributes:
        inbox: what this rank has made for an op of its own, or to be sent; the former may be on its way.
        waiting: id of the op it waits for now, -1 if none.
        buffers, peak_buffers: boundary tensors alive now and the most at once, receives posted and sends held.
    """

    def __init__(
        self, plan: Plan, rank: int, links: Links | None, boundary: Boundary, arrived: Callable[[], None]
    ) -> None:
        self.plan, self._links, self._boundary, self._first = plan, links, boundary, int(plan.first[rank])
        self._arrived = arrived
        self.inbox: dict[Key, Any] = {}
        self.waiting = -1
        self.buffers = self.peak_buffers = 0
        self._receives: dict[Key, tuple[dist.Work | None, Tensor, int]] = {}
        self._sends: dict[int, tuple[dist.Work, Tensor]] = {}
        self._before = predecessors(plan)
        self.peer = plan.rank_of_op[partners(plan)]

    def _key(self, op: Op) -> Key:
        """What a message brings, by the op that consumes it."""
        placement = self.plan.placement
        match op.kind:
            case Kind.SEND_F:
                return Kind.F, placement.next[op.stage], op.micro
            case Kind.SEND_B:
                return Kind.B, placement.prev[op.stage], op.micro
            case _:
                return Kind.F if op.kind == Kind.RECV_F else Kind.B, op.stage, op.micro

    def _outgoing(self, key: Key, stage: int) -> Tensor:
        """The tensor of a send, fit to be sent."""
        tensor, dtype = self.inbox.pop(key), self._boundary.dtype
        if tensor.dtype is not dtype:
            raise ValueError(f"stage {stage} gave {tensor.dtype}, but the pipeline carries {dtype}")
        return tensor if tensor.is_contiguous() else tensor.contiguous()

    def send(self, row: int, op: Op) -> Action:
        """The bound action of a send, op id ``row``."""
        (to, tag), before, blocking = self._way(row, op), int(self._before[row]), self.plan.blocking
        key, stage, sends = self._key(op), op.stage, self._sends
        assert self._links is not None
        start, peer = self._links.starter(True, to, self._boundary.device)

        def action() -> None:
            if before in sends:
                self._release(before)
            tensor = self._outgoing(key, stage)
            sends[row] = start([tensor], peer, tag), tensor
            self._count(1)
            if blocking:
                self._release(row)

        return action

    def receive(self, row: int, op: Op) -> Action:
        """The bound action of a receive."""
        (of, tag), key, blocking = self._way(row, op), self._key(op), self.plan.blocking
        empty, receives = self._boundary.buffer(op.micro), self._receives
        assert self._links is not None
        start, peer = self._links.starter(False, of, self._boundary.device)

        def action() -> None:
            buffer = empty()
            work = start([buffer], peer, tag)
            self._count(1)
            if blocking:
                self.wait(work, row)
            receives[key] = None if blocking else work, buffer, row

        return action

    def batch(self, row: int, ops: list[Op]) -> Action:
        """The bound action of messages posted together, the first of them op id ``row``; the rank goes on when all have
        passed."""
        ways = [(op.kind in SENDS, *self._way(row + k, op)) for k, op in enumerate(ops)]
        keys, links = [self._key(op) for op in ops], self._links
        assert links is not None

        def action() -> None:
            tensors = [
                self._outgoing(key, op.stage) if op.kind in SENDS else self._boundary.buffer(op.micro)()
                for key, op in zip(keys, ops, strict=True)
            ]
            works = links.batch(tensors, ways)
            self._count(len(ops))
            for k, work in enumerate(works):
                self.wait(work, row + k)
            for k, op in enumerate(ops):
                if op.kind in SENDS:
                    self.buffers -= 1
                else:
                    self._receives[keys[k]] = (None, tensors[k], row + k)

        return action

    def take(self, key: Key) -> Any:
        """What an op consumes, handed over on this rank or received, waiting for it if need be."""
        posted = self._receives.pop(key, None)
        if posted is None:
            value = self.inbox.pop(key)
            if not isinstance(value, Pending):
                return value
            self.waiting = self._first + value.started.position
            value = value.take()
            self.waiting = -1
        else:
            work, value, row = posted
            if work is not None:
                self.wait(work, row)
            self.buffers -= 1
        self._arrived()
        return value

    def wait(self, work: dist.Work, row: int) -> None:
        """Wait for work on behalf of an op."""
        self.waiting = row
        work.wait()
        self.waiting = -1

    def _release(self, row: int) -> None:
        """Let a sent tensor go, waiting until it has left."""
        work, _ = self._sends.pop(row)
        self.wait(work, row)
        self.buffers -= 1

    def _count(self, change: int) -> None:
        self.buffers += change
        if self.buffers > self.peak_buffers:
            self.peak_buffers = self.buffers

    def _way(self, row: int, op: Op) -> tuple[int, int]:
        """The rank at the other end of a message, and the tag."""
        kind, stage, micro = self._key(op)
        return int(self.peer[row]), (int(kind) * self.plan.placement.stages + stage) * self.plan.micros + micro

    def drop(self, kept: Collection[int]) -> None:
        """Take back what was sent and received for nothing, all but the receives at some places of the lane."""
        for key, (work, _, row) in list(self._receives.items()):
            if row - self._first not in kept:
                if work is not None:
                    self.wait(work, row)
                del self._receives[key]
                self.buffers -= 1
        self.finish_sends()
        self.inbox.clear()

    def finish_sends(self) -> None:
        """Let all sent tensors go."""
        for row in list(self._sends):
            self._release(row)
