"""Whole runs with split head and embedding: the losses of whole ones, and checkpoints that both load."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_worker import HOW, break_op
from ranks import on_ranks
from runs import checkpoints, launched, losses, plan_for, prepared, run_forked
from test_loss_curve import TIED
from torch import Tensor

from penstock.core.job import RunSpec
from penstock.core.plan import Plan
from penstock.runtime import checkpoint
from penstock.runtime.train import Trainer

CLOSE = 1e-5
LONG = {"steps": 10, "checkpoint_every": 5, "learning_rate": 1e-2, "weight_decay": 0.3}


def run(where: Path, config: dict[str, Any] | None = None, **flags: Any) -> dict[int, float]:
    where.mkdir(exist_ok=True)
    folder, spec = prepared(where, config, **{**LONG, **flags})
    ended = run_forked(folder, spec)
    assert ended.codes == [0] * spec.strategy.ranks, ended.said
    return losses(folder)


@pytest.mark.parametrize(
    ("kind", "schedule", "algorithm", "ranks"),
    [
        ("tied", "zb-h1", 2, 2),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in (("untied", "interleaved", 1, 2), ("untied", "1f1b", 1, 2), ("gpt2", "1f1b", 2, 2))
        ),
    ],
)
def test_ten_steps(kind: str, schedule: str, algorithm: int, ranks: int, tmp_path: Path) -> None:
    """Ten steps with clipping, decay and 257 tokens, which no two ranks share evenly."""
    config = {**TIED[kind], "vocab_size": 257}
    how = {"schedule": schedule, "ranks": ranks, "chunks": 2 if schedule == "interleaved" else 1}
    whole = run(tmp_path / "whole", config, **how)
    split = run(tmp_path / "split", config, vocabulary=algorithm, **how)
    assert split.keys() == whole.keys() == set(range(1, 11))
    assert max(abs(split[step] - whole[step]) for step in whole) < CLOSE
    assert whole[10] < whole[1] - 0.1


@pytest.mark.parametrize("kind", [pytest.param("untied", marks=pytest.mark.slow), "tied"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"vocabulary": 1}, {"vocabulary": 0}, marks=pytest.mark.slow),
        pytest.param({"vocabulary": 0}, {"vocabulary": 2}, marks=pytest.mark.slow),
        pytest.param({"vocabulary": 2}, {"vocabulary": 1, "ranks": 4}, marks=pytest.mark.slow),
    ],
)
def test_resumed_in_another_layout(before: dict[str, int], after: dict[str, int], kind: str, tmp_path: Path) -> None:
    """Weights and moments of five steps go on in another layout as if nothing had been."""
    config = {**TIED[kind], "vocab_size": 257}
    whole = run(tmp_path / "run", config, **before)
    shutil.rmtree(tmp_path / "run" / "run" / "checkpoints" / "step-00000010")
    found = run(tmp_path / "run", config, resume=True, **after)
    assert found.keys() == whole.keys()
    assert [found[step] for step in range(1, 6)] == [whole[step] for step in range(1, 6)]
    assert max(abs(found[step] - whole[step]) for step in range(6, 11)) < CLOSE
    assert checkpoints(tmp_path / "run" / "run") == [5, 10]  # they ran again


def test_every_layout_saves_the_same_tensors(tmp_path: Path) -> None:
    """Bitwise: the first weights do not depend on who holds them, and the whole is read from its rows."""
    folder, spec = prepared(tmp_path, {"vocab_size": 257, "tie_word_embeddings": True}, vocabulary=1, ranks=4)
    plan = plan_for(spec)

    def save(rank: int) -> None:
        trainer = Trainer(spec, plan, rank, folder, torch.device("cpu"))
        checkpoint.save(folder / "checkpoints", 1, trainer._state())

    on_ranks(4, save)
    _, alone = prepared(tmp_path, {}, ranks=1)
    trainer = Trainer(alone, plan_for(alone), 0, folder, torch.device("cpu"))
    mine = {name: value.clone() for name, value in tensors(trainer).items()}
    for value in tensors(trainer).values():
        value.fill_(7.0)
    checkpoint.load(folder / "checkpoints" / "step-00000001", trainer._state())
    assert mine.keys() == tensors(trainer).keys()
    assert all(torch.equal(value, mine[name]) for name, value in tensors(trainer).items())


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {name: param.data for module in trainer.modules.values() for name, param in module.named_parameters()}


@pytest.mark.parametrize("algorithm", [1, 2])
def test_losses_on_held_out_text(algorithm: int, tmp_path: Path) -> None:
    """The evaluation runs with parts too, and before any step the weights are the same."""
    found = []
    for vocabulary in (0, algorithm):
        folder, spec = prepared(tmp_path, vocabulary=vocabulary)
        plan = plan_for(spec)

        def work(rank: int, spec: RunSpec = spec, plan: Plan = plan, folder: Path = folder) -> float:
            return Trainer(spec, plan, rank, folder, torch.device("cpu")).evaluate()

        found.append(on_ranks(2, work))
    assert max(abs(value - found[0][0]) for each in found for value in each) < 1e-6


def test_a_rank_that_fails_while_others_wait_for_its_part(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, vocabulary=1)
    ended = run_forked(folder, spec, lambda _: break_op(HOW["raise"], 1, "1S2", 3))
    assert ended.codes == [1, 1]
    assert ended.said == [
        f"penstock: rank 1 failed at 1S2 (stage 1): KeyError: 'injected' (traceback in {folder}/rank1.log)"
    ]


@pytest.mark.slow
def test_a_hang_names_the_collective(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path, vocabulary=2, timeout_s=2.0)
    ended = launched(folder, ["sleep", 1, "1S2", 3]).wait()
    assert ended.codes == [1]
    (line,) = ended.said
    assert "rank 1 in step 3 is at 1S2 (stage 1)" in line
    assert re.search(r"rank 0 in step 3 waits at 0\w+ \(stage 0\) for 0?\w+ (of all ranks|from rank 1|to rank 1)", line)
