"""The executor: order, speed and place make no difference to what it computes, and it says where it is."""

import time
from pathlib import Path
from pipes import FEW, ROWS, WAYS, WIDTH, Block, block_executor, blocks, executor_of, plan_of, rows
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from runs import losses, prepared, run_forked
from torch import nn

from penstock.core.lane import Lane
from penstock.core.op import SENDS, Kind, Sends
from penstock.core.plan import Plan
from penstock.engine import IllegalPlan, check
from penstock.runtime.evaluation import evaluation_plan
from penstock.runtime.execute import Executor
from penstock.runtime.faults import OpError
from penstock.runtime.messages import Boundary
from penstock.runtime.stage import Stage
from penstock.schedules import build


def gradients(plan: Plan, rank: int, slow_s: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    executor = block_executor(plan, rank)
    dice = np.random.default_rng([seed, rank])
    if slow_s:
        executor._actions = [late(action, dice.uniform(0, slow_s)) for action in executor._actions]
    executor.run(*rows(plan.micros))
    return [p.grad for s in sorted(executor.stages) for p in executor.stages[s].module.parameters()]


def late(action: Any, seconds: float) -> Any:
    def after_a_nap() -> None:
        time.sleep(seconds)
        action()

    return after_a_nap


@pytest.mark.parametrize("name", [*FEW[::2], *(pytest.param(name, marks=pytest.mark.slow) for name in FEW[1::2])])
def test_how_fast_ranks_are_changes_no_bit(name: str) -> None:
    plans = [plan_of(name, 2, 6, sends) for sends in WAYS]
    speeds = [{}, {"slow_s": 0.008, "seed": 1}]
    for found in on_ranks(2, lambda rank: [[gradients(plan, rank, **speed) for speed in speeds] for plan in plans]):
        for sends, (quick, slow) in zip(WAYS, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(quick, slow, strict=True)), sends


def test_training_and_evaluation_share_the_links() -> None:
    """Two plans in turn on the same ranks; tags of one never meet those of the other."""
    plan = plan_of("interleaved", 2, 4)

    def work(rank: int) -> tuple[list[float], list[float]]:
        trainer = block_executor(plan, rank)
        modules = {s: stage.module for s, stage in trainer.stages.items()}
        evaluator = executor_of(evaluation_plan(plan), rank, modules, (ROWS, WIDTH))
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(3):
            for executor, out in ((trainer, found[0]), (evaluator, found[1])):
                executor.run(*rows(4))
                taken = executor.take_losses()
                assert not any(loss.requires_grad for loss in taken)
                out += [loss.item() for loss in taken]
        assert not any(stage._kept for stage in [*trainer.stages.values(), *evaluator.stages.values()])
        return found

    (none, nothing), (trained, evaluated) = on_ranks(2, work)
    assert none == nothing == []
    assert trained == evaluated
    assert len(trained) == 12


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("sends", WAYS)
def test_the_plan_of_an_evaluation_is_legal(name: str, sends: Sends) -> None:
    for ranks in (2, 4):
        plan = evaluation_plan(plan_of(name, ranks, 8, sends, step=True))
        check(plan)
        assert {int(kind) for kind in plan.ops[:, 0]} <= {Kind.F, Kind.SEND_F, Kind.RECV_F}


def test_it_names_its_place() -> None:
    plan = plan_of("1f1b", 2, 3, step=True)

    def work(rank: int) -> list[str]:
        seen = []
        executor = block_executor(plan, rank)
        executor._step = lambda stage: None
        seen.append(executor.where())

        def noting(action: Any) -> Any:
            def note() -> None:
                seen.append(executor.where())
                action()

            return note

        executor._actions = [noting(action) for action in executor._actions]
        executor.run(*rows(3))
        seen.append(executor.where())
        return seen

    for rank, seen in enumerate(on_ranks(2, work)):
        ops = [f"is at {op} (stage {op.stage})" for op in plan.lanes[rank]]
        assert seen == ["is between steps", *ops, "is between steps"]


@pytest.mark.parametrize("name", ["1f1b", "eager", "vee"])
def test_it_names_what_it_waits_for(name: str) -> None:
    """Every wait, as another rank's message would find it."""
    plan = plan_of(name, 4, 4)

    def work(rank: int) -> list[tuple[str, int]]:
        executor = block_executor(plan, rank)
        wait, seen = executor.messages.wait, []

        def noting(work: Any, row: int) -> None:
            executor.messages.waiting = row
            seen.append((executor.where(), row))
            wait(work, row)

        executor.messages.wait = noting  # type: ignore[method-assign]
        executor.run(*rows(4))
        return seen

    for rank, seen in enumerate(on_ranks(4, work)):
        assert len(seen) == sum(op.kind in (*SENDS, Kind.RECV_F, Kind.RECV_B) for op in plan.lanes[rank])
        for text, row in seen:
            message = plan.op(row)
            before, after = plan.placement.prev[message.stage], plan.placement.next[message.stage]
            stage = before if message.kind in (Kind.RECV_F, Kind.SEND_B) else after
            side = "to" if message.kind in SENDS else "from"
            assert text.startswith("waits at ")
            assert text.endswith(f" for {message} {side} rank {plan.placement.rank_of[stage]}")


class Breaks(Block):
    """Fails in its third forward."""

    calls = 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise ZeroDivisionError("in the model")
        return super().forward(*args)


def test_an_error_in_a_module_names_rank_stage_and_op() -> None:
    plan = plan_of("gpipe", 1, 4)
    executor = executor_of(plan, 0, {0: Breaks(0, True, True).double()}, (ROWS, WIDTH))
    with pytest.raises(OpError, match=r"^rank 0 failed at 0F2 \(stage 0\): ZeroDivisionError: in the model$") as caught:
        executor.run(*rows(4))
    assert isinstance(caught.value.cause, ZeroDivisionError)
    assert caught.value.rank == 0


def test_a_plan_without_sends_is_not_run_on_two_ranks() -> None:
    stage = Stage(Block(1, False, True).double(), False, True, (ROWS, WIDTH), 1.0)
    boundary = Boundary((ROWS, WIDTH), torch.float64, torch.device("cpu"))
    with pytest.raises(ValueError, match="plan '1f1b' has no sends; give it some with add_sends"):
        Executor(build("1f1b", 2, 2), 1, {1: stage}, None, boundary)


def test_losses_are_taken_once() -> None:
    plan = plan_of("gpipe", 1, 4)
    executor = executor_of(plan, 0, dict(blocks([0], 1)), (ROWS, WIDTH))
    executor.run(*rows(4))
    assert len(executor.take_losses()) == 4
    assert executor.take_losses() == []


def test_steps_come_in_the_order_of_the_lane() -> None:
    plan = plan_of("interleaved", 2, 4, step=True)

    def work(rank: int) -> list[int]:
        steps: list[int] = []
        modules: dict[int, nn.Module] = dict(blocks(plan.placement.on(rank), 4))
        executor_of(plan, rank, modules, (ROWS, WIDTH), step=steps.append).run(*rows(4))
        return steps

    assert on_ranks(2, work) == [[0, 2], [1, 3]]


def test_stages_without_layers_train(tmp_path: Path) -> None:
    """The same losses as an even cut: a stage may hold the embedding or the head alone, or nothing at all."""
    found = []
    for cut in (None, (0, 4, 0, 0), (2, 0, 2, 0)):
        where = tmp_path / str(cut)
        where.mkdir()
        flags = {"ranks": 2, "steps": 4} if cut is None else {"ranks": 4, "steps": 4, "stage_layers": cut}
        folder, spec = prepared(where, schedule="zb-h1", clip_norm=0.1, checkpoint_every=0, **flags)
        ended = run_forked(folder, spec)
        assert set(ended.codes) == {0}, ended.text
        found.append(losses(folder))
    assert found[1] == found[2] == pytest.approx(found[0], abs=1e-5)


def test_illegal_plans_are_not_for_the_executor() -> None:
    """``check`` stands before it: a lane that would hang is refused with its reason."""
    plan = plan_of("1f1b", 2, 2)
    with pytest.raises(IllegalPlan, match="put 1RECV_F1 before 1RECV_F0"):
        check(plan.with_lanes([Lane(plan.lanes[0].codes[::-1]), plan.lanes[1]]))
