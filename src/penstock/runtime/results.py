"""The end of a run: predicted beside measured, on disk and in a few lines."""

from __future__ import annotations

import json
import math
import resource
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from penstock.core.costs import Costs
from penstock.core.files import write_whole
from penstock.core.job import RunSpec
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine.simulate import simulate
from penstock.engine.steady import period_s
from penstock.runtime.clock import offset_s
from penstock.runtime.measure import Times, measured_costs, measured_timeline
from penstock.runtime.trained import CALIBRATION_STEPS, WARM_STEPS, Trained


def collect(
    plan: Plan, spec: RunSpec, trained: Trained, folder: Path, rank: int, device: torch.device
) -> dict[str, Any] | None:
    """Gather what all ranks measured; on rank 0 write ``costs.json``, ``predicted.json``, ``measured.json`` and
    ``result.json``, and return the last one's content.

    Costs come from the first steps of this process (after those that warm up), the measured timeline is that of the
    step whose time is the median of the later ones.
    """
    first, later = _split(sorted(trained.wall_s))
    shown = _agreed(_median_step(trained.wall_s, [step for step in later or first if step in trained.times]))
    wanted = [*first, shown]
    offset = offset_s(rank, plan.placement.ranks, device)
    mine = {
        "times": {step: trained.times[step] + offset for step in wanted},
        "saved": trained.saved,
        "shares": trained.shares,
        "peak_buffers": trained.peak_buffers,
        "rollback_bytes": trained.rollback_bytes,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    ranks = _gather(mine, rank, plan.placement.ranks)
    if rank != 0:
        return None
    steps = {step: np.concatenate([each["times"][step] for each in ranks], axis=1) for step in wanted}
    costs = _costs(plan, ranks, [steps[step] for step in first], trained.boundary_bytes)
    predicted = simulate(plan, costs)
    measured = measured_timeline(plan, steps[shown], costs)
    result = _result(spec, trained, (predicted, measured), period_s(plan, costs), later or first)
    if trained.change is not None:
        result["solve"] = asdict(trained.change) | {"measured_s": result["measured_step_s"]}
    if not plan.barrier:
        result["rollbacks"] = trained.rollbacks
        result["rollback_bytes"] = [each["rollback_bytes"] for each in ranks]
    result["peak_boundary_tensors"] = [each["peak_buffers"] for each in ranks]
    result["peak_rss_bytes"] = [each["peak_rss_bytes"] for each in ranks]
    for name, content in (
        ("costs.json", json.dumps(costs.to_dict(), indent=1)),
        ("predicted.json", predicted.to_json()),
        ("measured.json", measured.to_json()),
        ("result.json", json.dumps(result, indent=1)),
    ):
        write_whole(folder / name, content)
    return result


def costs_so_far(plan: Plan, trained: Trained, rank: int, device: torch.device) -> Costs | None:
    """What the steps that calibrate have shown, on rank 0; all ranks must ask together."""
    first, _ = _split(sorted(trained.wall_s))
    offset = offset_s(rank, plan.placement.ranks, device)
    mine = {"times": {step: trained.times[step] + offset for step in first}}
    ranks = _gather(mine | {"saved": trained.saved, "shares": trained.shares}, rank, plan.placement.ranks)
    if rank != 0:
        return None
    steps = [np.concatenate([each["times"][step] for each in ranks], axis=1) for step in first]
    return _costs(plan, ranks, steps, trained.boundary_bytes)


def _costs(plan: Plan, ranks: list[dict[str, Any]], steps: list[Times], boundary_bytes: float) -> Costs:
    """From what the ranks have gathered."""
    saved, shares = (
        [next(each[what][s] for each in ranks if s in each[what]) for s in range(plan.placement.stages)]
        for what in ("saved", "shares")
    )
    return measured_costs(plan, steps, saved, boundary_bytes, shares)


def _split(steps: list[int]) -> tuple[list[int], list[int]]:
    """Steps that calibrate and steps that are judged; few steps leave none to judge."""
    warm = steps[WARM_STEPS:] or steps
    return warm[:CALIBRATION_STEPS], warm[CALIBRATION_STEPS:]


def _median_step(wall_s: dict[int, float], steps: list[int]) -> int:
    ordered = sorted(steps, key=lambda step: wall_s[step])
    return ordered[len(ordered) // 2]


def _agreed(step: int) -> int:
    """Rank 0's choice, on all ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return step
    choice = [step]
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def _gather(mine: dict[str, Any], rank: int, ranks: int) -> list[dict[str, Any]]:
    if not dist.is_initialized() or ranks == 1:
        return [mine]
    found: list[Any] | None = [None] * ranks if rank == 0 else None
    dist.gather_object(mine, found)
    return found or []


def _result(
    spec: RunSpec, trained: Trained, timelines: tuple[Timeline, Timeline], predicted_s: float, judged: list[int]
) -> dict[str, Any]:
    predicted, measured = timelines
    bubbles = [each.bubble_sync if each.plan.barrier else each.bubble_span for each in timelines]
    measured_s = statistics.median(trained.wall_s[step] for step in judged)
    return {
        "model": spec.model,
        "schedule": spec.strategy.schedule,
        "ranks": spec.strategy.ranks,
        "steps": spec.job.steps,
        "train_loss": _number(trained.loss),
        "held_out_loss": _number(trained.held_out),
        "held_out_loss_before": _number(trained.held_out_before),
        "predicted_step_s": predicted_s,
        "measured_step_s": measured_s,
        "step_error": predicted_s / measured_s - 1,
        "predicted_bubble": bubbles[0],
        "measured_bubble": bubbles[1],
        "predicted_peak_bytes": predicted.peak_bytes.tolist(),
        "measured_peak_bytes": measured.peak_bytes.tolist(),
        "tokens_per_s": spec.job.tokens_per_step / measured_s,
        "judged_steps": len(judged),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
