"""FLOPs of a training step: products of forward and backward that the model needs, and those that run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.setup import Setup
from penstock.cost.kept import of_these, rerun
from penstock.cost.model_operators import head_operators, operators, predictor_operators
from penstock.cost.operators import Microbatch, Operator
from penstock.predict.again import layers_by_way

COUNTED = ("matmul", "grouped_matmul", "attention")


def model_flops(model: Architecture, setup: Setup, *, whole: bool = False) -> float:
    """Return the FLOPs of a step over all devices.

    Args:
        model: what is trained.
        setup: how long sequences are, and how many.
        whole: whole matrices of scores are counted, not only what the mask leaves.
    """
    each = sum(_block_flops(block, setup.seq, whole) * count for block, count in model.kinds().items())
    return setup.batch * (each + _end_flops(model, setup.seq, whole, setup.multi_token))


def again_flops(model: Architecture, setup: Setup, *, whole: bool = False, stops_early: bool = False) -> float:
    """Return the FLOPs of products that recompute runs once more, over all devices; arguments as above.

    With those of the model they are what "hardware" FLOPs count (Korthikanti et al. 2022, arXiv:2205.05198).
    """
    first = sum(layers_by_way(model, setup)[1] if setup.again else (), Counter[Block]())
    rest = {block: count - first[block] for block, count in model.kinds().items()}
    ways = ((setup.recompute, rest), (setup.recompute_first, first))
    each = (
        (_again_flops(block, setup.seq, again, whole, stops_early), n)
        for again, kinds in ways
        for block, n in kinds.items()
    )
    return setup.batch * sum(flops * count for flops, count in each)


@lru_cache(maxsize=1024)
def _again_flops(block: Block, seq: int, again: str | tuple[str, ...], whole: bool, stops_early: bool) -> float:
    made = operators(block, Microbatch(micro=1, seq=seq))
    twice = [op for op, runs in zip(made, rerun(made, of_these(made, again), stops_early), strict=True) if runs]
    return _sum(twice, whole) / 3


@lru_cache(maxsize=1024)
def _block_flops(block: Block, seq: int, whole: bool) -> float:
    return _sum(operators(block, Microbatch(micro=1, seq=seq)), whole)


@lru_cache(maxsize=1024)
def _end_flops(model: Architecture, seq: int, whole: bool, multi_token: bool) -> float:
    batch = Microbatch(micro=1, seq=seq)
    more = predictor_operators(model, batch) if multi_token else ()
    return _sum([*head_operators(model, batch), *more], whole)


def _sum(made: Iterable[Operator], whole: bool) -> float:
    """Of forwards, and twice as much of gradients: what a fused attention computes again is no work of the model."""
    return sum(3 * (op.flops if whole else op.needed_flops) for op in made if op.phase == "F" and op.kind in COUNTED)
