"""Forwards that keep their input alone, and run once more before the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.runtime.stage import Stage


class Recompute:
    """The micro-batches of one stage that are recomputed: what is kept of each between ``F`` and ``R``.

    The second forward sees the random numbers of the first, and those of others stay as they are.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._kept: dict[int, tuple[Tensor, Tensor | None, list[Tensor]]] = {}

    def forward(self, micro: int, x: Tensor, target: Tensor | None = None) -> Tensor:
        """F without a graph: keeps the input (and target); the loss counts here, once."""
        self._kept[micro] = (x, target, _random_state(x.device))
        with torch.no_grad():
            return self.stage.evaluate(micro, x, target)

    def again(self, micro: int) -> None:
        """R: the forward with its graph."""
        x, target, state = self._kept.pop(micro)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.set_rng_state(state[0])
            if devices:
                torch.cuda.set_rng_state(state[1], x.device)
            losses = len(self.stage.losses)
            self.stage.forward(micro, x, target)
            del self.stage.losses[losses:]

    def forget(self) -> None:
        """Drop the inputs of forwards that will be run again."""
        self._kept.clear()


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the generators a forward may draw from."""
    cpu = torch.get_rng_state()
    return [cpu, torch.cuda.get_rng_state(device)] if device.type == "cuda" else [cpu]
