"""Post-validation: steps taken before their norm is known, and taken back, leave exactly what a barrier leaves."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from runs import checkpoints, losses, prepared, rows, run_forked
from test_optimizer import JOB, Piece, plan_on
from torch import Tensor
from torch.utils._pytree import tree_leaves

from penstock.core.costs import Costs
from penstock.core.op import HOST, Kind
from penstock.core.plan import Plan
from penstock.engine import check
from penstock.engine.cut import cut
from penstock.lower import offload, recompute
from penstock.runtime.optimizer import Optimizer
from penstock.runtime.run import plan_of
from penstock.runtime.train import Trainer
from penstock.runtime.validate import PostValidation

Passed = Callable[[Plan], Plan]
HOWS = ("barrier", "post-validation")


def watched(folder: Path, infinite_at: int = 0) -> Callable[[int], None]:
    """Have each rank write down what it ends with, and make one gradient of one step infinite on the last rank."""

    def before(rank: int) -> None:
        train, local_sums = Trainer.train, Optimizer.local_sums

        def then_write(self: Trainer, *given: Any) -> Any:
            trained = train(self, *given)
            weights = {f"{s}.{n}": p.detach() for s, m in self.modules.items() for n, p in m.named_parameters()}
            torch.save((weights, self.optimizer.state()), folder / f"end{rank}.pt")
            return trained

        def spoilt(self: Optimizer) -> Tensor:
            if self.step_number == infinite_at and rank == 1:
                next(p for m in self._modules.values() for p in m.parameters()).grad.view(-1)[0] = math.inf
            return local_sums(self)

        Trainer.train, Optimizer.local_sums = then_write, spoilt  # type: ignore[method-assign]

    return before


def ran(
    where: Path, how: str, infinite_at: int = 0, config: Any = None, passed: Passed | None = None, **flags: Any
) -> tuple[Path, list[Any]]:
    """The results folder of a run, and the weights, moments and counts that each rank ended with."""
    where = where / how
    where.mkdir()
    folder, spec = prepared(where, config, optimizer_step=how, **flags)
    if passed is not None:
        file = folder / "plan.json"
        plan = passed(Plan.from_json(file.read_text()))
        check(plan)
        file.write_text(plan.to_json())
    ended = run_forked(folder, spec, watched(folder, infinite_at))
    assert ended.codes == [0] * spec.strategy.ranks, ended.text
    return folder, [torch.load(folder / f"end{rank}.pt") for rank in range(spec.strategy.ranks)]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    assert one.isfinite().all()
    return torch.equal(one, other)


def both(where: Path, **flags: Any) -> tuple[list[Any], list[Any]]:
    """Rows of metrics with a barrier and with post-validation; that all else is the same is checked."""
    (barrier, ends), (after, others) = (ran(where, how, **flags) for how in HOWS)
    assert same(ends, others)
    found = rows(barrier), rows(after)
    for one, other in zip(*found, strict=True):
        assert {k: one[k] for k in ("step", "loss", "gradient_norm", "learning_rate")} == {
            k: other[k] for k in ("step", "loss", "gradient_norm", "learning_rate")
        }
    assert checkpoints(barrier) == checkpoints(after)
    return found


SOME = 0.93
"""A norm that some of the steps are above."""


@pytest.mark.parametrize(
    ("schedule", "ranks"),
    [
        ("zb-h1", 2),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (("1f1b", 2), ("1f1b", 4), ("zb-h1", 4), ("zb-h2", 2), ("zb-h2", 4))
        ),
    ],
)
def test_it_ends_as_with_a_barrier(schedule: str, ranks: int, tmp_path: Path) -> None:
    """With steps that stand, steps that are clipped, and one left out, between and at checkpoints."""
    flags = {"schedule": schedule, "ranks": ranks, "clip_norm": SOME, "max_left_out": 1, "steps": 8}
    barrier, after = both(tmp_path, infinite_at=5, **flags)
    assert [row["gradient_norm"] is None for row in after] == [row["step"] == 5 for row in after]
    taken_back = [row["gradient_norm"] is None or row["gradient_norm"] > SOME for row in barrier]
    assert [bool(row["taken_back"]) for row in after] == taken_back
    assert 2 <= sum(taken_back) <= 6


@pytest.mark.parametrize(("clip_norm", "count"), [pytest.param(0.0, 0, marks=pytest.mark.slow), (0.1, 4)])
@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"schedule": "zb-h2", "sends": "blocking"}, marks=pytest.mark.slow),
        {"schedule": "zb-v", "chunks": 2, "sends": "blocking", "config": {"tie_word_embeddings": True}},
        pytest.param(
            {"schedule": "interleaved", "chunks": 2, "config": {"tie_word_embeddings": True}}, marks=pytest.mark.slow
        ),
        pytest.param({"schedule": "zb-h1", "vocabulary": 2}, marks=pytest.mark.slow),
        pytest.param({"schedule": "gpipe", "ranks": 1}, marks=pytest.mark.slow),
    ],
    ids=lambda facts: facts["schedule"],
)
def test_no_step_or_every_step_is_taken_back(
    facts: dict[str, Any], clip_norm: float, count: int, tmp_path: Path
) -> None:
    """Also where messages hold ranks, where stages lie in a V, where weights are shared, and on one rank."""
    _, after = both(tmp_path, clip_norm=clip_norm, steps=4, checkpoint_every=3, **facts)
    assert sum(row["taken_back"] for row in after) == count


def moved(plan: Plan) -> Plan:
    """With copies to the host, all that wait long enough for a quick link."""
    return offload(plan, Costs.uniform(plan.placement, other_s=dict.fromkeys(HOST, 0.1)), trips=1.0)


@pytest.mark.parametrize(
    ("passed", "flags", "in_head"),
    [
        pytest.param(
            *(None, {"schedule": "interleaved", "chunks": 2, "sends": "batched"}, Kind.SEND_F), marks=pytest.mark.slow
        ),
        pytest.param(recompute, {"schedule": "zb-h2"}, Kind.R, marks=pytest.mark.slow),
        pytest.param(recompute, {"schedule": "gpipe", "sends": "batched"}, Kind.SEND_F, marks=pytest.mark.slow),
        pytest.param(moved, {"schedule": "zb-h2"}, Kind.OFFLOAD, marks=pytest.mark.slow),
        pytest.param(moved, {"schedule": "gpipe", "sends": "batched"}, Kind.FETCH, marks=pytest.mark.slow),
        pytest.param(
            *(lambda plan: moved(recompute(plan, keep=1)), {"schedule": "interleaved", "chunks": 2}, Kind.OFFLOAD),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["batched", "recompute", "recompute batched", "offload", "offload batched", "recompute and offload"],
)
def test_it_ends_as_with_a_barrier_after_other_passes(
    passed: Passed | None, flags: dict[str, Any], in_head: Kind, tmp_path: Path
) -> None:
    """With steps that stand and steps taken back, and ops of those passes among what is run again."""
    _, after = both(tmp_path, passed=passed, clip_norm=SOME, steps=8, **flags)
    assert 1 <= sum(row["taken_back"] for row in after) <= 7
    plan = Plan.from_json((tmp_path / "post-validation" / "run" / "plan.json").read_text())
    at = cut(plan).at
    assert (in_head == plan.ops[np.arange(len(plan)) < at[plan.rank_of_op], 0]).any()


def test_the_result_says_what_it_took(tmp_path: Path) -> None:
    """Twelve steps, each clipped; the copy is as large as weights, two moments and a count each."""
    folder, ends = ran(tmp_path, "post-validation", clip_norm=0.1, steps=12, checkpoint_every=0)
    result = json.loads((folder / "result.json").read_text())
    assert result["rollbacks"] == 12
    sizes = [sum(t.nbytes for t in tree_leaves(end)) for end in ends]
    assert result["rollback_bytes"] == sizes
    weights = sum(t.nbytes for t in ends[0][0].values())
    assert sizes[0] == 3 * weights + 4 * len(ends[0][0])


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    """A checkpoint holds steps that are final: killed while a step is under way, the run goes on as if untouched."""
    flags = {"optimizer_step": "post-validation", "clip_norm": SOME, "steps": 8, "checkpoint_every": 3}
    (tmp_path / "untouched").mkdir()
    folder, spec = prepared(tmp_path / "untouched", **flags)
    assert run_forked(folder, spec).codes == [0, 0]
    expected = losses(folder)

    def before(rank: int) -> None:
        settle = PostValidation.settle

        def then_die(self: PostValidation) -> bool:
            if self._optimizer.step_number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return settle(self)

        PostValidation.settle = then_die  # type: ignore[method-assign]

    folder, spec = prepared(tmp_path, **flags)
    codes = run_forked(folder, spec, before).codes
    assert -signal.SIGKILL in codes
    assert set(codes) <= {-signal.SIGKILL, 1}  # a rank may hear of the other's end before it comes to its own
    assert checkpoints(folder) == [3]
    assert max(losses(folder)) == 4
    folder, spec = prepared(tmp_path, resume=True, **flags)
    assert run_forked(folder, spec).codes == [0, 0]
    assert losses(folder) == expected


@pytest.mark.parametrize("allowed", [0, 1])
def test_too_many_steps_left_out_end_the_run_with_the_weights_before_them(allowed: int) -> None:
    """Two ranks, of which the second has NaN in two steps: the same error on both, and nothing has moved."""
    plan, job = plan_on((0, 1)), replace(JOB, max_left_out=allowed)

    def work(rank: int) -> tuple[str, bool, int]:
        piece = Piece(rank)
        optimizer = Optimizer(job, {rank: piece}, plan, rank)
        validation = PostValidation(optimizer)
        optimizer.step_number = 1
        piece.fill(rank, 1)
        validation.step(rank)
        assert validation.settle()
        before = [tensor.clone() for tensor in optimizer.changed_by_step()]
        for step in (2, 3):
            optimizer.step_number = step
            piece.fill(rank, step)
            if rank == 1:
                piece.vector.grad[2] = math.nan
            validation.step(rank)
            assert not torch.equal(before[0], optimizer.changed_by_step()[0])
            try:
                assert not validation.settle()
            except FloatingPointError as error:
                return str(error), same(before, optimizer.changed_by_step()), step
        return "no error", False, 0

    message = f"the gradient norm of step {2 + allowed} is nan; lower learning_rate=0.05 or set clip_norm"
    assert on_ranks(2, work) == [(message, True, 2 + allowed)] * 2


def test_the_same_steps_are_left_out_with_a_barrier() -> None:
    piece, job = Piece(0), replace(JOB, max_left_out=1)
    optimizer = Optimizer(job, {0: piece}, plan_on((0,)), 0)
    before = [tensor.clone() for tensor in optimizer.changed_by_step()]
    for step in (1, 2):
        optimizer.step_number = step
        piece.fill(0, step)
        piece.vector.grad[0] = math.inf
        if step == 1:
            optimizer.step(0)
            assert optimizer.left_out == 1
    with pytest.raises(FloatingPointError, match="step 2 is inf"):
        optimizer.step(0)
    assert same(before, optimizer.changed_by_step())


def test_a_plan_in_a_file_and_the_job_must_agree(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, optimizer_step="post-validation")
    found = replace(spec, strategy=replace(spec.strategy, schedule=str(folder / "plan.json")))
    assert not plan_of(found).barrier
    with pytest.raises(ValueError, match="has post-validation; give --optimizer-step post-validation"):
        plan_of(replace(found, strategy=replace(found.strategy, optimizer_step="barrier")))
