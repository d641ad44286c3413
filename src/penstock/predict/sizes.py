"""Parameters of one device: all, those that are trained, and the shapes of their matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

from penstock.core.architecture import Architecture, Block
from penstock.core.parts import Experts
from penstock.cost.operators import WIDE, Microbatch, Operator, adapted
from penstock.predict.micro import Rank
from penstock.predict.split import Split
from penstock.predict.stage import Stage
from penstock.predict.works import block_operators


class Sizes(NamedTuple):
    """``parameters`` of one device, and those of them that are ``trained``."""

    whole: tuple[Any, Any]
    own: tuple[Any, Any]

    @classmethod
    def of(cls, rank: Split, stage: Stage) -> Sizes:
        """Of what a device, or each of many, holds."""
        whole = parameters(rank.model, rank.setup, *stage.held)
        return cls(whole, trained(rank, *stage.held) if rank.setup.adapter else whole)


def parameters(model: Architecture, setup: Any, mine: Mapping[Block, Any], first: Any, last: Any) -> tuple[Any, Any]:
    """Return the parameters of one device: all but experts, and experts.

    Args:
        model, setup: what is split, and how; a ``Grid`` for many setups at once.
        mine: how many there are of each block on the device: numbers, or arrays that fit the grid's.
        first, last: whether it holds the embedding, and the head; likewise.
    """
    dense, experts = 0, 0
    for block, times in mine.items():
        counts = _counts(block)
        dense, experts = dense + times * counts[0], experts + times * counts[1]
    head = (model.norm.parameters if model.norm else 0) + model.head.parameters
    shared = model.head.inputs * model.vocab * model.head.tied
    ends = first * model.embedding.parameters + last * (head + shared * (1 - first))
    tables = model.embedding.parameters + (0 if model.head.tied else model.hidden * model.vocab)
    ends = ends + (setup.vocabulary > 0) * (tables / setup.pp - ends)
    return (dense + ends) / setup.tp, experts / (setup.ep * setup.etp)


@lru_cache(maxsize=4096)
def _counts(block: Block) -> tuple[int, int]:
    """Of a block: all but experts, and experts."""
    mlp = block.mlp
    experts = mlp.experts * mlp.expert.parameters if isinstance(mlp, Experts) else 0
    return block.parameters - experts, experts


def trained(rank: Split, mine: Mapping[Block, Any], first: Any, last: Any) -> tuple[Any, Any]:
    """Return those of ``parameters`` that are trained: all, or of each matrix that has an adapter its two narrow ones
    (Hu et al. 2021, arXiv:2106.09685)."""
    setup = rank.setup
    if not setup.adapter:
        return parameters(rank.model, setup, mine, first, last)
    sides = sum(times * rank.each(partial(_sides, block)) for block, times in mine.items())
    return setup.adapter * sides, 0.0


def _sides(block: Block, rank: Rank) -> float:
    """Rows and columns of all matrices of a block that have adapters."""
    on = rank.setup.adapter_on
    return sum((op.m + op.n) * op.batch for op in _matrices(block, rank.batch_of(block)) if adapted(op.name, on))


def _matrices(block: Block, batch: Microbatch) -> list[Operator]:
    """Gradients of the matrices of a block, were they trained; routers and the like apart."""
    whole = replace(batch, frozen=False, frozen_bytes=None, adapter=0, adapter_on=())
    matrices = (op for op in block_operators(block, whole) if op.phase == "W" and op.kind.endswith("matmul"))
    return [op for op in matrices if not any(word in op.name for word in WIDE)]


@lru_cache(maxsize=4096)
def shapes(block: Block, batch: Microbatch) -> dict[tuple[float, float], int]:
    """Return the shapes of the matrices of a block on one rank, and how many there are of each; routers and the like
    apart, and adapters."""
    found: Counter[tuple[float, float]] = Counter()
    for op in _matrices(block, batch):
        found[op.m, op.n] += op.batch
    return dict(found)
