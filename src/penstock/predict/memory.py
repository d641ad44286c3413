"""What a training step needs of each device's memory, by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.setup import MOMENTS_BYTES
from penstock.predict.micro import Rank
from penstock.predict.moments import Stage, moments, of_block, sharded
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


def room(rank: Rank, mine: Counter[Block], held_bytes: float, first: bool, last: bool) -> Room:
    """Return the memory of a device of one pipeline rank, at the moment at which it holds most.

    Args:
        rank: the setup and its stack.
        mine: the blocks of its stages.
        held_bytes: activations at their peak, from the timeline.
        first, last: whether it holds the embedding, the head.
    """
    setup, stack, stage = rank.setup, rank.stack, Stage(mine, first, last)
    whole, counts = parameters(rank.model, setup, *stage), trained(rank, *stage)
    half, away = setup.precision == "fp16", setup.optimizer_offload
    weight_bytes = setup.frozen_bytes if setup.adapter else stack.weight_bytes or rank.width_bytes
    gradient_bytes = stack.fp16_gradient_bytes if half else stack.gradient_bytes
    spare_bytes = 0.0 if half else stack.spare_bytes
    master_bytes = (stack.master_bytes + half * stack.fp16_state_bytes) * (1 - away * stack.offloads_master)
    gradients = gradient_bytes * sharded(setup, counts, 2) + spare_bytes * sum(counts)
    held_bytes *= 1 + VOCABULARY_WAITS[setup.vocabulary](setup.pp) / setup.pp
    peak = max(moments(rank, stage, held_bytes), key=lambda moment: moment.total(gradients))
    return Room(
        weights=weight_bytes * sharded(setup, whole, 3),
        gradients=gradients * peak.gradients,
        optimizer=(master_bytes + MOMENTS_BYTES[setup.optimizer] * (1 - away)) * sharded(setup, counts, 1),
        activations=peak.activations,
        loss=peak.loss,
        working=peak.working + stack.workspace_bytes,
        messages=peak.messages,
        reserve=stack.slack * (peak.activations + peak.loss + peak.working),
        context=stack.context_bytes,
    )
