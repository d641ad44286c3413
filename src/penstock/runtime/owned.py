"""What one rank holds of the model: its stages, and its rows of a split vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penstock.core.job import RunSpec
from penstock.core.model import Model
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.core.slicing import rounded
from penstock.lower import algorithm_of
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.messages import Boundary
from penstock.runtime.part import rows_of
from penstock.runtime.stage import Stage
from penstock.runtime.stale import micros_per_update
from penstock.runtime.vocabulary import SplitEnds


@dataclass(frozen=True, eq=False)
class Owned:
    """What one rank holds of the model.

    Args:
        modules: of each stage, with weights by the job's seed.
        stages: the same as the executor runs them.
        boundary: what crosses stage boundaries, (micro, tokens, hidden).
        lengths: tokens of the slices of a sequence.
        ends: this rank's rows of the embedding and the head, if the plan splits them.
    """

    modules: dict[int, DecoderStage]
    stages: dict[int, Stage]
    boundary: Boundary
    lengths: tuple[int, ...]
    ends: SplitEnds | None

    @classmethod
    def of(cls, spec: RunSpec, plan: Plan, rank: int, device: torch.device) -> Owned:
        """The stages that a plan places on a rank."""
        config, placement, seq = load_config(spec.model), plan.placement, spec.job.seq_length
        carries = (spec.sequences_per_micro_batch, seq // plan.slices, config.hidden_size)
        lengths = rounded(plan.slice_lengths, seq) if plan.slice_lengths else ()
        boundary = Boundary(carries, dtype_of(spec.job.precision), device, lengths)
        here, whole = placement.on(rank), not algorithm_of(plan)
        held = {} if whole else {here[0]: rows_of(rank, placement.ranks, config.vocab_size)}
        cut = Model.read(spec.model).cut(len(set(placement.part_of)), spec.strategy.stage_layers)
        split = set(plan.ops[plan.ops[:, 0] == Kind.I, 1].tolist())
        ends = {s: (placement.prev[s] == NO_STAGE, placement.next[s] == NO_STAGE) for s in here}
        modules = {
            s: DecoderStage(
                *(config, cut[placement.depth_of[s]], *ends[s], spec.job.seed, boundary.dtype, device),
                *(s in split, whole, held.get(s), plan.slices, lengths),
            )
            for s in here
        }
        scale = 1 / (plan.micros if plan.weights == "synced" else micros_per_update(plan))
        stages = {
            s: Stage(m, ends[s][0] and whole, ends[s][1] and whole, carries, scale, lengths=lengths)
            for s, m in modules.items()
        }
        own = SplitEnds.of(modules, held, scale, config.vocab_size, device) if held else None
        return cls(modules, stages, boundary, lengths or (carries[1],) * plan.slices, own)


def dtype_of(precision: str) -> torch.dtype:
    """The tensor type of a precision's name."""
    found = getattr(torch, precision)
    assert isinstance(found, torch.dtype)
    return found
