"""The moments of a step at which a device may hold most, and what it holds then of what comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from penstock.core.architecture import Architecture, Block
from penstock.core.setup import Setup
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept, of_these, rerun
from penstock.cost.model_operators import head_operators
from penstock.cost.operators import Microbatch, Operator
from penstock.predict.micro import Rank, block_rows
from penstock.predict.sizes import parameters, shapes, trained

Again = str | tuple[str, ...]
STAYS = ("attention.core",)
"""Operators made again whose results stay, because that is what makes them worth it; those of others go too."""


class Moment(NamedTuple):
    """Bytes at a moment, by what they hold, as in ``Room``: of activations, a ``share`` of the most that is kept, less
    what is ``gone``; of gradients, the share that is there; what works and what is gathered or sent, by name."""

    name: str
    working: Mapping[str, float]
    messages: Mapping[str, float]
    share: float = 1.0
    gone: float = 0.0
    loss: float = 0.0
    gradients: float = 1.0

    @property
    def working_bytes(self) -> float:
        """All that works."""
        return sum(self.working.values())

    @property
    def messages_bytes(self) -> float:
        """All that is gathered or sent."""
        return sum(self.messages.values())

    def activations(self, held_bytes: float) -> float:
        """Those of a rank that keeps so many bytes at most."""
        return max(0.0, self.share * held_bytes - self.gone)

    def total(self, held_bytes: float, gradient_bytes: float) -> float:
        """All of it, with so many bytes of activations at most, and of all gradients."""
        passing = self.loss + self.working_bytes + self.messages_bytes
        return self.activations(held_bytes) + passing + self.gradients * gradient_bytes


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
    stays = _stays(made, names)
    saved = kept(made) if rerun(made, names).any() else stays
    held, begun = sum(_on_device(stays, offload).values()), sum(saved.values())
    return BlockBytes(held, begun - held, backward_bytes(made, saved) - begun)


def storages(rank: Rank, block: Block) -> dict[str, float]:
    """Return what a block keeps of a micro-batch on a rank's device, by name, with its bytes."""
    made, _ = block_rows(block, rank.batch_of(block))
    return _on_device(_stays(made, of_these(made, rank.setup.recompute)), rank.setup.offload)


def _stays(made: Sequence[Operator], names: Again) -> dict[str, float]:
    """What is kept beside what ``names`` make again."""
    if isinstance(names, str):
        return kept(made, names)
    return kept(made, tuple(set(names) & set(STAYS)), tuple(name for name in names if name not in STAYS))


def _on_device(stays: dict[str, float], offload: float | tuple[str, ...]) -> dict[str, float]:
    if isinstance(offload, tuple):
        return {name: size for name, size in stays.items() if name not in offload}
    return {name: size * (1 - offload) for name, size in stays.items()}


@lru_cache(maxsize=1024)
def loss_bytes(model: Architecture, batch: Microbatch, per_logit: float) -> float:
    """Return the sum of ``loss_storages``."""
    return sum(loss_storages(model, batch, per_logit).values())


def loss_storages(model: Architecture, batch: Microbatch, per_logit: float) -> dict[str, float]:
    """Return what head and loss hold at once: what they keep, and ``per_logit`` more for each logit."""
    logits = batch.here * model.vocab / batch.shard.tp
    return kept(head_operators(model, batch)) | {"logits besides": per_logit * logits}


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
    steady = {"blocks made again": made, "scratch of products": stack.scratch_bytes * sum(matrices)}
    there = 0.0 if stack.drops_gradients and setup.micros == 1 else 1.0
    gathered, moved = _gathered(rank, stage), _bucket(rank, stage)
    backward = {"backward of a block": more, "gradient of a matrix": stack.passing_bytes * max(matrices)}
    stepping = {"optimizer's step": stack.step_bytes * sharded(setup, trained(rank, *stage), 1)}
    kept_bytes = max((of_block(rank, block).kept for block in stage.blocks), default=0.0)
    blocks = moved | {"gathered blocks": gathered.blocks}
    ended = blocks | {"whole gradients of a block": gathered.reduced}
    head = blocks | {"gathered head and its whole gradients": gathered.head_reduced}
    loss = _loss(rank, stage.last)
    yield Moment("loss", steady, moved | {"gathered head": gathered.head}, loss=loss, gradients=there)
    yield Moment("backward of a block", steady | backward, blocks, gradients=there)
    yield Moment("end of a block's backward", steady, ended, gone=kept_bytes, gradients=there)
    yield Moment("end of the head's backward", steady, head, gradients=there)
    yield Moment("end of the last backward", steady, ended, share=0.0)
    yield Moment("optimizer's step", stepping, moved, share=0.0)


def _backward(rank: Rank, stage: Stage) -> tuple[float, float]:
    """What all of a stage makes again at a time, and the most that the backward of one block needs beyond that."""
    each = {block: of_block(rank, block) for block in stage.blocks}
    if not rank.stack.stage_again:
        return 0.0, max((one.again + one.more for one in each.values()), default=0.0)
    together = sum(count * each[block].again for block, count in stage.blocks.items()) / rank.setup.chunks
    return together, max((one.more for one in each.values()), default=0.0)


def _loss(rank: Rank, last: bool) -> float:
    """Of head and loss, where they are; split over the vocabulary, each rank has its part."""
    setup = rank.setup
    if not last and not setup.vocabulary:
        return 0.0
    whole = loss_bytes(rank.model, rank.dense_batch, logit_bytes(rank))
    return whole / setup.pp if setup.vocabulary else whole


def logit_bytes(rank: Rank) -> float:
    """Return what a loss holds of each logit beside what it keeps."""
    return rank.width_bytes if rank.setup.fused_loss else rank.stack.logit_bytes


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


def _bucket(rank: Rank, stage: Stage) -> dict[str, float]:
    """Gradients that are collected for their reduction, and weights that DeepSpeed keeps gathered."""
    setup, stack, width = rank.setup, rank.stack, rank.width_bytes
    if setup.replicas == 1:
        return {}
    if setup.zero == 0:
        whole = stack.gradient_bytes * sum(trained(rank, *stage)) if stack.doubles_gradients else 0.0
        return {"gradients a second time": whole}
    live = min(stack.live_bytes, width * sum(parameters(rank.model, setup, *stage))) if setup.zero == 3 else 0.0
    bucket = min(stack.bucket_bytes, width * sum(trained(rank, *stage)))
    return {"weights kept gathered": live, "bucket of gradients": bucket}


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
