"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.setup import MOMENTS_BYTES
from penstock.predict.micro import Rank
from penstock.predict.moments import Moment, Stage, moments, of_block, sharded
from penstock.predict.prediction import Room
from penstock.predict.sizes import parameters, trained

VOCABULARY_WAITS: dict[int, Callable[[int], float]] = {
    0: lambda ranks: 0, 1: lambda ranks: 2, 2: lambda ranks: 1, 3: lambda ranks: ranks / 2,
}  # fmt: skip
"""Micro-batches that wait for a vocabulary's parts beyond those that a pipeline of so many ranks holds without: by the
way it is split, as in ``Setup.vocabulary`` (Yeung et al. 2024, arXiv:2411.05288)."""


def saved_bytes(rank: Rank, stages: Sequence[Counter[Block]]) -> NDArray[np.float64]:
    """Return what each stage keeps of a micro-batch on its device, shape (stages,)."""
    each = {block: of_block(rank, block).kept for block in set().union(*stages)}
    found = [sum(count * each[block] for block, count in stage.items()) for stage in stages]
    return np.array(found, dtype=np.float64)


def rooms(rank: Rank, stages: Sequence[Stage], held_bytes: Sequence[float]) -> tuple[Room, ...]:
    """Return the memory of a device of each pipeline rank, at the moment at which it holds most.

    Args:
        rank: the setup and its stack.
        stages: what each rank holds of the model.
        held_bytes: activations of each at their peak, from the timeline.
    """
    keys = [(frozenset(stage.blocks.items()), stage.first, stage.last) for stage in stages]
    different = dict(zip(keys, stages, strict=True))
    known = {key: (_resting(rank, stage), [*moments(rank, stage)]) for key, stage in different.items()}
    each = zip(keys, held_bytes, strict=True)
    return tuple(_at(rank, known[key][0], *_peak(rank, *known[key], held)) for key, held in each)


def peak(rank: Rank, stage: Stage, held_bytes: float) -> tuple[Moment, float]:
    """Return the moment at which a rank holds most, and the activations that are kept then, ``held_bytes`` by the
    timeline."""
    return _peak(rank, _resting(rank, stage), [*moments(rank, stage)], held_bytes)


class Width(NamedTuple):
    """Bytes of each parameter of a rank, or of each that is ``trained``, sharded from a stage of ZeRO on; ``part`` is
    where they count in ``Room``, ``fields`` are those of the stack that say so."""

    part: str
    name: str
    size_bytes: float
    trained: bool
    stage: int
    fields: tuple[str, ...]


NEVER = 4
"""Stage of ZeRO from which on nothing is sharded."""


def widths(rank: Rank) -> list[Width]:
    """Return what parameters take between steps, all gradients included."""
    setup, stack = rank.setup, rank.stack
    half, away = setup.precision == "fp16", setup.optimizer_offload
    weight_bytes = setup.frozen_bytes if setup.adapter else stack.weight_bytes or rank.width_bytes
    state_bytes, here = half * stack.fp16_state_bytes, 1 - away * stack.offloads_master
    gradient = "fp16_gradient_bytes" if half else "gradient_bytes"
    return [
        Width("weights", "weights", weight_bytes, False, 3, ("weight_bytes",)),
        Width("gradients", "gradients", getattr(stack, gradient), True, 2, (gradient,)),
        Width("gradients", "spare gradients", 0.0 if half else stack.spare_bytes, True, NEVER, ("spare_bytes",)),
        Width("optimizer", "master weights", stack.master_bytes * here, True, 1, ("master_bytes", "offloads_master")),
        Width("optimizer", "gradients on their way", state_bytes * here, True, 1, ("fp16_state_bytes",)),
        Width("optimizer", f"moments of {setup.optimizer}", MOMENTS_BYTES[setup.optimizer] * (1 - away), True, 1, ()),
    ]


def _resting(rank: Rank, stage: Stage) -> Room:
    """What is there between steps, all gradients included."""
    counts = (parameters(rank.model, rank.setup, *stage), trained(rank, *stage))
    sums: dict[str, float] = defaultdict(float)
    for width in widths(rank):
        sums[width.part] += width.size_bytes * sharded(rank.setup, counts[width.trained], width.stage)
    return Room(**sums, context=rank.stack.context_bytes)


def vocabulary_waits(rank: Rank) -> float:
    """Return how much more than the pipeline's activations wait where the vocabulary is split, relative to them."""
    return VOCABULARY_WAITS[rank.setup.vocabulary](rank.setup.pp) / rank.setup.pp


def _peak(rank: Rank, resting: Room, times: Sequence[Moment], held_bytes: float) -> tuple[Moment, float]:
    held_bytes *= 1 + vocabulary_waits(rank)
    return max(times, key=lambda moment: moment.total(held_bytes, resting.gradients)), held_bytes


def _at(rank: Rank, resting: Room, moment: Moment, held_bytes: float) -> Room:
    activations = moment.activations(held_bytes)
    return replace(
        resting,
        gradients=resting.gradients * moment.gradients,
        activations=activations,
        loss=moment.loss,
        working=moment.working_bytes + rank.stack.workspace_bytes,
        messages=moment.messages_bytes,
        reserve=rank.stack.slack * (activations + moment.loss + moment.working_bytes),
    )
