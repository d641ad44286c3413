"""Checkpoints of one cut load on every other; what is damaged or does not fit is named."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from checkpoint_ranks import SPEC, blank, check_load, on_ranks, refused, state

from penstock.runtime.checkpoint import latest, load, read_facts, save


@pytest.fixture(scope="module")
def saved_by(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders with a checkpoint of step 7, saved by 1, 2, 3 and 4 ranks."""
    folders = {}
    for ranks in (1, 2, 3, 4):
        where = tmp_path_factory.mktemp(f"by{ranks}")
        folders[ranks] = where / "checkpoints"
        on_ranks(
            ranks,
            where / "store",
            lambda rank, ranks=ranks: save(folders[ranks], 7, state(rank, ranks, 7)),
        )
    return folders


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_stages_loads_what_any_other_saved(saved_by: dict[int, Path], ranks: int, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        for folder in saved_by.values():
            check_load(folder, 7, rank, ranks)

    on_ranks(ranks, tmp_path / "store", work)


def test_it_needs_no_process_group(saved_by: dict[int, Path], tmp_path: Path) -> None:
    check_load(saved_by[3], 7)
    path = save(tmp_path / "deep" / "folder", 3, state(0, 1, 3))
    assert read_facts(path) == {"step": 3, "spec": SPEC}
    check_load(tmp_path / "deep" / "folder", 3)


def test_a_tied_tensor_is_written_once(saved_by: dict[int, Path]) -> None:
    one, four = ((saved_by[ranks] / "step-00000007").glob("*.distcp") for ranks in (1, 4))
    assert abs(sum(f.stat().st_size for f in one) - sum(f.stat().st_size for f in four)) < 1000


def test_a_rank_may_hold_nothing(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        save(tmp_path / "c", 1, state(0, 1, 1) if rank else {"model": {}, "optimizer": {}, "step": 1, "spec": SPEC})
        if not rank:
            assert load(tmp_path / "c" / "step-00000001", {"model": {}, "optimizer": {}})["step"] == 1
        else:
            check_load(tmp_path / "c", 1)

    on_ranks(2, tmp_path / "store", work)
    check_load(tmp_path / "c", 1)


def test_the_newest_two_stay(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None
    for step in (1, 9, 10, 100):
        save(tmp_path, step, state(0, 1, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    check_load(tmp_path, 100)


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    save(tmp_path, 10, state(0, 1, 10))
    for step in (10, 5):
        says = refused(lambda step=step: save(tmp_path, step, state(0, 1, step)))
        assert f"already holds step-00000010, so step {step} cannot be saved; resume from step-00000010" in says
    check_load(tmp_path, 10)


def damage(path: Path, how: str) -> None:
    data = max(path.glob("*.distcp"))
    if how == "missing":
        data.unlink()
    elif how == "truncated":
        os.truncate(data, data.stat().st_size - 5)
    elif how == "flipped":
        bytes_ = bytearray(data.read_bytes())
        bytes_[len(bytes_) // 2] ^= 1
        data.write_bytes(bytes_)
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "torn manifest":
        os.truncate(path / "manifest.json", 30)
    elif how == "other manifest":
        (path / "manifest.json").write_text("[]")
    elif how == "metadata":
        os.truncate(path / ".metadata", 3)


DAMAGE = {
    "missing": "file __0_0.distcp is missing",
    "truncated": "file __0_0.distcp has ",
    "flipped": "file __0_0.distcp has damaged bytes",
    "no manifest": "file manifest.json is missing",
    "torn manifest": "file manifest.json is not whole JSON",
    "other manifest": "file manifest.json lacks the keys",
    "metadata": "file .metadata has 3 bytes instead of",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_named_with_the_older_one_that_is_whole(tmp_path: Path, how: str) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, state(0, 1, step), keep=3)
    damage(tmp_path / "step-00000003", how)
    says = refused(lambda: check_load(tmp_path, 3))
    assert f"step-00000003: {DAMAGE[how]}" in says
    assert says.endswith("step-00000002 is whole: remove step-00000003 to go on from there")
    damage(tmp_path / "step-00000002", how)
    assert "step-00000001 is whole" in refused(lambda: check_load(tmp_path, 3))
    shutil.rmtree(tmp_path / "step-00000003")
    shutil.rmtree(tmp_path / "step-00000002")
    check_load(tmp_path, 1)
    damage(tmp_path / "step-00000001", how)
    assert refused(lambda: check_load(tmp_path, 1)).endswith(
        "no older checkpoint is whole: start again in another folder"
    )


def test_every_rank_hears_of_damage_that_one_sees(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        save(tmp_path / "c", 1, state(rank, 2, 1))
        dist.barrier()
        if rank == 0:
            damage(tmp_path / "c" / "step-00000001", "flipped")
        dist.barrier()
        assert "__1_0.distcp has damaged bytes" in refused(lambda: check_load(tmp_path / "c", 1, rank, 2))

    on_ranks(2, tmp_path / "store", work)


def test_another_model_or_precision_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1, state(0, 1, 1))
    other = blank(0, 1)
    other["model"] = {"layers.9.w": torch.zeros(3, 40)}
    assert "holds no model/layers.9.w (nearest is model/layers." in refused(lambda: load(path, other))
    assert "torch.float32 [3, 40], the run wants torch.float32 [3, 8]" in refused(lambda: load(path, blank(0, 1, 8)))
    other["model"] = {"norm.weight": torch.zeros(3, 40, dtype=torch.float64)}
    assert "the run wants torch.float64 [3, 40]" in refused(lambda: load(path, other))
    other["model"] = {"norm.weight": 3}
    assert "state model/norm.weight is a int" in refused(lambda: load(path, other))
