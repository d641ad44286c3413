"""All that tests use of ``torch.distributed.pipelining``'s private names (torch 2.13), in one place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

from penstock.core.plan import Plan

BUILT_IN = {
    "GPipe": 1,
    "LoopedBFS": 2,
    "Interleaved1F1B": 2,
    "InterleavedZeroBubble": 2,
    "ZBVZeroBubble": 2,
    "DualPipeV": 2,
}
"""PyTorch's schedules and the chunks per rank with which they are tried. 1F1B is not among them: it runs another order
than it prints."""
VEES = ("ZBVZeroBubble", "DualPipeV")


def held() -> list[str]:
    """Schedules that PyTorch can hold: one copy of each weight, whole micro-batches, gradients as of one device."""
    from penstock.schedules import SCHEDULES
    from penstock.schedules.table import slices_of

    fit = {name: one for name, one in SCHEDULES.items() if one.copies == 1 and one.gradient_equal}
    return [name for name, one in fit.items() if slices_of(one.lane, {}) == 1]


def fake_stages(on: tuple[int, ...], stages: int, ranks: int) -> list[Any]:
    """Stages of rank 0 that need no process group."""
    fakes = []
    for index in on:
        fake = mock.MagicMock(spec=schedules._PipelineStageBase)
        fake.stage_index, fake.num_stages, fake.group_size, fake.group_rank = index, stages, ranks, 0
        fake.is_first, fake.is_last, fake.has_backward, fake.submod = index == 0, index == stages - 1, True, None
        fakes.append(fake)
    return fakes


def loaded(file: Path, plan: Plan, fmt: str = "compute_only") -> Any:
    """PyTorch's runtime with a file loaded that was written from a plan; it cannot run."""
    place = plan.placement
    runtime = schedules._PipelineScheduleRuntime(fake_stages(place.on(0), place.stages, place.ranks), plan.micros)
    runtime._load_csv(str(file), format=fmt)
    return runtime


def orders(name: str, ranks: int, micros: int, chunks: int, defer: bool = False) -> Any:
    """PyTorch's own schedule as its runtime holds it: ``pipeline_order`` and ``pipeline_order_with_comms``."""
    stages = ranks * chunks
    on = (0, stages - 1) if name in VEES else tuple(range(0, stages, ranks))
    fakes = fake_stages(on, stages, ranks)
    kind = schedules.get_schedule_class(name)
    if chunks == 1:
        runtime = schedules._PipelineScheduleRuntime(fakes, micros, defer_pp_recv=defer)
        printed = printed_order(name, ranks, micros)
        runtime.pipeline_order = {rank: [op for op in row if op and op.is_compute_op] for rank, row in printed.items()}
        runtime._prepare_schedule_with_comms(runtime.pipeline_order)
        return runtime
    schedule = kind(fakes, micros)
    schedule._defer_pp_recv = defer
    schedule._prepare_schedule_with_comms(schedule.pipeline_order)
    return schedule


def printed_order(name: str, ranks: int, micros: int) -> dict[int, list[Any]]:
    """What a schedule of one stage per rank says it runs."""
    fakes = fake_stages((0,), ranks, ranks)
    found: dict[int, list[Any]] = schedules.get_schedule_class(name)(fakes[0], micros)._get_pipeline_order()
    return found


def dumped(schedule: Any, folder: Path, fmt: str) -> Path:
    """The file that PyTorch writes."""
    file = folder / f"{fmt}.csv"
    schedule._dump_csv(str(file), format=fmt)
    return file


def runtime_step(
    file: Path, plan: Plan, fmt: str, modules: dict[int, nn.Module], loss: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], None]:
    """One step of PyTorch's runtime over this process's stages, in the order of a file; gradients stay in modules."""
    place = plan.placement
    stages: list[Any] = [PipelineStage(modules[s], s, place.stages, torch.device("cpu")) for s in modules]
    runtime = schedules._PipelineScheduleRuntime(stages, plan.micros, loss_fn=loss)
    runtime._load_csv(str(file), format=fmt)

    def step(inputs: Tensor, targets: Tensor) -> None:
        runtime.step(
            *([inputs] if 0 in modules else []), **({"target": targets} if place.stages - 1 in modules else {})
        )

    return step
