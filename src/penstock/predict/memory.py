"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.optimizers import moments_bytes
from penstock.cost.switches import turned
from penstock.predict.host import away_gradients, stored_bytes
from penstock.predict.micro import Rank
from penstock.predict.moments import FIRST, Moment, each_kind, moments
from penstock.predict.prediction import Room
from penstock.predict.sizes import Sizes, parameters
from penstock.predict.split import Split, sharded
from penstock.predict.stage import Stage

Floats = NDArray[np.float64]
NAMES = tuple(field.name for field in fields(Room))
"""What a room is made of."""
VOCABULARY_WAITS: dict[int, Callable[[int], float]] = {
    0: lambda ranks: 0, 1: lambda ranks: 2, 2: lambda ranks: 1, 3: lambda ranks: ranks / 2,
}  # fmt: skip
"""Micro-batches that wait for a vocabulary's parts beyond those that a pipeline of so many ranks holds without: by the
way it is split, as in ``Setup.vocabulary`` (Yeung et al. 2024, arXiv:2411.05288)."""


def saved_bytes(rank: Split, stage: Stage) -> Any:
    """Return what each stage, or rank, keeps of a micro-batch on its device: an array as in ``stage``."""
    return sum(count * each.kept for first in FIRST for each, count in each_kind(rank, stage, first))


def rooms(rank: Split, stage: Stage, held_bytes: Sequence[float]) -> tuple[Room, ...]:
    """Return the memory of a device of each pipeline rank, at the moment at which it holds most.

    Args:
        rank: the setup and its stack.
        stage: what each rank holds of the model: arrays of shape (ranks,).
        held_bytes: activations of each at their peak, from the timeline.
    """
    found = _at_peak(rank, stage, np.asarray(held_bytes, dtype=np.float64))
    columns = [np.broadcast_to(getattr(found, name), len(held_bytes)).tolist() for name in NAMES]
    return tuple(Room(**dict(zip(NAMES, row, strict=True))) for row in zip(*columns, strict=True))


def peak_bytes(rank: Split, stage: Stage, held_bytes: Floats) -> tuple[Floats, Floats]:
    """Return what devices hold at their peak, and what of it must fit, for many at once: arrays as in ``stage``."""
    resting, held_bytes, then = _times(rank, stage, held_bytes)
    passing = then(lambda one: one.activations(held_bytes) + one.loss + one.working_bytes)
    beside = then(lambda one: one.gradients * resting.gradients + one.messages_bytes)
    needed = passing + beside + (resting.weights + resting.optimizer + resting.context + rank.stack.workspace_bytes)
    return needed + rank.stack.slack * passing, needed


def peak(rank: Rank, stage: Stage, held_bytes: float) -> tuple[Moment, float]:
    """Return the moment at which a rank holds most, and the activations that are kept then, ``held_bytes`` by the
    timeline."""
    sizes = Sizes.of(rank, stage)
    resting, held_bytes = _resting(rank, stage, sizes), _held_bytes(rank, stage, held_bytes)
    return max(moments(rank, stage, sizes), key=lambda moment: moment.total(held_bytes, resting.gradients)), held_bytes


class Width(NamedTuple):
    """Bytes of each parameter of a rank, or of each that is ``trained``, sharded from a stage of ZeRO on; ``part`` is
    where they count in ``Room``, ``fields`` are those of the stack that say so. ``where``: of which parameters, all of
    them, ``low`` those of blocks that a recipe takes, or ``high`` those of all else."""

    part: str
    name: str
    size_bytes: float
    trained: bool
    stage: int
    fields: tuple[str, ...]
    where: str = ""


NEVER = 4
"""Stage of ZeRO from which on nothing is sharded."""


def widths(rank: Split) -> list[Width]:
    """Return what parameters take between steps, all gradients included."""
    setup, stack = rank.setup, rank.stack
    half, away = setup.precision == "fp16", setup.optimizer_offload
    state_bytes, here = half * stack.fp16_state_bytes, 1 - away * stack.offloads_master
    gradient, stays = stack.sums_in(setup.precision), 1 - away_gradients(rank)
    return [
        *_weights(rank),
        Width("gradients", "gradients", getattr(stack, gradient) * stays, True, 2, (gradient,)),
        Width("gradients", "spare gradients", 0.0 if half else stack.spare_bytes, True, NEVER, ("spare_bytes",)),
        Width("optimizer", "master weights", stack.master_bytes * here, True, 1, ("master_bytes", "offloads_master")),
        Width("optimizer", "gradients on their way", state_bytes * here, True, 1, ("fp16_state_bytes",)),
        Width("optimizer", f"moments of {setup.optimizer}", moments_bytes(setup.optimizer) * (1 - away), True, 1, ()),
    ]


def _weights(rank: Split) -> list[Width]:
    """Weights, and beside or in place of those of blocks their casts by a recipe, where these are there for good; less
    what waits on the host."""
    setup, recipe, fields = rank.setup, rank.recipe, ("weight_bytes",)
    here = 1 - setup.weight_offload
    weight_bytes = here * stored_bytes(rank)
    if recipe is None or not rank.stack.low_copies or setup.adapter:
        return [Width("weights", "weights", weight_bytes, False, 3, fields)]
    where = "high" if setup.low_weights else ""
    low_bytes = here * recipe.copies(rank.device.architecture) * recipe.value_bytes
    return [
        Width("weights", "weights", weight_bytes, False, 3, fields, where),
        Width("weights", f"weights in {setup.precision}", low_bytes, False, 3, ("low_copies",), "low"),
    ]


def counted(rank: Split, width: Width, stage: Stage, sizes: Sizes) -> tuple[Any, Any]:
    """Return the parameters of a device that a width is of, of all that it holds: all but experts, and experts."""
    if width.trained:
        return sizes.own
    whole = sizes.whole
    if not width.where:
        return whole
    high = stage._replace(blocks={block: count for block, count in stage.blocks.items() if block.wide})
    rest = parameters(rank.model, rank.setup, *high.held)
    return rest if width.where == "high" else (whole[0] - rest[0], whole[1] - rest[1])


def _resting(rank: Split, stage: Stage, sizes: Sizes) -> Room:
    """What is there between steps, all gradients included."""
    sums: dict[str, Any] = defaultdict(float)
    shares: dict[tuple[bool, str, int], Any] = {}
    for width in widths(rank):
        of = (width.trained, width.where, width.stage)
        if of not in shares:
            shares[of] = sharded(rank.setup, counted(rank, width, stage, sizes), width.stage)
        sums[width.part] += width.size_bytes * shares[of]
    return Room(**sums, context=rank.stack.context_bytes)


def least_bytes(rank: Split) -> Any:
    """Return what the mean pipeline rank holds at any time, so that one holds at least so much: weights and the
    optimizer's state."""
    model, pp = rank.model, rank.setup.pp
    mean = Stage({kind: count / pp for kind, count in model.kinds().items()}, 1 / pp, 1 / pp)
    resting = _resting(rank, mean, Sizes.of(rank, mean))
    return resting.weights + resting.optimizer + resting.context


def vocabulary_waits(rank: Split) -> Any:
    """Return how much more than the pipeline's activations wait where the vocabulary is split, relative to them."""
    way, ranks = rank.setup.vocabulary, rank.setup.pp
    return sum((way == one) * waits(ranks) for one, waits in VOCABULARY_WAITS.items()) / ranks


def paired(rank: Rank) -> bool:
    """Return whether forwards run paired with backwards of another micro-batch, which hide each other's messages."""
    setup = rank.setup
    return setup.ep > 1 and setup.ep_overlap == "on" and turned(rank.stack, "ep", setup.ep_overlap)


def _held_bytes(rank: Split, stage: Stage, held_bytes: Any) -> Any:
    """Activations that wait at most, of which a pipeline keeps so many: more wait for a vocabulary's parts, and where
    forwards are paired with backwards one more micro-batch of a stage, or without a pipeline one of a block, since
    blocks of the one go as those of the other come."""
    setup, found, pairs = rank.setup, held_bytes * (1 + vocabulary_waits(rank)), rank.each(paired)
    if not np.any(pairs):
        return found
    return found + pairs * saved_bytes(rank, stage) / np.where(setup.pp == 1, rank.model.layers, setup.chunks)


def _times(
    rank: Split, stage: Stage, held_bytes: Floats
) -> tuple[Room, Floats, Callable[[Callable[[Moment], Any]], Any]]:
    """What is there between steps, activations that wait at most, and what tells what a moment has of something, at the
    moment at which it is most: arrays of the shape of ``held_bytes``."""
    held_bytes, sizes = _held_bytes(rank, stage, held_bytes), Sizes.of(rank, stage)
    resting, times = _resting(rank, stage, sizes), [*moments(rank, stage, sizes)]
    best = _stacked([one.total(held_bytes, resting.gradients) for one in times], held_bytes.shape).argmax(axis=0)
    at = best * best.size + np.arange(best.size).reshape(best.shape)

    def then(of: Callable[[Moment], Any]) -> Any:
        return _stacked([of(one) for one in times], held_bytes.shape).take(at)

    return resting, held_bytes, then


def _at_peak(rank: Split, stage: Stage, held_bytes: Floats) -> Room:
    """What is there when it is most, in arrays of the shape of ``held_bytes``."""
    resting, held_bytes, then = _times(rank, stage, held_bytes)
    activations, loss = then(lambda one: one.activations(held_bytes)), then(lambda one: one.loss)
    working = then(lambda one: one.working_bytes)
    return replace(
        resting,
        gradients=resting.gradients * then(lambda one: one.gradients),
        activations=activations,
        loss=loss,
        working=working + rank.stack.workspace_bytes,
        messages=then(lambda one: one.messages_bytes),
        reserve=rank.stack.slack * (activations + loss + working),
    )


def _stacked(each: Sequence[Any], shape: tuple[int, ...]) -> Floats:
    found = np.empty((len(each), *shape))
    for place, one in zip(found, each, strict=True):
        place[...] = one
    return found
