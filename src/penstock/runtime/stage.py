"""One virtual stage at work: forwards, backwards whole or split, and what lives between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from penstock.core.slicing import by_mean
from penstock.runtime.split import WeightQueue, Work, backward, run_pending, split_modules
from penstock.runtime.stale import Stale


class Stage:
    """A module with the micro-batches it is working on.

    Args:
        module: ``module(x)`` gives the output; on the last stage ``module(x, target)`` the mean loss of the
            micro-batch. Its ``queue`` attribute, if it has one, is the queue its layers split through. Its
            ``begin(micro, tokens)``, if it has one, is told which micro-batch comes next.
        first, last: whether it takes the data and whether it gives the loss.
        carries: shape of the tensor that crosses stage boundaries.
        scale: factor of each micro-batch's loss, 1/m for the mean over the batch.
        lengths: tokens of the slices of a sequence, where they are not equal. A micro-batch is one of them, and its
            loss counts by its tokens.
        split: make a module without ``queue`` split its backward; not needed where only whole backwards run.
    """

    def __init__(
        self,
        module: nn.Module,
        first: bool,
        last: bool,
        carries: tuple[int, ...],
        scale: float,
        split: bool = True,
        lengths: tuple[int, ...] = (),
    ) -> None:
        self.module, self.first, self.last = module, first, last
        queue = getattr(module, "queue", None)
        self.queue: WeightQueue = queue or WeightQueue()
        self.unsplit: list[str] = list(getattr(module, "unsplit", []))
        if split and queue is None:
            self.unsplit = split_modules(module, self.queue)
        self.losses: list[Tensor] = []
        self._begin: Callable[[int, int], None] | None = getattr(module, "begin", None)
        self.stale: Stale | None = None
        self._carries, self._lengths = torch.Size(carries), lengths
        self._weight = by_mean(lengths, len(lengths)).tolist() if lengths else []
        self._scale = torch.tensor(scale, dtype=torch.float64)
        self._kept: dict[int, tuple[Tensor | None, GradientEdge | Tensor | None]] = {}
        self._pending: dict[int, list[Work]] = {}

    def forward(self, micro: int, x: Tensor, target: Tensor | None = None) -> Tensor:
        """F: the output to pass on; keeps the graph for the backward but not the output itself."""
        leaf = None if self.first else x.requires_grad_()
        y = self._called(micro, x, target)
        if self.last:
            self.losses.append(self._weighed(y.detach(), micro))
            self._kept[micro] = (leaf, y)
            return y
        if self._lengths or y.shape != self._carries:
            self._check(y, micro)
        self._kept[micro] = (leaf, _edge(y))
        return y.detach()

    def evaluate(self, micro: int, x: Tensor, target: Tensor | None = None) -> Tensor:
        """F of a plan without backwards: keeps nothing."""
        y = self._called(micro, x, target)
        if self.last:
            self.losses.append(self._weighed(y, micro))
        else:
            self._check(y, micro)
        return y

    def _called(self, micro: int, x: Tensor, target: Tensor | None) -> Tensor:
        arguments = (x,) if target is None else (x, target)
        if self.stale is not None:
            return self.stale.run(micro, *arguments)
        if self._begin is not None:
            self._begin(micro, x.shape[1])
        y: Tensor = self.module(*arguments)
        return y

    def backward(self, micro: int, grad: Tensor | None) -> Tensor | None:
        """B: adds the gradients of the weights, gives that of the input (None on the first stage)."""
        leaf, root = self._kept.pop(micro)
        found = backward(root, self._weighed(self._factor(root), micro) if grad is None else grad, leaf)
        if self.stale is not None:
            self.stale.done(micro)
        return found

    def backward_input(self, micro: int, grad: Tensor | None) -> Tensor | None:
        """I: gives the gradient of the input and keeps what ``W`` needs."""
        self.queue.pending = self._pending[micro] = []
        try:
            return self.backward(micro, grad)
        finally:
            self.queue.pending = None

    def backward_weight(self, micro: int) -> None:
        """W: adds the gradients of the weights."""
        run_pending(self._pending.pop(micro))

    def update(self, step: Callable[[], None]) -> None:
        """UPDATE: ``step`` applies the gradients that have come since the last one."""
        if self.stale is None:
            raise ValueError("the stage keeps no versions of its weights, so it cannot update while others run")
        self.stale.collect()
        step()
        self.stale.advance()

    def forget(self) -> None:
        """Drop what forwards have left for backwards still to come, and their losses: they will be run again."""
        self._kept.clear()
        self.losses.clear()

    def pending_bytes(self, micro: int) -> int:
        """Bytes that ``W`` of a micro-batch still needs, each storage counted once."""
        seen: dict[int, int] = {}
        for _, arguments in self._pending.get(micro, []):
            for value in arguments:
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return sum(seen.values())

    def _factor(self, loss: Tensor | GradientEdge | None) -> Tensor:
        assert isinstance(loss, Tensor)
        if self._scale.dtype != loss.dtype or self._scale.device != loss.device:
            self._scale = self._scale.to(loss)
        return self._scale

    def carries(self, micro: int) -> torch.Size:
        """Shape of what crosses stage boundaries of a micro-batch."""
        if not self._lengths:
            return self._carries
        return torch.Size((self._carries[0], self._lengths[micro % len(self._lengths)], *self._carries[2:]))

    def _weighed(self, loss: Tensor, micro: int) -> Tensor:
        """A loss, or its gradient, by the tokens it is the mean of."""
        return loss * self._weight[micro % len(self._weight)] if self._weight else loss

    def _check(self, y: Tensor, micro: int) -> None:
        if y.shape != self.carries(micro):
            raise ValueError(
                f"the stage gave {tuple(y.shape)}, but the pipeline carries {tuple(self.carries(micro))}; "
                "all micro-batches and boundaries must have one shape"
            )


def _edge(y: Tensor) -> GradientEdge | None:
    """What keeps the graph of an output without the output; ``get_gradient_edge`` where gradients are on, in half its
    time."""
    node = y.grad_fn
    if node is None:
        return get_gradient_edge(y) if y.requires_grad else None
    owns_none = isinstance(node, torch._C._FunctionBase)  # a Function's node does not keep its graph
    token = y.view_as(y).grad_fn if owns_none else None
    return GradientEdge(node, y.output_nr, token)
