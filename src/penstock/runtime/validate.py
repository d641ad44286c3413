"""Post-validation: optimizer steps taken before the norm over all ranks is known, and taken back where it demands it
(Qi et al. 2023, arXiv:2401.10241)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.plan import Plan
from penstock.engine.cut import cut
from penstock.runtime.optimizer import Optimizer


@dataclass(frozen=True)
class Head:
    """The ops of one lane that run before the last step is settled.

    Args:
        ops: how many.
        lost: places of receives behind them whose message is sent before the sender's own place: if heads are run
            again, the first of two such messages must be received for nothing.
        open: places of receives among them whose message comes later: they stay posted.
    """

    ops: int = 0
    lost: tuple[int, ...] = ()
    open: frozenset[int] = frozenset()

    @classmethod
    def of(cls, plan: Plan, rank: int) -> Head:
        """That of one rank."""
        found, first, end = cut(plan), int(plan.first[rank]), int(plan.first[rank + 1])
        lost, kept = ([int(row) - first for row in rows if first <= row < end] for rows in (found.lost, found.open))
        return cls(int(found.at[rank]) - first, tuple(lost), frozenset(kept))


class PostValidation:
    """The ``STEP`` of a rank's stages in a plan without barrier.

    A step goes ahead as if it needed no clipping, and the rank goes on with the forwards of the next. Meanwhile the
    norm is summed over the ranks. ``settle`` waits for it, before anything adds to the gradients again or anyone reads
    the weights for good. All ranks see the same norm, so all keep the step or all take it back: weights, moments and
    counts are put back from a copy, bit for bit, and the step is done again as with a barrier, from the gradients that
    were kept. The copy is made anew at each step; it takes as much memory as weights and moments.

    Args:
        optimizer: of this rank.
        settled: called once a step is final, while the optimizer has its figures, with whether it stood.

    Attributes:
        rollbacks: steps taken back so far.
        held_bytes: size of the copy.
    """

    def __init__(self, optimizer: Optimizer, settled: Callable[[bool], None] | None = None) -> None:
        self._optimizer, self._settled = optimizer, settled
        self._live: list[Tensor] = []
        self._copy: list[Tensor] = []
        self._sums: Tensor | None = None
        self._work: dist.Work | None = None
        self._stages: list[int] = []
        self.rollbacks = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the copy; 0 before the first step."""
        return sum(tensor.nbytes for tensor in self._copy)

    def step(self, stage: int) -> None:
        """``STEP`` of one stage; the first since ``settle`` also sends off this rank's part of the norm."""
        if self._sums is None:
            self._sums = self._optimizer.local_sums()
            if dist.is_initialized() and dist.get_world_size() > 1:
                self._work = dist.all_reduce(self._sums, async_op=True)
            self._save()
        self._stages.append(stage)
        self._optimizer.apply(stage)

    def settle(self) -> bool:
        """Wait for the norm of the step under way, if there is one; false if the step was taken back, so that what
        has been computed with its weights is wrong.

        Raises:
            FloatingPointError: the norm is not finite, and the step may not be left out; weights are as before it.
        """
        if self._sums is None:
            return True
        if self._work is not None:
            self._work.wait()
        sums, self._sums, self._work = self._sums, None, None
        stands = self._judged(sums)
        for stage in self._stages:
            self._optimizer.clear(stage)
        self._stages.clear()
        if self._settled is not None:
            self._settled(stands)
        return stands

    def _judged(self, sums: Tensor) -> bool:
        optimizer = self._optimizer
        try:
            factor = optimizer.judge(sums)
        except FloatingPointError:
            self._restore()
            raise
        if factor == 1.0:
            return True
        self._restore()
        self.rollbacks += 1
        optimizer.scale(factor)
        for stage in self._stages if factor else ():
            optimizer.apply(stage)
        return False

    def _save(self) -> None:
        if not self._live:
            self._live = self._optimizer.changed_by_step()
            self._copy = [torch.empty_like(tensor) for tensor in self._live]
        if self._live:
            torch._foreach_copy_(self._copy, self._live)

    def _restore(self) -> None:
        if self._live:
            torch._foreach_copy_(self._live, self._copy)
