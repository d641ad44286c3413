"""Parameters of one device: all, those that are trained, and the shapes of their matrices."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.cost.operators import WIDE, Microbatch
from penstock.predict.micro import Rank, block_rows


def parameters(model: Architecture, setup: Setup, mine: Counter[Block], first: bool, last: bool) -> tuple[float, float]:
    """Return the parameters of one device: all but experts, and experts."""
    dense, experts, ends = 0, 0, 0
    for block, times in mine.items():
        counts = _counts(block)
        dense, experts = dense + times * counts[0], experts + times * counts[1]
    if setup.vocabulary:
        tables = model.embedding.parameters + (0 if model.head.tied else model.hidden * model.vocab)
        return (dense + tables / setup.pp) / setup.tp, experts / (setup.ep * setup.etp)
    if first:
        ends += model.embedding.parameters
    if last:
        ends += (model.norm.parameters if model.norm else 0) + model.head.parameters
        ends += model.head.inputs * model.vocab * (model.head.tied and not first)
    return (dense + ends) / setup.tp, experts / (setup.ep * setup.etp)


@lru_cache(maxsize=4096)
def _counts(block: Block) -> tuple[int, int]:
    """Of a block: all but experts, and experts."""
    mlp = block.mlp
    experts = mlp.experts * mlp.expert.parameters if isinstance(mlp, Experts) else 0
    return block.parameters - experts, experts


def trained(rank: Rank, mine: Counter[Block], first: bool, last: bool) -> tuple[float, float]:
    """Return those of ``parameters`` that are trained: all, or of each matrix of a block an adapter's two narrow ones
    (Hu et al. 2021, arXiv:2106.09685)."""
    setup = rank.setup
    if not setup.adapter:
        return parameters(rank.model, setup, mine, first, last)
    each = {block: shapes(block, rank.batch_of(block)) for block in mine}
    sides = sum(mine[block] * (m + n) * count for block, found in each.items() for (m, n), count in found.items())
    return setup.adapter * sides, 0.0


@lru_cache(maxsize=4096)
def shapes(block: Block, batch: Microbatch) -> dict[tuple[float, float], int]:
    """Return the shapes of the matrices of a block on one rank, and how many there are of each; routers and the like
    apart."""
    made, _ = block_rows(block, batch)
    found: Counter[tuple[float, float]] = Counter()
    for op in made:
        if op.phase == "W" and op.kind.endswith("matmul") and not any(word in op.name for word in WIDE):
            found[op.m, op.n] += op.batch
    return dict(found)
