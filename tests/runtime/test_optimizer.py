"""The optimizer over stages on ranks is one optimizer over the whole model."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import Tensor, nn

from penstock.core.job import Job
from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.runtime.optimizer import Optimizer, learning_rate

JOB = Job(steps=10, warmup_steps=2, learning_rate=0.05, weight_decay=0.2, clip_norm=0.8)


class Piece(nn.Module):
    """A matrix and a vector; at the ends of a tied model also a copy of the shared matrix."""

    def __init__(self, stage: int, shared: bool = False) -> None:
        super().__init__()
        maker = torch.Generator().manual_seed(stage)
        self.matrix = nn.Parameter(torch.randn(4, 3, generator=maker))
        self.vector = nn.Parameter(torch.randn(5, generator=maker))
        self.tied: dict[str, nn.Parameter] = {}
        if shared:
            self.embedding = nn.Parameter(torch.randn(6, 2, generator=torch.Generator().manual_seed(99)))
            self.tied = {"embedding": self.embedding}

    def fill(self, stage: int, step: int) -> None:
        for number, param in enumerate(self.parameters()):
            maker = torch.Generator().manual_seed(1000 * step + 10 * stage + number)
            param.grad = torch.randn(param.shape, generator=maker) * (0.02 if step % 2 else 0.5)


def plan_on(rank_of: tuple[int, ...]) -> Plan:
    return Plan("steps", Placement(rank_of), 1, tuple(Lane.of([]) for _ in range(max(rank_of) + 1)))


def stages_of(count: int, tied: bool) -> dict[int, Piece]:
    return {s: Piece(s, tied and count > 1 and s in (0, count - 1)) for s in range(count)}


def whole(count: int, tied: bool, steps: int, job: Job = JOB) -> tuple[dict[str, Tensor], list[float]]:
    """torch's own AdamW and clipping over all weights at once, the shared one being one parameter."""
    pieces = stages_of(count, tied)
    params = {f"{s}.{n}": p for s, m in pieces.items() for n, p in m.named_parameters()}
    copy = params.pop(f"{count - 1}.embedding", None)
    first = params.get("0.embedding")
    matrices = [p for p in params.values() if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": job.weight_decay},
              {"params": [p for p in params.values() if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    adam = torch.optim.AdamW(groups, betas=(job.beta1, job.beta2), foreach=False)
    norms = []
    for step in range(1, steps + 1):
        for s, piece in pieces.items():
            piece.fill(s, step)
        if copy is not None and first is not None:
            first.grad = first.grad + copy.grad
        norms.append(nn.utils.clip_grad_norm_(params.values(), job.clip_norm or math.inf).item())
        for group in adam.param_groups:
            group["lr"] = learning_rate(job, step)
        adam.step()
    found = {name: p.detach() for name, p in params.items()}
    if first is not None:
        found[f"{count - 1}.embedding"] = first.detach()
    return found, norms


def on_stages(plan: Plan, rank: int, tied: bool, steps: int, job: Job = JOB) -> tuple[dict[str, Tensor], list[float]]:
    pieces = {s: m for s, m in stages_of(plan.placement.stages, tied).items() if plan.placement.rank_of[s] == rank}
    optimizer, norms = Optimizer(job, pieces, plan, rank), []
    for step in range(1, steps + 1):
        for s, piece in pieces.items():
            piece.fill(s, step)
        optimizer.step_number = step
        for s in plan.placement.on(rank):
            optimizer.step(s)
        norms.append(optimizer.norm)
        assert all(p.grad is None for piece in pieces.values() for p in piece.parameters())
    return {f"{s}.{n}": p.detach() for s, m in pieces.items() for n, p in m.named_parameters()}, norms


@pytest.mark.parametrize("rank_of", [(0,), (0, 0), (0, 1), (0, 1, 0, 1), (0, 1, 1, 0), (0, 1, 2)], ids=str)
def test_it_is_one_optimizer_over_the_whole_model(rank_of: tuple[int, ...]) -> None:
    """Weights after six steps and the norm of each, clipped or not, with shared weights on one rank, on two, and on
    none."""
    plan = plan_on(rank_of)
    cases = [(tied, replace(JOB, clip_norm=clip)) for tied in (False, True) for clip in (0.8, 0.0)]

    def work(rank: int) -> list[tuple[dict[str, Tensor], list[float]]]:
        return [on_stages(plan, rank, tied, 6, job) for tied, job in cases]

    parts = [work(0)] if plan.placement.ranks == 1 else on_ranks(plan.placement.ranks, work)
    for (tied, job), each in zip(cases, zip(*parts, strict=True), strict=True):
        expected, norms = whole(len(rank_of), tied, 6, job)
        assert not job.clip_norm or min(norms) < job.clip_norm < max(norms)
        found: dict[str, Tensor] = {}
        for weights, seen in each:
            found |= weights
            assert seen == pytest.approx(norms, rel=1e-6), (tied, job.clip_norm)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=2e-6, atol=1e-7), (name, tied, job.clip_norm)


def test_the_callers_figure_is_summed_over_ranks() -> None:
    plan = plan_on((0, 1, 2))

    def work(rank: int) -> float:
        optimizer = Optimizer(JOB, {rank: Piece(rank)}, plan, rank)
        optimizer.total, optimizer.step_number = 10.0**rank, 1
        optimizer.step(rank)
        return optimizer.total

    assert on_ranks(3, work) == [111.0] * 3


def test_frozen_weights_stay() -> None:
    piece = Piece(0)
    piece.matrix.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in piece.named_parameters()}
    optimizer = Optimizer(JOB, {0: piece}, plan_on((0,)), 0)
    piece.vector.grad = torch.ones_like(piece.vector)
    optimizer.step_number = 1
    optimizer.step(0)
    assert torch.equal(piece.matrix, before["matrix"])
    assert not torch.equal(piece.vector, before["vector"])
    assert set(optimizer.state()) == {"vector"}


def test_a_stage_without_weights_has_a_step_too() -> None:
    plan = plan_on((0, 1))

    def work(rank: int) -> float:
        module: nn.Module = Piece(0) if rank == 0 else nn.Identity()
        optimizer = Optimizer(JOB, {rank: module}, plan, rank)
        if isinstance(module, Piece):
            module.fill(0, 2)
        optimizer.step_number = 1
        optimizer.step(rank)
        assert rank == 0 or optimizer.state() == {}
        return optimizer.norm

    first, second = on_ranks(2, work)
    assert first == second > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_stops_all_ranks_before_any_weight_moves(bad: float) -> None:
    plan = plan_on((0, 1))

    def work(rank: int) -> tuple[str, bool]:
        piece = Piece(rank)
        before = [p.detach().clone() for p in piece.parameters()]
        optimizer = Optimizer(JOB, {rank: piece}, plan, rank)
        piece.fill(rank, 1)
        if rank == 1:
            piece.vector.grad[2] = bad
        optimizer.step_number = 7
        try:
            optimizer.step(rank)
        except FloatingPointError as error:
            return str(error), all(torch.equal(a, b) for a, b in zip(piece.parameters(), before, strict=True))
        return "no error", False

    for message, still in on_ranks(2, work):
        assert message == f"the gradient norm of step 7 is {bad}; lower learning_rate=0.05 or set clip_norm"
        assert still


def test_its_state_takes_it_elsewhere() -> None:
    """Three steps, state into a fresh optimizer, three more: as six in one go."""
    plan = plan_on((0,))

    def steps(optimizer: Optimizer, piece: Piece, which: range) -> None:
        for step in which:
            piece.fill(0, step)
            optimizer.step_number = step
            optimizer.step(0)

    straight = Piece(0)
    steps(Optimizer(JOB, {0: straight}, plan, 0), straight, range(1, 7))
    old, new = Piece(0), Piece(0)
    before, after = (Optimizer(JOB, {0: piece}, plan, 0) for piece in (old, new))
    steps(before, old, range(1, 4))
    new.load_state_dict(old.state_dict())
    for name, held in before.state().items():
        for key, value in after.state()[name].items():
            value.copy_(held[key])
    steps(after, new, range(4, 7))
    assert torch.equal(straight.matrix, new.matrix)
    assert torch.equal(straight.vector, new.vector)


@pytest.mark.parametrize(("step", "rate"), [(1, 0.025), (2, 0.05), (6, 0.0275), (10, 0.005), (11, 0.005)])
def test_learning_rate(step: int, rate: float) -> None:
    assert learning_rate(JOB, step) == pytest.approx(rate)


@pytest.mark.parametrize(
    "facts", [{"steps": 1, "warmup_steps": 0}, {"steps": 1, "warmup_steps": 1}, {"steps": 3, "warmup_steps": 9}]
)
def test_learning_rates_of_odd_jobs_are_finite(facts: dict[str, Any]) -> None:
    job = Job(learning_rate=1.0, **facts)
    rates = [learning_rate(job, step) for step in range(1, job.steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)


def test_no_process_group_is_needed_on_one_rank() -> None:
    assert not dist.is_initialized()
    on_stages(plan_on((0, 0)), 0, True, 1)
