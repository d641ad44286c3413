"""Recompute at work: the same gradients and losses, and only inputs kept in between."""

import weakref
from functools import partial
from pipes import ROWS, WIDTH, block_executor, blocks_on, executor_of, plan_of, rows

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.core.costs import Costs
from penstock.core.op import Kind, Sends
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.cut import cut
from penstock.lower import add_step, offload, recompute, shard
from penstock.runtime.execute import Executor


def outcome(plan: Plan, rank: int) -> tuple[list[float], list[torch.Tensor]]:
    return outcome_of(block_executor(plan, rank))


def outcome_of(executor: Executor) -> tuple[list[float], list[torch.Tensor]]:
    executor.run(*rows(executor.plan.micros))
    assert not any(one._kept for one in executor.activations.again.values())
    assert not any(one.moved_bytes or one._away or one._saved for one in executor.activations.hosts.values())
    losses = [loss.item() for loss in executor.take_losses()]
    return losses, [p.grad for s in sorted(executor.stages) for p in executor.stages[s].module.parameters()]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=SLOW)])
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


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved", "zb-v"])
@pytest.mark.parametrize("also", [pytest.param(False, marks=SLOW), True], ids=["offload", "offload and recompute"])
def test_copies_to_the_host_change_no_gradient(name: str, ranks: int, also: bool) -> None:
    plan = plan_of(name, ranks, 8)
    usual = on_ranks(ranks, partial(outcome, plan))
    moved = recompute(plan, keep=1) if also else plan
    moved = offload(moved, Costs.uniform(plan.placement, other_s={Kind.OFFLOAD: 0.2, Kind.FETCH: 0.2}))
    check(moved)
    assert (moved.ops[:, 0] == Kind.FETCH).sum() >= 6
    for (losses, grads), (others, same) in zip(usual, on_ranks(ranks, partial(outcome, moved)), strict=True):
        assert losses == others
        assert all((a - b).abs().max() <= 1e-12 for a, b in zip(grads, same, strict=True))


@pytest.mark.parametrize("sends", ["overlapped", "batched"])
def test_forwards_that_are_undone_leave_nothing(sends: Sends) -> None:
    """Post-validation runs them again: the same gradients, and nothing of the first time on the host or kept."""
    plan = add_step(plan_of("gpipe", 2, 6, sends), "after")
    costs = Costs.uniform(plan.placement, other_s={Kind.OFFLOAD: 0.1, Kind.FETCH: 0.1})
    plan = recompute(offload(plan, costs), pairs=[(0, 3), (1, 3)])
    check(plan)
    head = np.arange(len(plan)) < cut(plan).at[plan.rank_of_op]
    assert {Kind.F, Kind.OFFLOAD} <= set(plan.ops[head, 0].tolist())

    def work(rank: int, stands: bool) -> tuple[list[float], list[torch.Tensor]]:
        executor = executor_of(plan, rank, blocks_on(plan, rank), (ROWS, WIDTH), settle=lambda: stands)
        return outcome_of(executor)

    for (losses, grads), (others, same) in zip(
        on_ranks(2, lambda rank: work(rank, True)), on_ranks(2, lambda rank: work(rank, False)), strict=True
    ):
        assert losses == others
        assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))


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


class Deep(nn.Module):
    """Layers whose saved tensors are all counted; weights far smaller than activations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH).double() for _ in range(4))
        self.register_buffer("shift", torch.ones(WIDTH, dtype=torch.float64))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = (layer(x) * self.shift).tanh()
        return (x - target).square().mean()


def live_bytes(plan: Plan) -> list[int]:
    """Bytes of the storages that the graphs of all micro-batches hold, after each op, as autograd asks for them."""
    storages: dict[int, weakref.ref[torch.Tensor]] = {}
    executor = executor_of(plan, 0, {0: Deep()}, (1024, WIDTH))
    maker = torch.Generator().manual_seed(1)
    both = [torch.randn(1024, WIDTH, generator=maker, dtype=torch.float64) for _ in range(2 * plan.micros)]
    own = {tensor.data_ptr() for tensor in (*executor.stages[0].module.parameters(), *both)}
    alive: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.data_ptr() not in own:
                storage = out.untyped_storage()
                storages[storage._cdata] = storage._weak_ref()
            return out

    def count() -> int:
        total = 0
        for key, weak in list(storages.items()):
            if torch.UntypedStorage._expired(weak):
                torch.UntypedStorage._free_weak_ref(storages.pop(key))
            else:
                total += torch.UntypedStorage._new_with_weak_ptr(weak).nbytes()
        return total

    def noting(action):
        def note() -> None:
            with Watch():
                action()
            list(executor.activations.finish())  # copies run beside the rank
            alive.append(count())

        return note

    executor._actions = [noting(action) for action in executor._actions]
    executor.run(both[: plan.micros], both[plan.micros :])
    return alive


def test_live_bytes_are_those_the_simulator_counts() -> None:
    """After every op of plans that keep, recompute and move; and at the peak."""
    bare = plan_of("gpipe", 1, 4)
    usual = live_bytes(bare)
    each = usual[1] - usual[0]
    assert each == 5 * 1024 * WIDTH * 8 + 8  # four layers and the difference; the loss
    costs = Costs.uniform(bare.placement, other_s={Kind.OFFLOAD: 0.2, Kind.FETCH: 0.2})
    for plan in (bare, recompute(bare), offload(bare, costs), offload(recompute(bare, pairs=[(0, 1)]), costs)):
        found = [alive / each for alive in live_bytes(plan)]
        changes = {Kind.F: 1, Kind.R: 1, Kind.B: -1, Kind.OFFLOAD: -1, Kind.FETCH: 1}
        again = {op.micro for op in plan.lanes[0] if op.kind == Kind.R}
        light = (Kind.F, Kind.OFFLOAD, Kind.FETCH)  # without a graph there is only the input, the first stage's data
        steps = [0 if op.micro in again and op.kind in light else changes[op.kind] for op in plan.lanes[0]]
        assert found == pytest.approx(np.cumsum(steps), abs=0.02)  # sums of gradients weigh 0.01
        at_once = Costs.uniform(bare.placement)  # as here, where all wait for each copy
        assert max(found) == pytest.approx(simulate(plan, at_once).peak_bytes.max(), abs=0.02)


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


def test_gathers_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="0UNSHARD cannot be run: ranks hold whole weights"):
        block_executor(shard(plan_of("gpipe", 1, 2)), 0)
