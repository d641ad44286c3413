"""The moments of a step at which a device may hold most, and what it holds then of what comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from penstock.core.architecture import Architecture, Block
from penstock.core.setup import Setup
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept, of_these, rerun
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch
from penstock.predict.micro import Rank, block_rows
from penstock.predict.sizes import parameters, shapes, trained

Again = str | tuple[str, ...]
STAYS = ("attention.core",)
"""Operators made again whose results stay, because that is what makes them worth it; those of others go too."""


class Moment(NamedTuple):
    """Bytes at a moment, by what they hold, as in ``Room``: of activations, a ``share`` of the most that is kept, less
    what is ``gone``; of gradients, the share that is there."""

    share: float = 1.0
    gone: float = 0.0
    loss: float = 0.0
    working: float = 0.0
    messages: float = 0.0
    gradients: float = 1.0

    def activations(self, held_bytes: float) -> float:
        """Those of a rank that keeps so many bytes at most."""
        return max(0.0, self.share * held_bytes - self.gone)

    def total(self, held_bytes: float, gradient_bytes: float) -> float:
        """All of it, with so many bytes of activations at most, and of all gradients."""
        return self.activations(held_bytes) + self.loss + self.working + self.messages + self.gradients * gradient_bytes


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


def of_block(rank: Rank, block: Block) -> BlockBytes:
    """Return ``block_bytes`` of a block on a rank."""
    return block_bytes(block, rank.batch_of(block), rank.setup.recompute, rank.setup.offload)


class Stage(NamedTuple):
    """The blocks of a pipeline rank, and whether it holds the embedding and the head."""

    blocks: Counter[Block]
    first: bool
    last: bool


def moments(rank: Rank, stage: Stage) -> Iterator[Moment]:
    """Give the moments of a step that may be its peak.

    These are: the loss, whose logits are gone when the last block's backward begins; that backward; with ZeRO-3, the
    ends of the backwards of a block and of the head, where their gradients are whole; the last backward of all, if
    gradients are made anew in each step; and the optimizer's step.
    """
    setup, stack = rank.setup, rank.stack
    made, more = _backward(rank, stage)
    matrices = [0.0] if setup.adapter else [0.0, *_matrices(rank, stage)]
    steady = made + stack.scratch_bytes * sum(matrices)
    there = 0.0 if stack.drops_gradients and setup.micros == 1 else 1.0
    gathered, moved = _gathered(rank, stage), _bucket(rank, stage)
    passing = stack.passing_bytes * max(matrices)
    kept_bytes = max((of_block(rank, block).kept for block in stage.blocks), default=0.0)
    blocks, ended = moved + gathered.blocks, moved + gathered.blocks + gathered.reduced
    yield Moment(1.0, 0.0, _loss(rank, stage.last), steady, moved + gathered.head, there)
    yield Moment(1.0, 0.0, 0.0, steady + more + passing, blocks, there)
    yield Moment(1.0, kept_bytes, 0.0, steady, ended, there)
    yield Moment(1.0, 0.0, 0.0, steady, blocks + gathered.head_reduced, there)
    yield Moment(0.0, 0.0, 0.0, steady, ended)
    yield Moment(0.0, 0.0, 0.0, stack.step_bytes * sharded(setup, trained(rank, *stage), 1), moved)


def _backward(rank: Rank, stage: Stage) -> tuple[float, float]:
    """What all of a stage makes again at a time, and the most that the backward of one block needs beyond that."""
    each = {block: of_block(rank, block) for block in stage.blocks}
    if not rank.stack.stage_again:
        return 0.0, max((one.again + one.more for one in each.values()), default=0.0)
    together = sum(count * each[block].again for block, count in stage.blocks.items()) / rank.setup.chunks
    return together, max((one.more for one in each.values()), default=0.0)


def _loss(rank: Rank, last: bool) -> float:
    """Of head and loss, where they are; split over the vocabulary, each rank has its part."""
    setup, stack = rank.setup, rank.stack
    if not last and not setup.vocabulary:
        return 0.0
    whole = loss_bytes(rank.model, rank.dense_batch, rank.width_bytes if setup.fused_loss else stack.logit_bytes)
    return whole / setup.pp if setup.vocabulary else whole


def _matrices(rank: Rank, stage: Stage) -> list[float]:
    """Sizes of the matrices of a device, one of each shape; the head among them."""
    found = {shape for block in stage.blocks for shape in shapes(block, rank.batch_of(block))}
    head = rank.model.hidden * rank.model.vocab / rank.setup.tp
    return [m * n for m, n in found] + [head] * stage.last


def sharded(setup: Setup, counts: tuple[float, float], stage: int) -> float:
    """Return the parameters of which a device holds what ZeRO shards from ``stage`` on."""
    dense, experts = counts
    if setup.zero < stage:
        return dense + experts
    shares = setup.sharded
    return dense / shares + experts / max(1, min(shares, setup.expert_replicas))


def _bucket(rank: Rank, stage: Stage) -> float:
    """Gradients that are collected for their reduction, and weights that DeepSpeed keeps gathered."""
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    if setup.replicas == 1:
        return 0.0
    if setup.zero == 0:
        return stack.gradient_bytes * sum(trained(rank, *stage)) if stack.doubles_gradients else 0.0
    live = min(stack.live_bytes, width * sum(parameters(rank.model, setup, *stage))) if setup.zero == 3 else 0.0
    return live + min(stack.bucket_bytes, width * sum(trained(rank, *stage)))


class _Gathered(NamedTuple):
    """With ZeRO-3: weights of the block that runs and of the next ones, of the head, and a whole gradient of each."""

    blocks: float = 0.0
    head: float = 0.0
    reduced: float = 0.0
    head_reduced: float = 0.0


def _gathered(rank: Rank, stage: Stage) -> _Gathered:
    """A gradient is whole in the width of weights, and a second time in that of its reduction. Without ZeRO-3, weights
    that are stored wider than products read them have copies of all while a step runs."""
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    if setup.zero < 3 and stack.weight_bytes > width and not setup.adapter:
        copies = width * sum(parameters(rank.model, setup, *stage))
        return _Gathered(copies, copies)
    if setup.replicas == 1 or setup.zero < 3 or stack.live_bytes:
        return _Gathered()
    each = (sum(parameters(rank.model, setup, Counter([block]), False, False)) for block in stage.blocks)
    block, head = max(each, default=0.0), sum(parameters(rank.model, setup, Counter(), False, stage.last))
    whole = 0.0 if setup.adapter else width + stack.reduced_bytes
    return _Gathered(width * (1 + stack.ahead) * block, width * head, whole * block, (width + whole) * head)
