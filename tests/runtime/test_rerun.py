"""Recompute at work: the same gradients and losses, and only inputs kept in between."""

from functools import partial
from pipes import ROWS, WIDTH, block_executor, executor_of, plan_of, rows

import pytest
import torch
from ranks import on_ranks
from torch import nn

from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine import check
from penstock.lower import recompute


def outcome(plan: Plan, rank: int) -> tuple[list[float], list[torch.Tensor]]:
    executor = block_executor(plan, rank)
    executor.run(*rows(plan.micros))
    assert not any(one._kept for one in executor._again.values())
    losses = [loss.item() for loss in executor.take_losses()]
    return losses, [p.grad for s in sorted(executor.stages) for p in executor.stages[s].module.parameters()]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved", "zb-v"])
def test_gradients_and_losses_stay(name: str, ranks: int) -> None:
    plan = plan_of(name, ranks, 8)
    usual = on_ranks(ranks, partial(outcome, plan))
    for stages in (None, {1, plan.placement.stages - 1}):
        again = recompute(plan, stages)
        check(again)
        assert (again.ops[:, 0] == Kind.R).sum() == 8 * (plan.placement.stages if stages is None else len(stages))
        for (losses, grads), (others, same) in zip(usual, on_ranks(ranks, partial(outcome, again)), strict=True):
            assert losses == others
            assert all((a - b).abs().max() <= 1e-12 for a, b in zip(grads, same, strict=True))


def test_a_forward_keeps_no_graph_until_r() -> None:
    """Bytes kept for the backward, counted as autograd saves them, op by op."""
    plan = recompute(plan_of("gpipe", 1, 3))
    alive: list[tuple[Kind, int]] = []
    executor = block_executor(plan, 0)
    actions = executor._actions

    def noting(kind, action):
        def note() -> None:
            action()
            alive.append((kind, sum(root is not None for _, root in executor.stages[0]._kept.values())))

        return note

    executor._actions = [noting(op.kind, action) for op, action in zip(plan.lanes[0], actions, strict=True)]
    executor.run(*rows(3))
    assert alive == [(Kind.F, 0)] * 3 + [(Kind.R, 1), (Kind.B, 0)] * 3


def test_dropout_draws_the_same_numbers_again_and_leaves_those_of_others() -> None:
    plan = plan_of("gpipe", 1, 3)

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.down = nn.Linear(WIDTH, WIDTH).double()

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return (nn.functional.dropout(self.down(x), 0.5) - target).square().mean()

    def grads(plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        executor = executor_of(plan, 0, {0: Dropped()}, (ROWS, WIDTH))
        executor.run(*rows(3))
        return executor.stages[0].module.down.weight.grad, torch.rand(1)

    (usual, then), (again, after) = grads(plan), grads(recompute(plan))
    assert torch.equal(usual, again)
    assert torch.equal(then, after)
