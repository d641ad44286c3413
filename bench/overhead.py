"""Host overhead per compute op: our executor beside torch.distributed.pipelining, same orders, same modules, one run.

Two gloo ranks with stages of one tiny Linear, so that nearly all time is the runtime's own. Overhead is the main
thread's CPU time of a step, less that of the bare modules' forwards and backwards, per compute op. The runtimes take
turns; the table shows medians over rounds, the median of the ratio in each round, and the ratio that must not be
passed.

    python bench/overhead.py [--micros 64] [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as peer

from penstock.core.lane import Lane
from penstock.core.op import COMPUTE, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check
from penstock.lower import add_sends
from penstock.runtime.execute import Executor
from penstock.runtime.messages import Boundary
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Links

SCHEDULES = {
    "1F1B": (peer.Schedule1F1B, 1, Placement.loop),
    "Interleaved1F1B": (peer.ScheduleInterleaved1F1B, 2, Placement.loop),
    "InterleavedZeroBubble": (peer.ScheduleInterleavedZeroBubble, 2, Placement.loop),
    "ZBVZeroBubble": (peer.ScheduleZBVZeroBubble, 2, Placement.vee),
    "DualPipeV": (peer.ScheduleDualPipeV, 2, Placement.vee),
}
WIDTH = 2


def loss_of(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


class WithLoss(nn.Module):
    """A last stage as our executor takes it: the loss is part of the module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return loss_of(self.module(x), target)


def linear(stage: int) -> nn.Module:
    torch.manual_seed(stage)
    return nn.Linear(WIDTH, WIDTH)


def peer_step(name: str, rank: int, micros: int) -> tuple[Callable[[], None], dict[int, list[Any]]]:
    """One step of PyTorch's runtime, and the orders it runs."""
    kind, chunks, place = SCHEDULES[name]
    placement = place(2, chunks)
    stages = [PipelineStage(linear(s), s, placement.stages, torch.device("cpu")) for s in placement.on(rank)]
    first = stages[0] if chunks == 1 else stages
    schedule = kind(first, n_microbatches=micros, loss_fn=loss_of)  # type: ignore[arg-type]
    batch = torch.ones(micros, WIDTH)
    holds_last = placement.rank_of[-1] == rank

    def step() -> None:
        arguments = (batch,) if placement.rank_of[0] == rank else ()
        schedule.step(*arguments, **({"target": batch} if holds_last else {}))
        for stage in stages:
            stage.submod.zero_grad()

    return step, getattr(schedule, "pipeline_order", {})


def our_step(name: str, orders: dict[int, list[Any]], rank: int, micros: int) -> tuple[Callable[[], None], int]:
    """One step of our executor on the same orders, and its compute ops on this rank."""
    _, chunks, place = SCHEDULES[name]
    placement = place(2, chunks)
    if name == "1F1B":
        from penstock.schedules import build

        plan = build("1f1b", 2, micros)
    else:
        lanes = (Lane.parse(" ".join(str(action) for action in orders[r] if action is not None)) for r in range(2))
        plan = Plan(name, placement, micros, tuple(lanes))
    plan = add_sends(plan)
    check(plan)
    last = placement.stages - 1
    split = any(op.kind == Kind.I for lane in plan.lanes for op in lane)
    stages = {
        s: Stage(WithLoss(linear(s)) if s == last else linear(s), s == 0, s == last, (1, WIDTH), 1 / micros, split)
        for s in placement.on(rank)
    }
    executor = Executor(plan, rank, stages, Links(plan, rank), Boundary((1, WIDTH), torch.float32, torch.device("cpu")))
    batch = torch.ones(micros, WIDTH).chunk(micros)

    def step() -> None:
        executor.run(batch, batch)
        executor.take_losses()
        for stage in stages.values():
            stage.module.zero_grad()

    return step, sum(op.kind in COMPUTE for op in plan.lanes[rank])


def bare_step(rank: int, name: str, micros: int) -> Callable[[], None]:
    """Forwards and backwards of this rank's modules and nothing else."""
    _, chunks, place = SCHEDULES[name]
    placement = place(2, chunks)
    modules = {s: linear(s) for s in placement.on(rank)}
    x = torch.ones(1, WIDTH)

    def step() -> None:
        for s, module in modules.items():
            for _ in range(micros):
                leaf = x.detach().requires_grad_(s > 0)
                y = module(leaf)
                if s == placement.stages - 1:
                    loss_of(y, x).backward()
                else:
                    torch.autograd.backward(y, x)
            module.zero_grad()

    return step


def cpu_s(step: Callable[[], None]) -> float:
    dist.barrier()
    begun = time.thread_time()
    step()
    return time.thread_time() - begun


def rank_main(rank: int, store: str, micros: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    if rank == 0:
        print(f"2 gloo ranks, {micros} micro-batches, {rounds} rounds; host overhead in us per compute op of rank 0")
        print(f"{'order':24}{'PyTorch':>10}{'Penstock':>10}{'ratio':>8}{'at most':>9}")
    for name in SCHEDULES:
        theirs, orders = peer_step(name, rank, micros)
        ours, ops = our_step(name, orders, rank, micros)
        bare = bare_step(rank, name, micros)
        for step in (theirs, ours, bare) * 3:
            step()
        rows = []
        for _ in range(rounds):
            peer_s, our_s, bare_s = cpu_s(theirs), cpu_s(ours), cpu_s(bare)
            rows.append(((peer_s - bare_s) / ops * 1e6, (our_s - bare_s) / ops * 1e6))
        if rank == 0:
            a, b = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio = statistics.median(y / x for x, y in rows)
            print(f"{name:24}{a:10.1f}{b:10.1f}{ratio:8.2f}{1.0 if name == '1F1B' else 0.5:9.1f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micros", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, (f"{folder}/store", arguments.micros, arguments.rounds), nprocs=2)


if __name__ == "__main__":
    main()
