"""Every schedule that PyTorch can hold runs in PyTorch's own runtime, from the file that is written for it, with the
gradients of one device."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import torch_peer
from penstock.core.plan import Plan
from penstock.export import to_csv
from penstock.lower import add_sends
from penstock.schedules import SCHEDULES, build
from runtime.ranks import on_ranks

WIDTH, ROWS = 6, 2
EXACT = 1e-12
HELD = [name for name, one in SCHEDULES.items() if one.copies == 1 and one.gradient_equal]
"""Schedules with each stage on one rank."""


def block(stage: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage)
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()).double()


def loss(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def batch(micros: int) -> tuple[Tensor, Tensor]:
    maker = torch.Generator().manual_seed(11)
    inputs, targets = (torch.randn(micros * ROWS, WIDTH, generator=maker, dtype=torch.float64) for _ in range(2))
    return inputs, targets


@cache
def reference(stages: int, micros: int) -> dict[int, list[Tensor]]:
    """Gradients of each stage on one device."""
    modules = [block(stage) for stage in range(stages)]
    inputs, targets = batch(micros)
    loss(nn.Sequential(*modules)(inputs), targets).backward()
    return {s: [param.grad for param in module.parameters()] for s, module in enumerate(modules)}


def on_one_rank(rank: int, plan: Plan, file: Path, fmt: str) -> dict[int, list[Tensor]]:
    modules = {stage: block(stage) for stage in plan.placement.on(rank)}
    step = torch_peer.runtime_step(file, plan, fmt, modules, loss)
    step(*batch(plan.micros))
    return {s: [param.grad for param in module.parameters()] for s, module in modules.items()}


def same_gradients(plan: Plan, tmp_path: Path, comms: bool) -> None:
    file = tmp_path / "plan.csv"
    file.write_text(to_csv(add_sends(plan) if comms else plan, comms=comms))
    fmt = "compute_comms" if comms else "compute_only"
    parts = on_ranks(plan.placement.ranks, lambda rank: on_one_rank(rank, plan, file, fmt))
    found = {stage: grads for part in parts for stage, grads in part.items()}
    wanted = reference(plan.placement.stages, plan.micros)
    assert found.keys() == wanted.keys()
    for stage, grads in wanted.items():
        for mine, theirs in zip(found[stage], grads, strict=True):
            assert (mine - theirs).abs().max() <= EXACT * theirs.abs().max()


@pytest.mark.parametrize("comms", [False, True], ids=["compute_only", "compute_comms"])
@pytest.mark.parametrize("name", HELD)
def test_on_two_ranks(name, comms, tmp_path):
    same_gradients(build(name, 2, 4, SCHEDULES[name].least_chunks(2, 4)), tmp_path, comms)


@pytest.mark.parametrize("name", HELD)
def test_on_four_ranks(name, tmp_path):
    same_gradients(build(name, 4, 8, 2 if SCHEDULES[name].chunks else 1), tmp_path, comms=True)
