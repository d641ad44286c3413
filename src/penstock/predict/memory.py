"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.setup import MOMENTS_BYTES
from penstock.predict.micro import Rank
from penstock.predict.moments import Moment, Stage, moments, of_block, sharded
from penstock.predict.prediction import Room
from penstock.predict.sizes import parameters, trained
from penstock.predict.split import Split

Floats = NDArray[np.float64]
NAMES = tuple(field.name for field in fields(Room))
"""What a room is made of."""
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
    alike: dict[Any, list[int]] = {}
    for r, stage in enumerate(stages):
        alike.setdefault((frozenset(stage.blocks.items()), stage.first, stage.last), []).append(r)
    waits = 1 + VOCABULARY_WAITS[rank.setup.vocabulary](rank.setup.pp) / rank.setup.pp
    held, found = waits * np.asarray(held_bytes, dtype=np.float64), {}
    for ranks in alike.values():
        peak = _at_peak(rank, stages[ranks[0]], held[ranks])
        columns = [np.broadcast_to(getattr(peak, name), len(ranks)).tolist() for name in NAMES]
        found |= {r: Room(**dict(zip(NAMES, row, strict=True))) for r, *row in zip(ranks, *columns, strict=True)}
    return tuple(found[r] for r in range(len(stages)))


def peak_bytes(rank: Split, stage: Stage, held_bytes: Floats) -> tuple[Floats, Floats]:
    """Return what devices hold at their peak, and what of it must fit, for many at once: arrays as in ``stage``."""
    found = _at_peak(rank, stage, held_bytes)
    total = sum(getattr(found, name) for name in NAMES)
    return total, total - found.reserve


def _resting(rank: Split, stage: Stage) -> Room:
    """What is there between steps, all gradients included."""
    setup, stack = rank.setup, rank.stack
    whole, counts = parameters(rank.model, setup, *stage), trained(rank, *stage)
    half, away = setup.precision == "fp16", setup.optimizer_offload
    weight_bytes = setup.frozen_bytes if setup.adapter else stack.weight_bytes or rank.width_bytes
    gradient_bytes = stack.fp16_gradient_bytes if half else stack.gradient_bytes
    spare_bytes = 0.0 if half else stack.spare_bytes
    master_bytes = (stack.master_bytes + half * stack.fp16_state_bytes) * (1 - away * stack.offloads_master)
    return Room(
        weights=weight_bytes * sharded(setup, whole, 3),
        gradients=gradient_bytes * sharded(setup, counts, 2) + spare_bytes * sum(counts),
        optimizer=(master_bytes + MOMENTS_BYTES[setup.optimizer] * (1 - away)) * sharded(setup, counts, 1),
        context=stack.context_bytes,
    )


def _at_peak(rank: Split, stage: Stage, held_bytes: Floats) -> Room:
    """What is there when it is most, in arrays of the shape of ``held_bytes``."""
    resting, times = _resting(rank, stage), [*moments(rank, stage)]
    totals = _stacked([moment.total(held_bytes, resting.gradients) for moment in times], held_bytes.shape)
    best = totals.argmax(axis=0)[None]
    columns = (_stacked(each, held_bytes.shape) for each in zip(*times, strict=True))
    peak = Moment(*(np.take_along_axis(column, best, 0)[0] for column in columns))
    activations = peak.activations(held_bytes)
    return replace(
        resting,
        gradients=resting.gradients * peak.gradients,
        activations=activations,
        loss=peak.loss,
        working=peak.working + rank.stack.workspace_bytes,
        messages=peak.messages,
        reserve=rank.stack.slack * (activations + peak.loss + peak.working),
    )


def _stacked(each: Sequence[Any], shape: tuple[int, ...]) -> Floats:
    found = np.empty((len(each), *shape))
    for place, one in zip(found, each, strict=True):
        place[...] = one
    return found
