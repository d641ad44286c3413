"""Forwards that keep their input alone, or what is dear to make, and run once more before the backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.runtime.stage import Stage

_ATTENTION = [f"_scaled_dot_product_{which}_attention" for which in ("flash", "efficient", "cudnn", "fused")]
_NAMES = ("mm", "addmm", "bmm", "baddbmm", *_ATTENTION, "_scaled_dot_product_flash_attention_for_cpu")
DEAR = frozenset(getattr(torch.ops.aten, name).default for name in _NAMES if hasattr(torch.ops.aten, name))
"""Operations whose results a selective recompute keeps: matrix products and attention. What else a layer does
(norms, activation functions, rotations, residual sums) is made again (Wan et al. 2025, arXiv:2503.01328, 4.2)."""


class _Kept(NamedTuple):
    """What is there of a micro-batch between ``F`` and ``R``."""

    x: Tensor
    target: Tensor | None
    random: list[Tensor]
    dear: list[tuple[Any, Any]]
    """Operations and their results, in order; empty where only the input is kept."""


class Recompute:
    """The micro-batches of one stage that are recomputed: what is kept of each between ``F`` and ``R``.

    The second forward sees the random numbers of the first, and those of others stay as they are.

    Args:
        stage: runs both forwards.
        selective: keep the results of ``DEAR`` operations too, so that the second forward need not run these. None of
            them may draw random numbers (attention without dropout).
    """

    def __init__(self, stage: Stage, selective: bool = False) -> None:
        self.stage, self.selective = stage, selective
        self._kept: dict[int, _Kept] = {}

    def forward(self, micro: int, x: Tensor, target: Tensor | None = None) -> Tensor:
        """F without a graph; the loss counts here, once."""
        keep = _Keep() if self.selective else None
        self._kept[micro] = _Kept(x, target, _random_state(x.device), keep.found if keep else [])
        if keep is None:
            with torch.no_grad():
                return self.stage.evaluate(micro, x, target)
        if not self.stage.first:
            x.requires_grad_()  # as in R: attention gives other statistics where no gradient is asked for
        with saved_tensors_hooks(_nothing, _never), keep:
            y = self.stage.evaluate(micro, x, target).detach()
        if self.stage.last:
            self.stage.losses[-1] = self.stage.losses[-1].detach()
        return y

    def again(self, micro: int) -> None:
        """R: the forward with its graph."""
        x, target, state, dear = self._kept.pop(micro)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.set_rng_state(state[0])
            if devices:
                torch.cuda.set_rng_state(state[1], x.device)
            losses = len(self.stage.losses)
            with _Replay(dear) if self.selective else nullcontext():
                self.stage.forward(micro, x, target)
            del self.stage.losses[losses:]

    def forget(self) -> None:
        """Drop the inputs of forwards that will be run again."""
        self._kept.clear()

    def held(self, micro: int) -> Iterator[Tensor]:
        """What a micro-batch has kept for ``R`` by itself: not the data, of which there is one copy in any case."""
        kept = self._kept[micro]
        if not self.stage.first:
            yield kept.x
        for _, found in kept.dear:
            yield from (each for each in (found if isinstance(found, tuple) else (found,)) if isinstance(each, Tensor))

    def held_bytes(self, micro: int) -> int:
        """Bytes of that, with the state of random generators, each storage counted once."""
        tensors = [*self.held(micro), *self._kept[micro].random]
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())

    def has(self, micro: int) -> bool:
        """Whether a micro-batch waits for its ``R``."""
        return micro in self._kept

    def drop(self, micro: int) -> None:
        """Let go what was kept of a micro-batch that will not be made again."""
        del self._kept[micro]


class _Keep(TorchDispatchMode):
    """Notes results of dear operations, without their graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in DEAR:
            self.found.append((func, _detached(out)))
        return out


class _Replay(TorchDispatchMode):
    """Gives the noted results in place of running the operations again; each is let go as it is used."""

    def __init__(self, found: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self._left = found
        self._left.reverse()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in DEAR:
            return func(*args, **(kwargs or {}))
        noted, out = self._left.pop() if self._left else (None, None)
        if noted is not func:
            raise RuntimeError(f"the second forward runs {func} where the first ran {noted}; take full recompute")
        return out


def _detached(out: Any) -> Any:
    if isinstance(out, tuple):
        return tuple(map(_detached, out))
    return out.detach() if isinstance(out, Tensor) else out


def _nothing(_: Tensor) -> None:
    """In place of what a graph would save that is never used."""


def _never(_: None) -> Tensor:
    raise RuntimeError("the graph of a forward that will be made again has no backward")


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the generators a forward may draw from."""
    cpu = torch.get_rng_state()
    return [cpu, torch.cuda.get_rng_state(device)] if device.type == "cuda" else [cpu]
