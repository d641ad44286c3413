"""The executor: runs one rank's lane of a plan, op by op, as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.needs import partners, predecessors
from penstock.core.op import AMONG_RANKS, VOCABULARY, Kind, Op
from penstock.core.plan import Plan
from penstock.runtime.clock import Clock
from penstock.runtime.collectives import Pending
from penstock.runtime.faults import FOR_NORM, OpError, whereabouts
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Boundary, Links
from penstock.runtime.validate import Head
from penstock.runtime.vocabulary import Desk, Vocabulary

Action = Callable[[], None]


class Executor:
    """Runs the lane of one rank again and again.

    The lane is turned into a list of bound actions once; a step walks the list. A receive takes its buffer when its op
    comes and the buffer goes to the op that consumes it; a sent tensor is let go when its link needs the room
    (``plan.in_flight``) or at the end of the lane.

    Args:
        plan: legal, with sends, the same object on all ranks.
        rank: whose lane.
        stages: the stages of this rank by virtual stage number.
        links: None where the plan has one rank.
        boundary: what messages carry.
        step: called for each ``STEP`` or ``UPDATE`` with its stage.
        vocabulary: what runs vocabulary passes; needed where the plan has some.
        settle: called at the place ``engine.cut`` gives; if it says false, the ops before that place are run again.

    Attributes:
        position: place in the lane of the op at work; -1 between steps.
        waiting: id of the message or collective it waits for now, -1 if none.
        peak_buffers: most boundary tensors alive at once in the last step, receives posted and sends held.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        stages: dict[int, Stage],
        links: Links | None,
        boundary: Boundary,
        step: Callable[[int], None] | None = None,
        vocabulary: Vocabulary | None = None,
        settle: Callable[[], bool] | None = None,
    ) -> None:
        self.plan, self.rank, self.stages, self._links, self._boundary = plan, rank, stages, links, boundary
        self.position, self.waiting = -1, -1
        self.peak_buffers = self._buffers = 0
        self.clock = Clock.for_device(boundary.device)
        self._step, self._vocabulary, self._settle = step, vocabulary, settle
        self._inputs: Sequence[Tensor] = ()
        self._targets: Sequence[Tensor] = ()
        self._inbox: dict[tuple[Kind, int, int], Tensor | Pending] = {}
        self._receives: dict[tuple[Kind, int, int], tuple[dist.Work, Tensor, int]] = {}
        self._sends: dict[int, tuple[dist.Work, Tensor]] = {}
        self._begun = self.clock.stamp()
        if plan.placement.ranks > 1 and not plan.lowered:
            raise ValueError(f"plan {plan.name!r} has no sends; give it some with add_sends")
        partner = partners(plan)
        self._before = predecessors(plan)
        self._peer = plan.rank_of_op[partner]
        first = int(plan.first[rank])
        self._actions = [self._action(first + place, op) for place, op in enumerate(plan.lanes[rank])]
        self._head = Head.of(plan, rank) if settle is not None else Head()

    def run(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """One step.

        Args:
            inputs: what the first stages take, one per micro-batch; may be empty on ranks without one.
            targets: what the last stages take, likewise.

        Raises:
            OpError: an op failed; names rank and op.
        """
        self._inputs, self._targets = inputs, targets
        self._buffers = self.peak_buffers = 0
        try:
            with torch.set_grad_enabled(self.plan.trains):
                self._run_head()
                self._walk(self._actions[self._head.ops :], self._head.ops)
                self._finish_sends()
                if self._vocabulary is not None:
                    for position, ended in self._vocabulary.finish().items():
                        self.clock.ends[position] = ended
        except Exception as error:
            raise OpError(self.rank, self.where(), error) from error
        self.position, self._inputs, self._targets = -1, (), ()

    def _run_head(self) -> None:
        """The ops before the last step is settled, again if it did not stand."""
        actions = self._actions[: self._head.ops]
        self._walk(actions)
        if self._settle is None:
            return
        self.waiting = FOR_NORM
        stands, self.waiting = self._settle(), -1
        if stands:
            return
        for place in self._head.lost:
            self._actions[place]()
        first = int(self.plan.first[self.rank])
        for key, (work, _, row) in list(self._receives.items()):
            if row - first not in self._head.open:
                if not self.plan.blocking:
                    self._wait(work, row)
                del self._receives[key]
                self._buffers -= 1
        self._finish_sends()
        self._inbox.clear()
        if self._vocabulary is not None:
            self._vocabulary.finish()
        for stage in self.stages.values():
            stage.forget()
        self._walk([(lambda: None) if n in self._head.open else action for n, action in enumerate(actions)])

    def _walk(self, actions: Sequence[Action], at: int = 0) -> None:
        """Run ops, the first of which stands at a place of the lane."""
        clock = self.clock
        stamp, starts, ends = clock.stamp, clock.starts, clock.ends
        if at == 0:
            starts.clear()
            ends.clear()
        for position, action in enumerate(actions, at):
            self.position = position
            self._begun = stamp()
            action()
            starts.append(self._begun)
            ends.append(stamp())

    def take_losses(self) -> list[Tensor]:
        """Losses of the micro-batches since the last call; empty on ranks without a last stage."""
        found = [loss for stage in self.stages.values() for loss in stage.losses]
        for stage in self.stages.values():
            stage.losses.clear()
        return found + (self._vocabulary.take_losses() if self._vocabulary is not None else [])

    def where(self) -> str:
        """The op at work and what it waits for, for people."""
        return whereabouts(self.plan, self.rank, self.position, self.waiting)

    def _action(self, row: int, op: Op) -> Action:
        """The bound action of one op."""
        match op.kind:
            case Kind.F:
                return self._forward(op)
            case Kind.B | Kind.I:
                return self._backward(op)
            case Kind.W:
                work, micro = self.stages[op.stage].backward_weight, op.micro
                return lambda: work(micro)
            case Kind.SEND_F | Kind.SEND_B:
                return self._send(row, op)
            case Kind.RECV_F | Kind.RECV_B:
                return self._receive(row, op)
            case Kind.STEP:
                return lambda: self._finish_step(op.stage)
            case Kind.UPDATE if self._step is not None:
                return partial(self.stages[op.stage].update, partial(self._step, op.stage))
            case kind if kind in VOCABULARY + AMONG_RANKS and self._vocabulary is not None:
                data = (lambda micro: self._inputs[micro], lambda micro: self._targets[micro])
                desk = Desk(self._inbox.__setitem__, self._take, *data)
                return self._vocabulary.action(row - int(self.plan.first[self.rank]), op, desk)
            case _:
                raise ValueError(f"plan {self.plan.name!r}: {op} cannot be run yet; penstock simulate can show it")

    def _forward(self, op: Op) -> Action:
        stage, micro, after = self.stages[op.stage], op.micro, self.plan.placement.next[op.stage]
        work = stage.forward if self.plan.trains else stage.evaluate
        key, out = (Kind.F, op.stage, micro), (Kind.F, after, micro)

        def action() -> None:
            x = self._inputs[micro] if stage.first else self._take(key)
            if stage.last:
                work(micro, x, self._targets[micro])
            else:
                self._inbox[out] = work(micro, x)

        return action

    def _backward(self, op: Op) -> Action:
        stage, micro, before = self.stages[op.stage], op.micro, self.plan.placement.prev[op.stage]
        work = stage.backward if op.kind == Kind.B else stage.backward_input
        key, out = (Kind.B, op.stage, micro), (Kind.B, before, micro)

        def action() -> None:
            grad = work(micro, None if stage.last else self._take(key))
            if not stage.first:
                if grad is None:
                    raise ValueError(
                        f"stage {op.stage} gave no gradient of its input; is every weight before it frozen?"
                    )
                self._inbox[out] = grad

        return action

    def _send(self, row: int, op: Op) -> Action:
        placement, blocking = self.plan.placement, self.plan.blocking
        forward = op.kind == Kind.SEND_F
        key = (Kind.F, placement.next[op.stage], op.micro) if forward else (Kind.B, placement.prev[op.stage], op.micro)
        to, tag, before = int(self._peer[row]), self._tag(key), int(self._before[row])
        links, dtype = self._links, self._boundary.dtype
        assert links is not None

        def action() -> None:
            if before >= 0:
                self._release(before)
            tensor = self._take(key)
            if tensor.dtype is not dtype:
                raise ValueError(f"stage {op.stage} gave {tensor.dtype}, but the pipeline carries {dtype}")
            if not tensor.is_contiguous():
                tensor = tensor.contiguous()
            self._sends[row] = (links.send(tensor, to, tag), tensor)
            self._count(1)
            if blocking:
                self._release(row)

        return action

    def _receive(self, row: int, op: Op) -> Action:
        key = (Kind.F if op.kind == Kind.RECV_F else Kind.B, op.stage, op.micro)
        of, tag, blocking = int(self._peer[row]), self._tag(key), self.plan.blocking
        shape, dtype, device = self._boundary.shape, self._boundary.dtype, self._boundary.device
        links = self._links
        assert links is not None

        def action() -> None:
            buffer = torch.empty(shape, dtype=dtype, device=device)
            work = links.recv(buffer, of, tag)
            self._count(1)
            if blocking:
                self._wait(work, row)
            self._receives[key] = (work, buffer, row)

        return action

    def _take(self, key: tuple[Kind, int, int]) -> Any:
        """What an op consumes: handed over on this rank, or received or summed, waiting for it if need be."""
        posted = self._receives.pop(key, None)
        if posted is None:
            return self._handed(self._inbox.pop(key))
        work, buffer, row = posted
        if not self.plan.blocking:
            self._wait(work, row)
        self._begun = self.clock.stamp()
        self._buffers -= 1
        return buffer

    def _handed(self, value: Any) -> Any:
        if isinstance(value, Pending):
            self.waiting = int(self.plan.first[self.rank]) + value.started.position
            value = value.take()
            self.waiting = -1
            self._begun = self.clock.stamp()
        return value

    def _wait(self, work: dist.Work, row: int) -> None:
        self.waiting = row
        work.wait()
        self.waiting = -1

    def _release(self, row: int) -> None:
        """Let a sent tensor go, waiting until it has left."""
        work, _ = self._sends.pop(row)
        self._wait(work, row)
        self._buffers -= 1

    def _count(self, change: int) -> None:
        self._buffers += change
        if self._buffers > self.peak_buffers:
            self.peak_buffers = self._buffers

    def _tag(self, key: tuple[Kind, int, int]) -> int:
        kind, stage, micro = key
        return (int(kind) * self.plan.placement.stages + stage) * self.plan.micros + micro

    def _finish_sends(self) -> None:
        for row in list(self._sends):
            self._release(row)

    def _finish_step(self, stage: int) -> None:
        self._finish_sends()
        self._begun = self.clock.stamp()
        if self._step is not None:
            self._step(stage)
