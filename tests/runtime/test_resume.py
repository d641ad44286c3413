"""A run that is killed at any moment and resumed gives the losses of one that was never touched."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs import checkpoints, forked, launched, losses, prepared, rows, run_forked

from penstock.runtime.train import Trainer

LONG = {"steps": 12, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of the run that nothing disturbs."""
    folder, spec = prepared(tmp_path_factory.mktemp("untouched"), **LONG)
    assert run_forked(folder, spec).codes == [0, 0]
    return losses(folder)


def killed_until_done(where: Path, seed: int, kills: int) -> tuple[Path, int]:
    """Kill both ranks at once at random moments, resume each time, and let the last attempt end."""
    dice, struck = random.Random(seed), 0
    for attempt in range(kills):
        folder, spec = prepared(where, resume=attempt > 0, **LONG)
        run = forked(folder, spec)
        wait_for_rows(folder, dice.randint(0, 10), run)
        time.sleep(dice.uniform(0, 0.15))
        run.kill()
        struck += any(rank.status == -signal.SIGKILL for rank in run.ranks)
    folder, spec = prepared(where, resume=True, **LONG)
    assert run_forked(folder, spec).codes == [0, 0]
    return folder, struck


def wait_for_rows(folder: Path, count: int, run: object) -> None:
    """Until the metrics hold a step or the ranks have ended."""
    deadline = time.monotonic() + 20
    path = folder / "metrics.jsonl"
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        if all(os.waitid(os.P_PID, r.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) for r in run.ranks):  # type: ignore[attr-defined]
            return
        time.sleep(0.002)
    raise AssertionError("the run does not get on")


@pytest.mark.slow
def test_killed_at_random_moments(untouched: dict[int, float], tmp_path: Path) -> None:
    folder, struck = killed_until_done(tmp_path, 0, 3)
    assert struck >= 2
    assert losses(folder) == untouched
    assert checkpoints(folder) == [10, 12]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *range(100, 130)])
def test_killed_at_many_random_moments(seed: int, untouched: dict[int, float], tmp_path: Path) -> None:
    folder, _ = killed_until_done(tmp_path, seed, 5)
    assert losses(folder) == untouched


@pytest.mark.parametrize(("victim", "event"), [(0, 5), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_killed_while_a_checkpoint_is_written(
    victim: int, event: int, untouched: dict[int, float], tmp_path: Path
) -> None:
    """One rank dies at a change of a file within the checkpoint of step 6; the other notices and ends."""
    from test_checkpoint_crash import kill_at

    from penstock.runtime import checkpoint

    folder, spec = prepared(tmp_path, **LONG)

    def before(rank: int) -> None:
        save = checkpoint.save

        def then_die(where: Path, step: int, state: object, **options: int) -> object:
            if step == 6 and rank == victim:
                kill_at(event)
            return save(where, step, state, **options)  # type: ignore[arg-type]

        checkpoint.save = then_die  # type: ignore[assignment]

    ended = run_forked(folder, spec, before)
    assert ended.codes[victim] == -signal.SIGKILL
    assert ended.codes[1 - victim] not in (0, None)
    assert checkpoints(folder)[-1] in (4, 6)
    folder, spec = prepared(tmp_path, resume=True, **LONG)
    assert run_forked(folder, spec).codes == [0, 0]
    assert losses(folder) == untouched


@pytest.mark.slow
def test_killed_with_its_whole_process_group_and_resumed_at_once(untouched: dict[int, float], tmp_path: Path) -> None:
    """As users do: torchrun's agent, SIGKILL to the launcher's group, the next attempt without a pause."""
    folder, _ = prepared(tmp_path, **LONG)
    run = launched(folder)
    run.until(lambda: checkpoints(folder))
    os.killpg(run.process.pid, signal.SIGKILL)
    folder, _ = prepared(tmp_path, resume=True, **LONG)
    again = launched(folder).wait()
    assert again.codes == [0]
    assert not run.alive()
    run.process.wait()
    assert losses(folder) == untouched


@pytest.mark.parametrize(
    ("ranks", "chunks", "schedule"),
    [
        (4, 1, "zb-h1"),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((1, 1, "1f1b"), (2, 2, "interleaved"))),
    ],
)
def test_resumed_on_another_cut(ranks: int, chunks: int, schedule: str, tmp_path: Path) -> None:
    config = {"tie_word_embeddings": ranks != 2}
    folder, spec = prepared(tmp_path, config, **LONG)
    assert run_forked(folder, spec).codes == [0, 0]
    expected = losses(folder)
    for part in (folder / "checkpoints").iterdir():
        for file in [*part.iterdir()] if part.name.endswith("12") else []:
            file.unlink()
        if part.name.endswith("12"):
            part.rmdir()
    sizes = {"ranks": ranks, "chunks": chunks, "schedule": schedule}
    folder, spec = prepared(tmp_path, config, resume=True, **LONG, **sizes)
    ended = run_forked(folder, spec)
    assert ended.codes == [0] * ranks, ended.text
    again = losses(folder)
    assert again.keys() == expected.keys()
    assert {step: again[step] for step in range(1, 11)} == {step: expected[step] for step in range(1, 11)}
    assert max(abs(again[step] - expected[step]) for step in (11, 12)) < 1e-5


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path)
    assert run_forked(folder, spec).codes == [0, 0]
    kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("std")}
    folder, spec = prepared(tmp_path, resume=True)
    assert run_forked(folder, spec).codes == [0, 0]
    now = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("std")}
    assert now.keys() == kept.keys()
    assert [p.name for p in kept if kept[p] != now[p]] in ([], ["job.toml"])


def test_a_longer_job_goes_on_where_the_finished_one_ended(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path)
    assert run_forked(folder, spec).codes == [0, 0]
    first = losses(folder)
    folder, spec = prepared(tmp_path, resume=True, steps=9)
    assert run_forked(folder, spec).codes == [0, 0]
    assert {step: loss for step, loss in losses(folder).items() if step <= 6} == first
    assert max(losses(folder)) == 9


def test_resume_before_the_first_checkpoint_begins_again(untouched: dict[int, float], tmp_path: Path) -> None:
    def before(rank: int) -> None:
        train_step = Trainer._train_step

        def stop(self: Trainer) -> None:
            if self.done == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            train_step(self)

        Trainer._train_step = stop  # type: ignore[method-assign]

    folder, spec = prepared(tmp_path, **LONG)
    assert run_forked(folder, spec, before).codes == [-signal.SIGKILL] * 2
    assert len(rows(folder)) == 1
    folder, spec = prepared(tmp_path, resume=True, **LONG)
    assert run_forked(folder, spec).codes == [0, 0]
    assert losses(folder) == untouched


@pytest.mark.slow
def test_other_text_is_refused(tmp_path: Path) -> None:
    folder, spec = prepared(tmp_path)
    assert run_forked(folder, spec).codes == [0, 0]
    (tmp_path / "text.txt").write_text("other words " * 1000)
    folder, spec = prepared(tmp_path, resume=True, steps=8)
    ended = run_forked(folder, spec)
    assert ended.codes == [2, 2]
    (line,) = ended.said
    assert "was trained on other text" in line
