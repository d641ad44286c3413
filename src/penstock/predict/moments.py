"""The moments of a step at which a device may hold most, and what it holds then of what comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np

from penstock.core.architecture import Architecture, Block
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept, of_these, rerun
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch
from penstock.predict.micro import Rank, block_rows
from penstock.predict.sizes import parameters, shapes, trained
from penstock.predict.split import Split

Again = str | tuple[str, ...]
STAYS = ("attention.core",)
"""Operators made again whose results stay, because that is what makes them worth it; those of others go too."""


class Moment(NamedTuple):
    """Bytes at a moment, by what they hold, as in ``Room``: of activations, a ``share`` of the most that is kept, less
    what is ``gone``; of gradients, the share that is there."""

    share: Any = 1.0
    gone: Any = 0.0
    loss: Any = 0.0
    working: Any = 0.0
    messages: Any = 0.0
    gradients: Any = 1.0

    def activations(self, held_bytes: Any) -> Any:
        """Those of a rank that keeps so many bytes at most."""
        return np.maximum(0.0, self.share * held_bytes - self.gone)

    def total(self, held_bytes: Any, gradient_bytes: Any) -> Any:
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


def of_block(rank: Split, block: Block) -> BlockBytes:
    """Return ``block_bytes`` of a block on a rank."""
    found = rank.each(lambda one: block_bytes(block, one.batch_of(block), one.setup.recompute, one.setup.offload))
    return BlockBytes(*found)


def most(values: Iterable[Any]) -> Any:
    """Return the largest of numbers, or of arrays place by place, that are not below 0; 0 for none."""
    return reduce(np.maximum, values, 0.0)


class Stage(NamedTuple):
    """How many there are of each block on a pipeline rank, and whether it holds the embedding and the head; arrays for
    many ranks at once."""

    blocks: Mapping[Block, Any]
    first: Any
    last: Any

    def largest(self, of: Callable[[Block], Any]) -> Any:
        """Return the most that one of its blocks has of something."""
        return most(of(block) * (count > 0) for block, count in self.blocks.items())


def moments(rank: Split, stage: Stage) -> Iterator[Moment]:
    """Give the moments of a step that may be its peak.

    These are: the loss, whose logits are gone when the last block's backward begins; that backward; with ZeRO-3, the
    ends of the backwards of a block and of the head, where their gradients are whole; the last backward of all, if
    gradients are made anew in each step; and the optimizer's step.
    """
    setup, stack = rank.setup, rank.stack
    made, more = _backward(rank, stage)
    matrices, matrix = _matrices(rank, stage)
    steady = made + stack.scratch_bytes * matrices
    there = 1.0 - stack.drops_gradients * (setup.micros == 1)
    gathered, moved = _gathered(rank, stage), _bucket(rank, stage)
    passing = stack.passing_bytes * matrix
    kept_bytes = stage.largest(lambda block: of_block(rank, block).kept)
    blocks, ended = moved + gathered.blocks, moved + gathered.blocks + gathered.reduced
    yield Moment(1.0, 0.0, _loss(rank, stage.last), steady, moved + gathered.head, there)
    yield Moment(1.0, 0.0, 0.0, steady + more + passing, blocks, there)
    yield Moment(1.0, kept_bytes, 0.0, steady, ended, there)
    yield Moment(1.0, 0.0, 0.0, steady, blocks + gathered.head_reduced, there)
    yield Moment(0.0, 0.0, 0.0, steady, ended)
    yield Moment(0.0, 0.0, 0.0, stack.step_bytes * sharded(setup, trained(rank, *stage), 1), moved)


def _backward(rank: Split, stage: Stage) -> tuple[Any, Any]:
    """What all of a stage makes again at a time, and the most that the backward of one block needs beyond that."""
    each = {block: of_block(rank, block) for block in stage.blocks}
    if not rank.stack.stage_again:
        return 0.0, stage.largest(lambda block: each[block].again + each[block].more)
    together = sum(count * each[block].again for block, count in stage.blocks.items()) / rank.setup.chunks
    return together, stage.largest(lambda block: each[block].more)


def _loss(rank: Split, last: Any) -> Any:
    """Of head and loss, where they are; split over the vocabulary, each rank has its part."""
    setup, stack = rank.setup, rank.stack
    per_logit = rank.width_bytes if setup.fused_loss else stack.logit_bytes
    whole = rank.each(lambda one: loss_bytes(one.model, one.dense_batch, per_logit))
    return whole / setup.pp if setup.vocabulary else whole * last


def _matrices(rank: Split, stage: Stage) -> tuple[Any, Any]:
    """Elements of the matrices of a device, one of each shape, the head among them: of all, and of the largest."""
    if rank.setup.adapter:
        return 0.0, 0.0
    total, largest = rank.each(lambda one: _elements(one, stage.blocks))
    head = stage.last * (rank.model.hidden * rank.model.vocab / rank.setup.tp)
    return total + head, np.maximum(largest, head)


def _elements(rank: Rank, blocks: Iterable[Block]) -> tuple[float, float]:
    found = {shape for block in blocks for shape in shapes(block, rank.batch_of(block))}
    sizes = [m * n for m, n in found]
    return sum(sizes), max(sizes, default=0.0)


def sharded(setup: Any, counts: tuple[Any, Any], stage: int) -> Any:
    """Return the parameters of which a device holds what ZeRO shards from ``stage`` on."""
    dense, experts = counts
    shares = 1 + (setup.zero >= stage) * (setup.sharded - 1)
    return dense / shares + experts / np.maximum(1, np.minimum(shares, setup.expert_replicas))


def _bucket(rank: Split, stage: Stage) -> Any:
    """Gradients that are collected for their reduction, and weights that DeepSpeed keeps gathered."""
    setup, stack, width, own = rank.setup, rank.stack, rank.width_bytes, sum(trained(rank, *stage))
    live = np.minimum(stack.live_bytes, width * sum(parameters(rank.model, setup, *stage))) * (setup.zero == 3)
    bucket = live + np.minimum(stack.bucket_bytes, width * own)
    doubled = stack.doubles_gradients * stack.gradient_bytes * own
    return (setup.replicas > 1) * np.where(setup.zero == 0, doubled, bucket)


class _Gathered(NamedTuple):
    """With ZeRO-3: weights of the block that runs and of the next ones, of the head, and a whole gradient of each."""

    blocks: Any = 0.0
    head: Any = 0.0
    reduced: Any = 0.0
    head_reduced: Any = 0.0


def _gathered(rank: Split, stage: Stage) -> _Gathered:
    """A gradient is whole in the width of weights, and a second time in that of its reduction. Without ZeRO-3, weights
    that are stored wider than products read them have copies of all while a step runs."""
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    wider = (setup.zero < 3) * (stack.weight_bytes > width and not setup.adapter)
    copies = wider * width * sum(parameters(rank.model, setup, *stage))
    apart = (setup.replicas > 1) * (setup.zero == 3) * (not stack.live_bytes)
    block = apart * stage.largest(lambda block: sum(parameters(rank.model, setup, {block: 1}, False, False)))
    head = apart * sum(parameters(rank.model, setup, {}, False, stage.last))
    whole = 0.0 if setup.adapter else width + stack.reduced_bytes
    blocks = copies + width * (1 + stack.ahead) * block
    return _Gathered(blocks, copies + width * head, whole * block, (width + whole) * head)
