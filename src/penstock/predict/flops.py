"""FLOPs of a training step by the model alone: products of forward and backward, no recompute."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.setup import Setup
from penstock.cost.model_operators import head_operators, operators, predictor_operators
from penstock.cost.operators import Microbatch, Operator

COUNTED = ("matmul", "grouped_matmul", "attention")


def model_flops(model: Architecture, setup: Setup, *, whole: bool = False) -> float:
    """Return the FLOPs of a step over all devices.

    Args:
        model: what is trained.
        setup: how long sequences are, and how many.
        whole: whole matrices of scores are counted, not only what the mask leaves.
    """
    each = sum(_block_flops(block, setup.seq, whole) * count for block, count in model.kinds().items())
    return setup.batch * (each + _end_flops(model, setup.seq, whole))


@lru_cache(maxsize=1024)
def _block_flops(block: Block, seq: int, whole: bool) -> float:
    return _sum(operators(block, Microbatch(micro=1, seq=seq)), whole)


@lru_cache(maxsize=1024)
def _end_flops(model: Architecture, seq: int, whole: bool) -> float:
    batch = Microbatch(micro=1, seq=seq)
    return _sum([*head_operators(model, batch), *predictor_operators(model, batch)], whole)


def _sum(made: Iterable[Operator], whole: bool) -> float:
    """Of forwards, and twice as much of gradients: what a fused attention computes again is no work of the model."""
    return sum(3 * (op.flops if whole else op.needed_flops) for op in made if op.phase == "F" and op.kind in COUNTED)
