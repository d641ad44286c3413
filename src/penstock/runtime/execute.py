"""The executor: runs one rank's lane of a plan, op by op, as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from penstock.core.op import AMONG_RANKS, HOST, VOCABULARY, Kind, Op
from penstock.core.plan import Plan
from penstock.core.play import batches
from penstock.runtime.activations import Activations
from penstock.runtime.clock import Clock
from penstock.runtime.faults import FOR_NORM, OpError, whereabouts
from penstock.runtime.keeping import Keeping
from penstock.runtime.messages import Action, Boundary, Messages
from penstock.runtime.stage import Stage
from penstock.runtime.sums import GradientSums
from penstock.runtime.transport import Links
from penstock.runtime.validate import Head
from penstock.runtime.vocabulary import Desk, Vocabulary

Half = tuple[Callable[[], Any], Callable[[Any], None]]
"""A forward or a backward in two parts: take what it needs, waiting for it; work on that."""
Overlap = Callable[[Action, Action], None]
"""Runs the forward and the backward of a block; what they need has arrived."""


def in_turn(forward: Action, backward: Action) -> None:
    """One after the other."""
    forward()
    backward()


class Executor:
    """Runs the lane of one rank again and again.

    The lane is turned into a list of bound actions once; a step walks the list.

    Args:
        plan: legal, with sends, the same object on all ranks.
        rank: whose lane.
        stages: the stages of this rank by virtual stage number.
        links: None where the plan has one rank.
        boundary: what messages carry.
        step: called for each ``STEP`` or ``UPDATE`` with its stage.
        vocabulary: what runs vocabulary passes; needed where the plan has some.
        overlap: runs the two halves of each fused block.
        settle: called at the place ``engine.cut`` gives; if it says false, the ops before that place are run again.
        keeping: what recompute keeps and how much goes to the host.

    Attributes:
        position: place in the lane of the op at work; -1 between steps.
        messages: its sends and receives.
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
        overlap: Overlap = in_turn,
        settle: Callable[[], bool] | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.plan, self.rank, self.stages = plan, rank, stages
        self.position = -1
        self.messages = Messages(plan, rank, links, boundary, self._begin)
        self.clock = Clock.for_device(boundary.device)
        self._step, self._vocabulary, self._settle, self._overlap = step, vocabulary, settle, overlap
        self._inputs: Sequence[Tensor] = ()
        self._targets: Sequence[Tensor] = ()
        self._begun = self.clock.stamp()
        if plan.placement.ranks > 1 and not plan.lowered:
            raise ValueError(f"plan {plan.name!r} has no sends; give it some with add_sends")
        self._sums: GradientSums | None = None
        if (plan.ops[:, 0] == Kind.REDUCE_GRAD).any():
            modules = {stage: held.module for stage, held in stages.items()}
            self._sums = GradientSums(plan, rank, modules, self.clock)
        self.activations = Activations(plan, rank, stages, self.clock, self._begin, keeping)
        blocks = self._blocks()
        self._longer = [(row, size) for row, size in blocks if size > 1]
        self._actions = [action for block in blocks for action in self._block(*block)]
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
        self.messages.buffers = self.messages.peak_buffers = 0
        try:
            with torch.set_grad_enabled(self.plan.trains):
                self._run_head()
                self._walk(self._actions[self._head.ops :], self._head.ops)
                self.messages.finish_sends()
                self._finish_sums()
                self._stamp_blocks()
                collected = self._vocabulary.finish().items() if self._vocabulary is not None else ()
                for position, ended in (*self.activations.finish(), *collected):
                    self.clock.ends[position] = ended
        except Exception as error:
            raise OpError(self.rank, self.where(), error) from error
        self.position, self._inputs, self._targets = -1, (), ()

    @property
    def peak_buffers(self) -> int:
        """Most boundary tensors alive at once in the last step, receives posted and sends held."""
        return self.messages.peak_buffers

    def _run_head(self) -> None:
        """The ops before the last step is settled, again if it did not stand."""
        actions = self._actions[: self._head.ops]
        self._walk(actions)
        if self._settle is None:
            return
        self.messages.waiting = FOR_NORM
        stands, self.messages.waiting = self._settle(), -1
        if stands:
            return
        for place in self._head.lost:
            self._actions[place]()
        self.messages.drop(self._head.open)
        if self._vocabulary is not None:
            self._vocabulary.finish()
        self.activations.forget()
        for stage in self.stages.values():
            stage.forget()
        self._walk([_nothing if n in self._head.open else action for n, action in enumerate(actions)])

    def _walk(self, actions: Sequence[Action], at: int = 0) -> None:
        """Run ops, the first of which stands at a place of the lane."""
        clock = self.clock
        stamp, starts, ends = clock.stamp, clock.starts, clock.ends
        if at == 0:
            starts.clear()
            ends.clear()
        ended = stamp()
        for position, action in enumerate(actions, at):
            self.position, self._begun = position, ended
            action()
            starts.append(self._begun)
            ended = stamp()
            ends.append(ended)

    def take_losses(self) -> list[Tensor]:
        """Losses of the micro-batches since the last call; empty on ranks without a last stage."""
        found = [loss for stage in self.stages.values() for loss in stage.losses]
        for stage in self.stages.values():
            stage.losses.clear()
        return found + (self._vocabulary.take_losses() if self._vocabulary is not None else [])

    def where(self) -> str:
        """The op at work and what it waits for, for people."""
        return whereabouts(self.plan, self.rank, self.position, self.messages.waiting)

    def _blocks(self) -> list[tuple[int, int]]:
        """Id of the first op and number of ops of all that starts and ends as one: single ops, fused blocks, batches of
        messages."""
        plan, found = self.plan, []
        row, end = map(int, plan.first[self.rank : self.rank + 2])
        behind = batches(plan)[:, 1]
        while row < end:
            size = 1 + max(int(plan.fused[row]), int(behind[row]))
            found.append((row, size))
            row += size
        return found

    def _block(self, row: int, size: int) -> list[Action]:
        """The bound actions of a block's ops: the first does it all."""
        ops = [self.plan.op(row + k) for k in range(size)]
        if size == 1:
            return [self._action(row, ops[0])]
        all_of_it = self._fused(*ops) if self.plan.fused[row] else self.messages.batch(row, ops)
        return [all_of_it, *[_nothing] * (size - 1)]

    def _action(self, row: int, op: Op) -> Action:
        """The bound action of one op."""
        match op.kind:
            case Kind.F | Kind.B | Kind.I:
                take, work = self._half(op)
                return lambda: work(take())
            case Kind.W:
                work, micro = self.stages[op.stage].backward_weight, op.micro
                return lambda: work(micro)
            case kind if kind == Kind.R or kind in HOST:
                return self.activations.action(row - int(self.plan.first[self.rank]), op)
            case Kind.SEND_F | Kind.SEND_B:
                return self.messages.send(row, op)
            case Kind.RECV_F | Kind.RECV_B:
                return self.messages.receive(row, op)
            case Kind.REDUCE_GRAD:
                assert self._sums is not None
                begin = self._sums.start
                return lambda: begin(row, op.stage)
            case Kind.STEP:
                return lambda: self._finish_step(op.stage)
            case Kind.UPDATE if self._step is not None:
                return partial(self.stages[op.stage].update, partial(self._step, op.stage))
            case kind if kind in VOCABULARY + AMONG_RANKS and self._vocabulary is not None:
                data = (lambda micro: self._inputs[micro], lambda micro: self._targets[micro])
                desk = Desk(self.messages.inbox.__setitem__, self.messages.take, *data)
                return self._vocabulary.action(row - int(self.plan.first[self.rank]), op, desk)
            case Kind.UNSHARD | Kind.RESHARD:
                raise ValueError(f"{op} cannot be run: ranks hold whole weights, sharded over no replicas; simulate it")
            case _:
                raise ValueError(f"plan {self.plan.name!r}: {op} cannot be run yet; penstock simulate can show it")

    def _half(self, op: Op) -> Half:
        return self._forward(op) if op.kind == Kind.F else self._backward(op)

    def _forward(self, op: Op) -> Half:
        stage, micro, after = self.stages[op.stage], op.micro, self.plan.placement.next[op.stage]
        run = self.activations.forward(op)
        key, out, inbox = (Kind.F, op.stage, micro), (Kind.F, after, micro), self.messages.inbox

        def work(x: Any) -> None:
            inbox[out] = run(micro, x)

        def work_last(x: Any) -> None:
            run(micro, x, self._targets[micro])

        take = (lambda: self._inputs[micro]) if stage.first else partial(self.messages.take, key)
        return take, work_last if stage.last else work

    def _backward(self, op: Op) -> Half:
        stage, micro, before = self.stages[op.stage], op.micro, self.plan.placement.prev[op.stage]
        run = stage.backward if op.kind == Kind.B else stage.backward_input
        key, out, inbox = (Kind.B, op.stage, micro), (Kind.B, before, micro), self.messages.inbox

        def work(of_output: Any) -> None:
            grad = run(micro, of_output)
            if not stage.first:
                if grad is None:
                    raise ValueError(
                        f"stage {op.stage} gave no gradient of its input; is every weight before it frozen?"
                    )
                inbox[out] = grad

        take = _nothing if stage.last else partial(self.messages.take, key)
        return self.activations.arrived(op, take), work

    def _begin(self) -> None:
        """The op at work begins now: it has waited until now."""
        self._begun = self.clock.stamp()

    def _fused(self, forward: Op, backward: Op) -> Action:
        (take_x, run_forward), (take_grad, run_backward) = self._half(forward), self._half(backward)

        def action() -> None:
            x, grad = take_x(), take_grad()
            self._overlap(partial(run_forward, x), partial(run_backward, grad))

        return action

    def _finish_sums(self) -> None:
        for row, ended in self._sums.finish(self.messages.wait) if self._sums is not None else ():
            self.clock.ends[row - int(self.plan.first[self.rank])] = ended

    def _stamp_blocks(self) -> None:
        """All ops of a block start and end with it."""
        first = int(self.plan.first[self.rank])
        for row, size in self._longer:
            for stamps in (self.clock.starts, self.clock.ends):
                stamps[row - first : row - first + size] = [stamps[row - first]] * size

    def _finish_step(self, stage: int) -> None:
        self.messages.finish_sends()
        self._finish_sums()
        self._begin()
        if self._step is not None:
            self._step(stage)


def _nothing() -> None:
    """For an op that its block has done."""
