"""Every schedule that PyTorch can hold runs in PyTorch's own runtime, from the file that is written for it, with the
gradients of one device; what the check refuses goes wrong there."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import torch_peer
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.export import read_csv, to_csv
from penstock.lower import add_sends
from penstock.schedules import SCHEDULES, build
from runtime.ranks import on_ranks

WIDTH, ROWS = 6, 2
EXACT = 1e-12
HELD = torch_peer.held()
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


def error(plan: Plan, file: Path, fmt: str) -> float:
    """Largest difference to the gradients of one device, over the largest gradient of each parameter."""
    parts = on_ranks(plan.placement.ranks, lambda rank: on_one_rank(rank, plan, file, fmt))
    found = {stage: grads for part in parts for stage, grads in part.items()}
    wanted = reference(plan.placement.stages, plan.micros)
    assert found.keys() == wanted.keys()
    return max(
        float((mine - theirs).abs().max() / theirs.abs().max())
        for stage, grads in wanted.items()
        for mine, theirs in zip(found[stage], grads, strict=True)
    )


def same_gradients(plan: Plan, tmp_path: Path, comms: bool) -> None:
    file = tmp_path / "plan.csv"
    file.write_text(to_csv(add_sends(plan) if comms else plan, comms=comms))
    assert error(plan, file, "compute_comms" if comms else "compute_only") <= EXACT


@pytest.mark.parametrize(
    "comms", [pytest.param(False, marks=pytest.mark.slow), True], ids=["compute_only", "compute_comms"]
)
@pytest.mark.parametrize("name", HELD)
def test_on_two_ranks(name, comms, tmp_path):
    same_gradients(build(name, 2, 4, SCHEDULES[name].least_chunks(2, 4)), tmp_path, comms)


@pytest.mark.parametrize(
    "name", [*HELD[::4], *(pytest.param(name, marks=pytest.mark.slow) for name in HELD if name not in HELD[::4])]
)
def test_on_four_ranks(name, tmp_path):
    same_gradients(build(name, 4, 8, 2 if SCHEDULES[name].chunks else 1), tmp_path, comms=True)


def test_an_order_of_pytorch_s_that_the_check_refuses_has_other_gradients_there(tmp_path):
    """With ``defer_pp_recv`` (2.13) messages of one link are received in another order than they are sent."""
    schedule = torch_peer.orders("ZBVZeroBubble", 2, 4, 2, defer=True)
    file = torch_peer.dumped(schedule, tmp_path, "compute_comms")
    plan = read_csv(file)
    assert "2RECV_B0: is received before 1RECV_F2, but sent after it" in str(problems(plan)[0])
    assert error(plan, file, "compute_comms") > 0.1
