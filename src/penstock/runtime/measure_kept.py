"""What recompute keeps and copies to the host move, as shares of what a forward saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from penstock.core.op import Kind, Op
from penstock.runtime.activations import Activations

PLACE = 0
"""Stands for the place in the lane of a copy whose time is of no interest."""


def probe_shares(
    activations: Activations,
    saved: Mapping[int, tuple[float, float]],
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> dict[int, tuple[float, float]]:
    """``Costs.kept_share`` and ``Costs.host_share`` of each stage of a rank: 0 and 1 where nothing is made again or
    moves.

    Runs a micro-batch that is made again, and one that moves, through the forward, and leaves nothing behind. Where
    micro-batches of a stage differ in whether they are made again, the second share is that of the first that moves.

    Args:
        activations: of the rank, at rest.
        saved: per stage, what ``measure.probe`` gives.
        inputs, targets: of micro-batches, the first of which serves.
    """
    shares = {}
    for s, stage in activations.stages.items():
        like = next((param for param in stage.module.parameters()), torch.empty(0))
        x = inputs[0] if stage.first else torch.zeros(stage._carries, dtype=like.dtype, device=like.device)
        shares[s] = _shares(activations, s, x, targets[0] if stage.last else None, saved[s][0])
    return shares


def _shares(
    activations: Activations, stage: int, x: Tensor, target: Tensor | None, saved_bytes: float
) -> tuple[float, float]:
    again, host = activations.again.get(stage), activations.hosts.get(stage)
    kept_share, host_share = 0.0, 1.0
    if again is not None and saved_bytes:
        again.forward(0, _copy(x), target)
        kept_share = min(1.0, again.held_bytes(0) / saved_bytes)
        again.drop(0)
    if host is not None and saved_bytes:
        micro = next(op.micro for op in activations.lane if op.kind == Kind.OFFLOAD and op.stage == stage)
        run = activations.forward(Op(Kind.F, stage, micro))
        run(micro, _copy(x), target)
        host.offload(PLACE, micro)
        made_again = again is not None and again.has(micro)
        host_share = min(1.0, host.moved_bytes / (saved_bytes * (kept_share if made_again else 1.0)))
        host.fetch(PLACE, micro)
        host.arrived(micro)
        if again is not None and made_again:
            again.drop(micro)
    activations.stages[stage].forget()
    list(activations.finish())
    return kept_share, host_share


def _copy(x: Tensor) -> Tensor:
    """An input of its own, without a graph."""
    return x.clone().detach()
