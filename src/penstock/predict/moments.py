"""The moments of a step at which a device may hold most, and what it holds then of what comes and goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from penstock.core.architecture import Architecture, Block
from penstock.cost.kept import kept, of_these
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch
from penstock.cost.switches import on, turned
from penstock.predict.contexts import gathered_bytes
from penstock.predict.kept_bytes import BlockBytes, block_bytes, on_device, stays_of
from penstock.predict.micro import Rank
from penstock.predict.sizes import Sizes, parameters, shapes
from penstock.predict.split import Split, fetches, once, quantised, sharded
from penstock.predict.stage import Stage, most
from penstock.predict.works import block_operators

FIRST = (False, True)
"""Whether of the first layers of stages: their backwards come last."""


class Moment(NamedTuple):
    """Bytes at a moment, by what they hold, as in ``Room``: of activations, a ``share`` of the most that is kept, less
    what is ``gone``; of gradients, the share that is there; what works and what is gathered or sent, by name: numbers
    of one rank, or arrays of many."""

    name: str
    working: Mapping[str, Any]
    messages: Mapping[str, Any]
    share: float = 1.0
    gone: Any = 0.0
    loss: Any = 0.0
    gradients: Any = 1.0

    @property
    def working_bytes(self) -> Any:
        """All that works."""
        return sum(self.working.values())

    @property
    def messages_bytes(self) -> Any:
        """All that is gathered or sent."""
        return sum(self.messages.values())

    def activations(self, held_bytes: Any) -> Any:
        """Those of a rank that keeps so many bytes at most."""
        return np.maximum(0.0, self.share * held_bytes - self.gone)

    def total(self, held_bytes: Any, gradient_bytes: Any) -> Any:
        """All of it, with so many bytes of activations at most, and of all gradients."""
        passing = self.loss + self.working_bytes + self.messages_bytes
        return self.activations(held_bytes) + passing + self.gradients * gradient_bytes


def storages(rank: Rank, block: Block) -> dict[str, float]:
    """Return what a block keeps of a micro-batch on a rank's device, by name, with its bytes."""
    made = block_operators(block, rank.batch_of(block))
    return on_device(stays_of(made, of_these(made, rank.again)), rank.setup.offload)


@lru_cache(maxsize=1024)
def loss_bytes(model: Architecture, batch: Microbatch, per_logit: float) -> float:
    """Return the sum of ``loss_storages``."""
    return sum(loss_storages(model, batch, per_logit).values())


def loss_storages(model: Architecture, batch: Microbatch, per_logit: float) -> dict[str, float]:
    """Return what head and loss hold at once: what they keep, and ``per_logit`` more for each logit."""
    logits = batch.here * model.vocab / batch.shard.tp
    return kept(head_operators(model, batch)) | {"logits besides": per_logit * logits}


def of_block(rank: Split, block: Block, first: bool = False) -> BlockBytes:
    """Return ``block_bytes`` of a block on a rank, or of one of the first layers of its stages."""

    again = rank.setup.recompute_first if first else None

    def found(one: Rank) -> BlockBytes:
        return block_bytes(block, one.batch_of(block), one.of_stack(again or one.setup.recompute), one.setup.offload)

    return once(rank, (of_block, block, first), lambda: BlockBytes(*rank.each(found)))


def each_kind(rank: Split, stage: Stage, first: bool) -> list[tuple[BlockBytes, Any]]:
    """Return what blocks hold that are made again as the first layers are, or as the rest, and how many there are."""
    counts = stage.again if first else stage.rest
    return [(of_block(rank, block, first), count) for block, count in counts.items()]


def moments(rank: Split, stage: Stage, sizes: Sizes) -> Iterator[Moment]:
    """Give the moments of a step that may be its peak; ``sizes``: of all that the stage holds.

    These are: the loss, whose logits are gone when the last block's backward begins; that backward; with ZeRO-3, the
    ends of the backwards of a block and of the head, where their gradients are whole; the last backward of all, if
    gradients are made anew in each step; and the optimizer's step.
    """
    setup, stack = rank.setup, rank.stack
    backwards = [*_backwards(rank, stage)]
    matrices, matrix = _matrices(rank, stage)
    made = sum(each.together for each in backwards)
    steady = {"blocks made again": made, "scratch of products": stack.scratch_bytes * matrices}
    steady |= {"a frozen matrix made wide": _wide_bytes(rank, stage)}
    steady |= _copies(rank, stage) | {"keys and values gathered": rank.each(_keys_bytes)}
    there = 1.0 - stack.drops_gradients * (setup.micros == 1)
    gathered, moved = _gathered(rank, stage, sizes), _bucket(rank, sizes)
    passing = {"gradient of a matrix": stack.passing_bytes * matrix}
    updated = (1 - setup.optimizer_offload) * sharded(setup, sizes.own, 1)
    stepping = {"optimizer's step": stack.step_bytes * updated}
    kept_bytes = most(each.kept * (count > 0) for first in FIRST for each, count in each_kind(rank, stage, first))
    blocks = moved | {"gathered blocks": gathered.blocks}
    ended = blocks | {"whole gradients of a block": gathered.reduced}
    head = blocks | {"gathered head and its whole gradients": gathered.head_reduced}
    loss = _loss(rank, stage.last)
    yield Moment("loss", steady, moved | {"gathered head": gathered.head}, loss=loss, gradients=there)
    for one in backwards:
        working = steady | {"backward of a block": one.more} | passing
        yield Moment("backward of a block", working, blocks, gone=one.gone, gradients=there)
    yield Moment("end of a block's backward", steady, ended, gone=kept_bytes, gradients=there)
    yield Moment("end of the head's backward", steady, head, gradients=there)
    yield Moment("end of the last backward", steady, ended, share=0.0)
    yield Moment("optimizer's step", stepping, moved, share=0.0)


def _keys_bytes(rank: Rank) -> float:
    """Of keys and values of whole sequences, where they are gathered; backwards have their gradients too."""
    return 2 * max(gathered_bytes(rank, block) for block in rank.model.kinds())


def _buffers(rank: Rank) -> float:
    """What the switch of tensor-parallel sums takes where it is turned on."""
    setup, stack = rank.setup, rank.stack
    added = setup.tp > 1 and on(stack, "tp", setup.tp_overlap) and turned(stack, "tp", setup.tp_overlap)
    return added * stack.tp_buffers * rank.row_bytes


def _copies(rank: Split, stage: Stage) -> dict[str, Any]:
    """What a block keeps that is on its way to the host while the next one runs, or back while the one behind it does;
    single storages go one by one."""
    if not rank.setup.offload or isinstance(rank.setup.offload, tuple):
        return {}
    each = (one.away * (count > 0) for first in FIRST for one, count in each_kind(rank, stage, first))
    return {"copies on their way": most(each)}


class _Backward(NamedTuple):
    """What all of a stage makes again at a time, the most that the backward of one block needs beyond that, and what
    blocks of the stage have freed before."""

    together: Any
    more: Any
    gone: Any


def _backwards(rank: Split, stage: Stage) -> Iterator[_Backward]:
    """Of the layers behind the first, and then of the first."""
    gone: Any = 0.0
    for first in FIRST[: 1 + bool(stage.again)]:
        each, together = each_kind(rank, stage, first), rank.stack.stage_again
        made = sum(count * one.again for one, count in each) / rank.setup.chunks if together else 0.0
        more = most((one.more + (not together) * one.again) * (count > 0) for one, count in each)
        yield _Backward(made, more, gone)
        gone = gone + sum(count * one.kept for one, count in each) / rank.setup.chunks


def _loss(rank: Split, last: Any) -> Any:
    """Of head and loss, where they are; split over the vocabulary, each rank has its part."""
    setup = rank.setup
    whole = rank.each(lambda one: loss_bytes(one.model, one.dense_batch, logit_bytes(one)))
    return whole * (last + (setup.vocabulary > 0) * (1 / setup.pp - last))


def logit_bytes(rank: Split) -> float:
    """Return what a loss holds of each logit beside what it keeps."""
    return rank.width_bytes if rank.setup.fused_loss else rank.stack.logit_bytes


def _matrices(rank: Split, stage: Stage) -> tuple[Any, Any]:
    """Elements of the matrices of a device, one of each shape, the head among them: of all, and of the largest."""
    if rank.setup.adapter or not (rank.stack.scratch_bytes or rank.stack.passing_bytes):
        return 0.0, 0.0
    total: Any = 0.0
    largest: Any = 0.0
    for there, where in _together(stage.blocks):
        each = rank.each(partial(_elements, blocks=tuple(there)))
        total, largest = (old + where * new for old, new in zip((total, largest), each, strict=True))
    head = stage.last * (rank.model.hidden * rank.model.vocab / rank.setup.tp)
    return total + head, np.maximum(largest, head)


def _together(blocks: Mapping[Block, Any]) -> Iterator[tuple[list[Block], Any]]:
    """Kinds of blocks that lie together on a rank, and whether these do on each: all there are of such."""
    held = [np.asarray(count) > 0 for count in blocks.values()]
    code = held[0].astype(np.int64)
    for each in held[1:]:
        code = np.unique(2 * code + each, return_inverse=True)[1].reshape(each.shape)
    _, firsts = np.unique(code, return_index=True)
    for first in firsts.tolist():
        there = [block for block, each in zip(blocks, held, strict=True) if each.flat[first]]
        yield there, code == code.flat[first]


def _wide_bytes(rank: Split, stage: Stage) -> Any:
    """Of the largest matrix of a block, where products read frozen ones in more bits than they are kept in."""
    if not quantised(rank):
        return 0.0
    _, largest = rank.each(partial(_elements, blocks=tuple(stage.blocks)))
    return rank.width_bytes * largest


def _elements(rank: Rank, blocks: tuple[Block, ...]) -> tuple[float, float]:
    return once(rank, (_elements, blocks), lambda: _elements_of(blocks, tuple(map(rank.batch_of, blocks))))


@lru_cache(maxsize=16384)
def _elements_of(blocks: tuple[Block, ...], batches: tuple[Microbatch, ...]) -> tuple[float, float]:
    """Elements of the matrices of blocks, one of each shape: of all, and of the largest."""
    there = {shape for block, batch in zip(blocks, batches, strict=True) for shape in shapes(block, batch)}
    sizes = [m * n for m, n in there]
    return float(sum(sizes)), float(max(sizes, default=0.0))


def _bucket(rank: Split, sizes: Sizes) -> dict[str, Any]:
    """Gradients that are collected for their reduction, and weights that DeepSpeed keeps gathered."""
    setup, stack, width, own = rank.setup, rank.stack, rank.width_bytes, sum(sizes.own)
    doubles, some = (setup.replicas > 1) * (setup.zero == 0) * stack.doubles_gradients, setup.zero > 0
    whole = sum(sizes.whole) if stack.live_bytes else 0.0
    return {
        "buffers of tensor parallel sums": rank.each(_buffers),
        "gradients a second time": doubles * stack.gradient_bytes * own,
        "weights kept gathered": fetches(setup) * np.minimum(stack.live_bytes, width * whole),
        "bucket of gradients": (setup.replicas > 1) * some * np.minimum(stack.bucket_bytes, width * own),
    }


class _Gathered(NamedTuple):
    """With ZeRO-3: weights of the block that runs and of the next ones, of the head, and a whole gradient of each."""

    blocks: Any = 0.0
    head: Any = 0.0
    reduced: Any = 0.0
    head_reduced: Any = 0.0


def _gathered(rank: Split, stage: Stage, sizes: Sizes) -> _Gathered:
    """A gradient is whole in the width of weights, and a second time in that of its reduction. Without ZeRO-3, weights
    that are stored wider than products read them have copies of all while a step runs."""
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    copies: Any = 0.0
    if stack.weight_bytes > width and not setup.adapter:
        copies = (setup.zero < 3) * width * sum(sizes.whole)
    apart = fetches(setup)
    if stack.live_bytes or not np.any(apart):
        return _Gathered(copies, copies)
    low = rank.recipe.copies(rank.device.architecture) * rank.recipe.value_bytes if rank.recipe else width
    narrow = low if setup.low_weights else width
    block = apart * stage.largest(lambda block: sum(parameters(rank.model, setup, {block: 1}, False, False)))
    head = apart * sum(parameters(rank.model, setup, {}, False, stage.last))
    whole = 0.0 if setup.adapter else width + stack.reduced_bytes
    blocks = copies + narrow * (1 + stack.ahead) * block
    return _Gathered(blocks, copies + width * head, whole * block, (width + whole) * head)
