"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture, Block
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.cost.kept import kept, of_these
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch
from penstock.cost.stack import Stack
from penstock.predict.micro import Rank, block_rows
from penstock.predict.prediction import Room


@lru_cache(maxsize=4096)
def block_bytes(block: Block, batch: Microbatch, again: str | tuple[str, ...]) -> tuple[float, float]:
    """Return what a block keeps of a micro-batch until its backward, and what it would keep without recompute."""
    made, _ = block_rows(block, batch)
    return sum(kept(made, of_these(made, again)).values()), sum(kept(made).values())


@lru_cache(maxsize=1024)
def loss_bytes(model: Architecture, batch: Microbatch, per_logit: float) -> float:
    """Return what head and loss hold at once: what they keep, and ``per_logit`` more for each logit."""
    logits = batch.here * model.vocab / batch.shard.tp
    return sum(kept(head_operators(model, batch)).values()) + per_logit * logits


def saved_bytes(rank: Rank, stages: Sequence[Counter[Block]]) -> NDArray[np.float64]:
    """Return what each stage keeps of a micro-batch on its device, shape (stages,)."""
    setup = rank.setup
    each = {block: block_bytes(block, rank.batch_of(block), setup.recompute)[0] for block in set().union(*stages)}
    found = [sum(count * each[block] for block, count in stage.items()) for stage in stages]
    return np.array(found, dtype=np.float64) * (1 - setup.offload)


def room(rank: Rank, mine: Counter[Block], held_bytes: float, first: bool, last: bool) -> Room:
    """Return the memory of a device of one pipeline rank.

    Args:
        rank: the setup and its stack.
        mine: the blocks of its stages.
        held_bytes: activations at their peak, from the timeline.
        first, last: whether it holds the embedding, the head.
    """
    setup, stack, model = rank.setup, rank.stack, rank.model
    dense, experts = parameters(model, setup, mine, first, last)
    width = rank.width_bytes

    def sharded(stage: int) -> float:
        if setup.zero < stage:
            return dense + experts
        shares = setup.sharded
        return dense / shares + experts / max(1, min(shares, setup.expert_replicas))

    pairs = [block_bytes(block, rank.batch_of(block), setup.recompute) for block in mine]
    gathered = max((block.parameters / setup.tp for block in mine), default=0.0) if setup.zero == 3 else 0.0
    return Room(
        weights=width * (sharded(3) + 2 * gathered),
        gradients=stack.gradient_bytes * sharded(2),
        optimizer=_state_bytes(setup, stack) * sharded(1) * (1 - setup.optimizer_offload),
        activations=held_bytes,
        loss=loss_bytes(model, rank.dense_batch, stack.logit_bytes) if last else 0.0,
        working=max((whole - stays for stays, whole in pairs), default=0.0),
        reserve=stack.reserve_bytes,
    )


def _state_bytes(setup: Setup, stack: Stack) -> float:
    """Of each parameter: weights in full precision and moments; one moment less without squares."""
    return stack.state_bytes - (4.0 if setup.optimizer != "adam" else 0.0)


def parameters(model: Architecture, setup: Setup, mine: Counter[Block], first: bool, last: bool) -> tuple[float, float]:
    """Return the parameters of one device: all but experts, and experts."""
    each = {block: block.mlp.experts * block.mlp.expert.parameters for block in mine if isinstance(block.mlp, Experts)}
    experts = sum(mine[block] * count for block, count in each.items())
    dense = sum(block.parameters * count for block, count in mine.items()) - experts
    ends = model.embedding.parameters if first else 0
    if last and not (first and model.head.tied):
        ends += model.hidden * model.vocab
    return (dense + ends) / setup.tp, experts / (setup.ep * setup.etp)
