"""A rank that fails, dies or hangs: all stop within seconds, one line says which rank, stage and op, none is left."""

import re
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_worker import HOW, break_op
from ranks import on_ranks
from runs import checkpoints, forked, launched, losses, prepared, run_forked

from penstock.runtime.execute import OpError
from penstock.runtime.launch import launch
from penstock.runtime.train import Trainer

STOP_S = 5.0
"""How long all ranks may take to stop once one has failed."""


def seconds_after_step(folder: Path, step: int, ended_s: float) -> float:
    """Time from the line of a step in the metrics, after which the fault struck, to the end."""
    assert max(losses(folder)) == step
    return ended_s - (folder / "metrics.jsonl").stat().st_mtime


# -- as users start it: torchrun's agent ---------------------------------------------------------------------------


def test_an_op_that_raises_stops_all_with_one_line(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    ended = launched(folder, ["raise", 1, "1F2", 3]).wait()
    assert seconds_after_step(folder, 2, time.time()) < STOP_S
    assert ended.codes == [1]
    assert ended.said == [
        f"penstock: rank 1 failed at 1F2 (stage 1): KeyError: 'injected' (traceback in {folder}/rank1.log)"
    ]
    assert set(ended.lines) - set(ended.said) == {line for line in ended.lines if line.startswith("step ")}
    assert "in misbehave" in (folder / "rank1.log").read_text()


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_with_its_signal(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    ended = launched(folder, ["kill", 1, "1B1", 3]).wait()
    assert seconds_after_step(folder, 2, time.time()) < STOP_S + 1
    assert ended.codes == [1]
    assert ended.said == ["penstock: rank 1 was killed by SIGKILL; go on with --resume"]


@pytest.mark.slow
def test_a_hang_names_the_op_of_every_rank(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path, timeout_s=2.0)
    ended = launched(folder, ["sleep", 0, "0B0", 3]).wait()
    assert seconds_after_step(folder, 2, time.time()) < 2.0 + STOP_S
    assert ended.codes == [1]
    (line,) = ended.said
    assert line.startswith("penstock: no progress for 2 s: rank 0 in step 3 is at 0B0 (stage 0); ")
    assert re.search(r"rank 1 in step 3 (waits at|is at) 1(F|B|SEND_B|STEP)", line)


@pytest.mark.slow
def test_ranks_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """They have process groups of their own, so a kill of the launcher's group does not reach them."""
    folder, _ = prepared(tmp_path, steps=100_000, checkpoint_every=0)
    run = launched(folder)
    run.until((folder / "metrics.jsonl").exists)
    assert len(run.alive()) == 3
    run.process.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # the watch of each rank would take seconds to notice
    left = run.alive()
    assert run.wait().codes == [-signal.SIGKILL]
    assert not left


@pytest.mark.slow
def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    """Torchrun's agent hands it on to the ranks, which end without tracebacks of their own."""
    folder, _ = prepared(tmp_path, steps=100_000, checkpoint_every=0)
    run = launched(folder)
    run.until((folder / "metrics.jsonl").exists)
    run.process.send_signal(signal.SIGINT)
    ended = run.wait()
    assert ended.codes == [128 + signal.SIGINT]
    assert ended.said == ["penstock: interrupted; go on with --resume"]
    assert all(line.startswith(("step ", "penstock: ")) for line in ended.lines)


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^port={port}: Address already in use; give another --port, or 0"):
            launch(tmp_path, 2, 1, port)


# -- the ranks alone, without an agent that ends the others ----------------------------------------------------------

ONE_OF_EACH = [(0, "0B2"), (0, "0RECV_B1"), (0, "0SEND_F2"), (1, "1I0"), (1, "1W1"), (1, "1STEP")]


@pytest.mark.parametrize(("rank", "op"), ONE_OF_EACH)
def test_any_op_on_any_rank_may_fail(rank: int, op: str, tmp_path: Path) -> None:
    schedule = "zb-h1" if op[1] in "IW" else "1f1b"
    folder, spec = prepared(tmp_path, schedule=schedule, held_out_sequences=0, checkpoint_every=0)
    ended = run_forked(folder, spec, lambda _: break_op(HOW["raise"], rank, op, 3))
    assert seconds_after_step(folder, 2, time.time()) < STOP_S
    assert ended.codes == [1, 1]
    assert len(ended.said) == 1
    assert ended.said[0].startswith(f"penstock: rank {rank} failed at {op} (stage {op[0]}): KeyError: 'injected' (")


@pytest.mark.parametrize(("rank", "op"), [(0, "0F1"), pytest.param(1, "1STEP", marks=pytest.mark.slow)])
def test_any_rank_may_be_killed(rank: int, op: str, tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, held_out_sequences=0)
    ended = run_forked(folder, spec, lambda _: break_op(HOW["kill"], rank, op, 3))
    assert seconds_after_step(folder, 2, time.time()) < STOP_S + 1
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    (line,) = ended.said
    assert re.search(rf"rank {1 - rank} .*; another rank went away without a word", line)


@pytest.mark.slow
def test_a_hang_on_four_ranks_names_all(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, ranks=4, timeout_s=2.0, held_out_sequences=0)
    ended = run_forked(folder, spec, lambda _: break_op(HOW["sleep"], 2, "2F1", 2))
    assert seconds_after_step(folder, 1, time.time()) < 2.0 + STOP_S + 1
    assert ended.codes == [1] * 4
    (line,) = ended.said
    assert "rank 2 in step 2 is at 2F1 (stage 2)" in line
    assert "rank 0 in step 2 waits at 0B0 (stage 0) for 0RECV_B0 from rank 1; " in line
    assert "rank 1 in step 2 waits at 1B0 (stage 1) for 1RECV_B0 from rank 2; " in line
    assert line.endswith("rank 3 in step 2 waits at 3F1 (stage 3) for 3RECV_F1 from rank 2")


@pytest.mark.slow
def test_a_hang_that_blocks_the_whole_interpreter_is_seen_by_the_others(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, timeout_s=2.0, held_out_sequences=0)

    def stop() -> None:
        import os

        os.kill(os.getpid(), signal.SIGSTOP)

    ended = forked(folder, spec, lambda _: break_op(stop, 1, "1F1", 2)).wait(need=[0])
    assert ended.codes == [1, None]
    (line,) = ended.said
    assert line.startswith("penstock: no progress for 2 s: rank 0 in step 2 waits at 0B")
    assert line.endswith(" from rank 1; rank 1 does not answer")


def on_step(step: int, rank: int, change: Callable[[Trainer], None]) -> Callable[[int], None]:
    """Before a step on a rank, change its trainer."""

    def before(_: int) -> None:
        train_step = Trainer._train_step

        def changed(self: Trainer) -> None:
            if self.done + 1 == step and self.rank == rank:
                change(self)
            train_step(self)

        Trainer._train_step = changed  # type: ignore[method-assign]

    return before


def test_a_micro_batch_of_another_shape_is_a_clear_error(tmp_path: Path) -> None:
    def shorten(trainer: Trainer) -> None:
        whole = trainer._micro_batches

        def shorter(batch: Any) -> Any:
            inputs, targets = whole(batch)
            return (*inputs[:2], inputs[2][:, 1:], *inputs[3:]), targets

        trainer._micro_batches = shorter  # type: ignore[method-assign]

    folder, spec = prepared(tmp_path, held_out_sequences=0)
    ended = run_forked(folder, spec, on_step(3, 0, shorten))
    assert ended.codes == [1, 1]
    (line,) = ended.said
    assert line.startswith(
        "penstock: rank 0 failed at 0F2 (stage 0): ValueError: the stage gave (2, 7, 8), but the pipeline carries "
        "(2, 8, 8); all micro-batches and boundaries must have one shape ("
    )


def test_a_gradient_that_is_not_finite_is_a_clear_error(tmp_path: Path) -> None:
    def poison(trainer: Trainer) -> None:
        with torch.no_grad():
            next(iter(trainer.modules.values())).lm_head.weight[3, 3] = torch.nan

    folder, spec = prepared(tmp_path, held_out_sequences=0)
    ended = run_forked(folder, spec, on_step(3, 1, poison))
    assert ended.codes == [1, 1]
    (line,) = ended.said
    assert re.match(
        r"penstock: rank \d failed at \dSTEP \(stage \d\): FloatingPointError: the gradient norm of step 3 is nan; "
        r"lower learning_rate=0.002 or set clip_norm \(",
        line,
    )
    assert checkpoints(folder) == [2]


def test_a_learning_rate_far_too_high_says_so(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path, steps=40, learning_rate=1e12, clip_norm=0.0, checkpoint_every=0)
    ended = run_forked(folder, spec)
    assert ended.codes == [1, 1]
    assert "lower learning_rate=1e+12" in ended.said[0]


# -- what the user can mend: exit code 2, one line, nothing lost ------------------------------------------------------


def test_a_corrupt_checkpoint_is_named_with_one_that_is_whole(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path)
    assert run_forked(folder, spec).codes == [0, 0]
    assert checkpoints(folder) == [4, 6]
    victim = max((folder / "checkpoints" / "step-00000006").glob("*.distcp"))
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    before = losses(folder)
    folder, spec = prepared(tmp_path, resume=True, steps=8)
    ended = run_forked(folder, spec)
    assert ended.codes == [2, 2]
    (line,) = ended.said
    assert str(victim.name) in line
    assert "step-00000004 is whole: remove step-00000006 to go on from there" in line
    assert losses(folder) == before


@pytest.mark.parametrize("what", ["checkpoint", pytest.param("metrics", marks=pytest.mark.slow)])
def test_a_full_disk_loses_nothing_already_written(what: str, tmp_path: Path) -> None:
    """No file may grow beyond a few bytes from step 3 on; the run is then resumed and ends as if nothing had been."""

    def fill(trainer: Trainer) -> None:
        limit = 4096 if what == "checkpoint" else (folder / "metrics.jsonl").stat().st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    folder, spec = prepared(tmp_path)
    ended = run_forked(folder, spec, on_step(3, 0, fill))
    assert ended.codes[0] == 2
    assert len(ended.said) == 1
    assert "File too large" in ended.said[0]
    assert checkpoints(folder) == [2]
    if what == "checkpoint":
        assert "step-00000002 is intact" in ended.said[0]
    folder, spec = prepared(tmp_path, resume=True)
    assert run_forked(folder, spec).codes == [0, 0]
    (tmp_path / "other").mkdir()
    whole, spec = prepared(tmp_path / "other")
    run_forked(whole, spec)
    assert losses(folder) == losses(whole)


def test_too_many_processes_for_the_plan_get_one_line(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = prepared(tmp_path / "other", ranks=1, micro_batches=4)
    (folder / "plan.json").write_text((other / "plan.json").read_text())
    ended = run_forked(folder, spec)
    assert ended.codes == [2, 2]
    assert ended.said == ["penstock: the plan has 1 ranks, but 2 processes run; start as many"]


# -- the executor itself -------------------------------------------------------------------------------------------


def test_a_boundary_of_another_type_is_a_clear_error() -> None:
    """Other sizes on the two ends of a message would abort the process inside gloo."""
    from pipes import ROWS, WIDTH, blocks, executor_of, plan_of
    from pipes import rows as data

    plan = plan_of("1f1b", 2, 4)

    def work(rank: int) -> str:
        executor = executor_of(plan, rank, dict(blocks([rank], 2)), (ROWS, WIDTH), torch.float32)
        if rank == 1:
            return ""
        try:
            executor.run(*data(4))
        except OpError as error:
            return str(error)
        return "no error"

    said, _ = on_ranks(2, work)
    assert said == (
        "rank 0 failed at 0SEND_F0 (stage 0): ValueError: stage 0 gave torch.float64, but the pipeline "
        "carries torch.float32"
    )
