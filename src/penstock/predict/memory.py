"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture, Block
from penstock.core.setup import MOMENTS_BYTES, Setup
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept, of_these, rerun
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch
from penstock.predict.micro import Rank, block_rows
from penstock.predict.prediction import Room
from penstock.predict.sizes import parameters, shapes, trained

Again = str | tuple[str, ...]
STAYS = ("attention.core",)
"""Operators made again whose results stay, because that is what makes them worth it; those of others go too."""
VOCABULARY_WAITS: dict[int, Callable[[int], float]] = {
    0: lambda ranks: 0, 1: lambda ranks: 2, 2: lambda ranks: 1, 3: lambda ranks: ranks / 2,
}  # fmt: skip
"""Micro-batches that wait for a vocabulary's parts beyond those that a pipeline of so many ranks holds without: by the
way it is split, as in ``Setup.vocabulary`` (Yeung et al. 2024, arXiv:2411.05288)."""


class BlockBytes(NamedTuple):
    """Of one block and micro-batch: what it keeps, what its backward makes again, and the most beyond both that is
    alive in its backward."""

    kept: float
    again: float
    more: float


@lru_cache(maxsize=4096)
def block_bytes(block: Block, batch: Microbatch, again: Again, offload: float | tuple[str, ...] = 0.0) -> BlockBytes:
    """Return what a block holds of a micro-batch on its device.

    Args:
        block, batch: which block, of which micro-batch.
        again: what is made again, as in ``Setup.recompute``.
        offload: what waits in host memory, as in ``Setup.offload``.
    """
    made, _ = block_rows(block, batch)
    names = of_these(made, again)
    discard = () if isinstance(names, str) else tuple(name for name in names if name not in STAYS)
    stays = kept(made, names if isinstance(names, str) else tuple(set(names) & set(STAYS)), discard)
    saved = kept(made) if rerun(made, names).any() else stays
    if isinstance(offload, tuple):
        held = sum(size for name, size in stays.items() if name not in offload)
    else:
        held = sum(stays.values()) * (1 - offload)
    begun = sum(saved.values())
    return BlockBytes(held, begun - held, backward_bytes(made, saved) - begun)


@lru_cache(maxsize=1024)
def loss_bytes(model: Architecture, batch: Microbatch, per_logit: float) -> float:
    """Return what head and loss hold at once: what they keep, and ``per_logit`` more for each logit."""
    logits = batch.here * model.vocab / batch.shard.tp
    return sum(kept(head_operators(model, batch)).values()) + per_logit * logits


def saved_bytes(rank: Rank, stages: Sequence[Counter[Block]]) -> NDArray[np.float64]:
    """Return what each stage keeps of a micro-batch on its device, shape (stages,)."""
    each = {block: _of(rank, block).kept for block in set().union(*stages)}
    found = [sum(count * each[block] for block, count in stage.items()) for stage in stages]
    return np.array(found, dtype=np.float64)


def _of(rank: Rank, block: Block) -> BlockBytes:
    return block_bytes(block, rank.batch_of(block), rank.setup.recompute, rank.setup.offload)


def room(rank: Rank, mine: Counter[Block], held_bytes: float, first: bool, last: bool) -> Room:
    """Return the memory of a device of one pipeline rank.

    The loss is computed when all that the rank keeps of a micro-batch is there, and its logits are gone when the first
    block's backward begins: what counts is the larger of both.

    Args:
        rank: the setup and its stack.
        mine: the blocks of its stages.
        held_bytes: activations at their peak, from the timeline.
        first, last: whether it holds the embedding, the head.
    """
    setup, stack = rank.setup, rank.stack
    whole, counts = parameters(rank.model, setup, mine, first, last), trained(rank, mine, first, last)
    half = setup.precision == "fp16"
    weight_bytes = setup.frozen_bytes if setup.adapter else stack.weight_bytes or rank.width_bytes
    moments_bytes, away = MOMENTS_BYTES[setup.optimizer], setup.optimizer_offload
    master_bytes = (stack.master_bytes + half * stack.fp16_state_bytes) * (1 - away * stack.offloads_master)
    spare_bytes = 0.0 if half else stack.spare_bytes
    loss = _loss(rank, last)
    together, working = _backward(rank, mine)
    held_bytes *= 1 + VOCABULARY_WAITS[setup.vocabulary](setup.pp) / setup.pp
    matrices = [0.0] if setup.adapter else [0.0, *_matrices(rank, mine, last)]
    working = max(0.0, working + stack.passing_bytes * max(matrices) - loss)
    working += together + stack.scratch_bytes * sum(matrices)
    moving = held_bytes + loss + working
    stepping = stack.step_bytes * _sharded(setup, counts, 1) - moving
    return Room(
        weights=weight_bytes * _sharded(setup, whole, 3),
        gradients=(stack.fp16_gradient_bytes if half else stack.gradient_bytes) * _sharded(setup, counts, 2)
        + spare_bytes * sum(counts),
        optimizer=(master_bytes + moments_bytes * (1 - away)) * _sharded(setup, counts, 1),
        activations=held_bytes,
        loss=loss,
        working=working + max(0.0, stepping) + stack.workspace_bytes,
        messages=_messages(rank, mine, first, last),
        reserve=stack.slack * moving,
        context=stack.context_bytes,
    )


def _backward(rank: Rank, mine: Counter[Block]) -> tuple[float, float]:
    """What all of a stage makes again at a time, and the most that the backward of one block needs beyond that."""
    each = {block: _of(rank, block) for block in mine}
    if not rank.stack.stage_again:
        return 0.0, max((one.again + one.more for one in each.values()), default=0.0)
    together = sum(count * each[block].again for block, count in mine.items()) / rank.setup.chunks
    return together, max((one.more for one in each.values()), default=0.0)


def _sharded(setup: Setup, counts: tuple[float, float], stage: int) -> float:
    """Parameters of which a device holds what ZeRO shards from ``stage`` on."""
    dense, experts = counts
    if setup.zero < stage:
        return dense + experts
    shares = setup.sharded
    return dense / shares + experts / max(1, min(shares, setup.expert_replicas))


def _loss(rank: Rank, last: bool) -> float:
    """Of head and loss, where they are; split over the vocabulary, each rank has its part."""
    setup, stack = rank.setup, rank.stack
    if not last and not setup.vocabulary:
        return 0.0
    whole = loss_bytes(rank.model, rank.dense_batch, rank.width_bytes if setup.fused_loss else stack.logit_bytes)
    return whole / setup.pp if setup.vocabulary else whole


def _matrices(rank: Rank, mine: Counter[Block], last: bool) -> list[float]:
    """Sizes of the matrices of a device, one of each shape; the head among them."""
    found = {shape for block in mine for shape in shapes(block, rank.batch_of(block))}
    head = rank.model.hidden * rank.model.vocab / rank.setup.tp
    return [m * n for m, n in found] + [head] * last


def _messages(rank: Rank, mine: Counter[Block], first: bool, last: bool) -> float:
    """Weights and gradients that are whole for a while (ZeRO-3), and gradients on their way to their reduction.

    A block's weights are gathered while those of the next come, and so are those of the embedding or the head; one
    gradient is whole, and a second time in the width of its reduction.
    """
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    if setup.replicas == 1 or setup.zero == 0:
        return 0.0
    whole, own = sum(parameters(rank.model, setup, mine, first, last)), sum(trained(rank, mine, first, last))
    bucket = min(stack.bucket_bytes, width * own)
    if setup.zero < 3:
        return bucket
    if stack.live_bytes:
        return bucket + min(stack.live_bytes, width * whole)
    block = max((sum(parameters(rank.model, setup, Counter([block]), False, False)) for block in mine), default=0.0)
    end = max(sum(parameters(rank.model, setup, Counter(), *each)) for each in ((first, False), (False, last)))
    gathered = width * ((1 + stack.ahead) * block + end)
    return gathered if setup.adapter else gathered + (width + stack.reduced_bytes) * max(block, end)
