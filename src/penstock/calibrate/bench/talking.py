"""Collectives and messages between the ranks of this machine: gloo between processes, NCCL between GPUs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.calibrate.bench.pieces import Facts, Machine, Piece
from penstock.calibrate.bench.timers import BATCHES
from penstock.calibrate.shapes import sizes

_gather: Any = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_scatter: Any = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
"""The same under the names that PyTorch gives them from 2.12 on."""
_SENDS, _BUSY_S, _COUNTED = 40, 0.01, 36
"""Messages, how long their sender computes on, and how many count, the quickest: their mean, as a thread that copies
has a core at once or waits for its turn."""
KINDS = ("all_reduce", "send", "all_gather", "reduce_scatter", "all_to_all")


def pieces(machine: Machine, _: float) -> list[Piece]:
    """Every kind over every size, among two ranks, four, ... and all; every rank calls it with the same ranks."""
    largest = 512 << 20 if machine.cuda else 64 << 20
    counts = sorted({2**power for power in range(1, int(math.log2(machine.ranks)) + 1)} | {machine.ranks})
    groups = {count: dist.new_group(list(range(count))) for count in counts}
    found = []
    for size in sizes(1 << 10, largest, 8):
        for kind in KINDS:
            for count in counts if kind != "send" else counts[:1]:
                facts = {"kind": kind, "ranks": count, "bytes": size}
                found.append(Piece(facts, partial(_run, machine, kind, size, count, groups[count])))
    return found


def _run(machine: Machine, kind: str, size: int, count: int, group: Any) -> Iterator[tuple[Facts, float]]:
    if machine.rank >= count:
        yield {}, math.nan
        return
    if kind == "send" and not machine.cuda:
        yield {}, _beside_work_s(machine, size, group)
        return
    call = _call(machine, kind, size, count, group)
    often = _often(size, machine.cuda)
    for _ in range(2):
        call()
    machine.timer.settle()
    samples = []
    for _ in range(BATCHES):
        begun = perf_counter()
        for _ in range(often):
            call()
        machine.timer.settle()
        samples.append((perf_counter() - begun) / often)
    yield {}, statistics.median(samples) / (2 if kind == "send" else 1)


def _often(size: int, cuda: bool) -> int:
    """Calls in a row: the same on all ranks, whatever they measured."""
    return max(4, min(100, (1 << 28 if cuda else 1 << 24) // size))


def _call(machine: Machine, kind: str, size: int, count: int, group: Any) -> Callable[[], object]:
    """``size`` is the whole tensor: what is reduced, gathered or scattered, or what one rank sends."""
    items = max(count, size // 4 // count * count)
    whole = torch.ones(items, device=machine.device)
    part = torch.ones(items // count, device=machine.device)
    there = torch.empty_like(whole)
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": partial(dist.all_reduce, whole.zero_(), group=group),
        "all_gather": partial(_gather, whole, part, group=group),
        "reduce_scatter": partial(_scatter, part, whole, group=group),
        "all_to_all": partial(dist.all_to_all_single, there, whole, group=group),
        "send": partial(_there_and_back, whole, machine.rank, group),
    }
    return calls[kind]


def _there_and_back(message: Tensor, rank: int, group: Any) -> None:
    """Rank 0 sends to rank 1, which answers with as much."""
    if rank == 0:
        dist.send(message, 1, group=group)
        dist.recv(message, 1, group=group)
    else:
        dist.recv(message, 0, group=group)
        dist.send(message, 0, group=group)


def _beside_work_s(machine: Machine, size: int, group: Any) -> float:
    """Seconds of a message between processes whose sender computes on, as a run has them: threads that copy share its
    core. All processes of a machine have one clock."""
    message, x = torch.ones(size // 4), torch.ones(256, 256)
    told = torch.zeros(1, dtype=torch.float64)
    samples = []
    for _ in range(_SENDS):
        dist.barrier(group)
        if machine.rank == 0:
            begun = perf_counter()
            sending = dist.isend(message, 1, group=group)
            assert sending is not None
            while perf_counter() - begun < _BUSY_S:
                torch.mm(x, x)
            sending.wait()
            dist.recv(told, 1, group=group)
            samples.append(told.item() - begun)
        else:
            dist.recv(message, 0, group=group)
            dist.send(told.fill_(perf_counter()), 0, group=group)
    return statistics.mean(sorted(samples)[:_COUNTED]) if samples else math.nan
