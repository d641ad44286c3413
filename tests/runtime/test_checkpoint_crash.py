"""Saves that are killed or find no room: the older checkpoint stays, and the next save works."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from checkpoint_ranks import check_load, on_ranks, refused, start, state

from penstock.runtime.checkpoint import latest, save

FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def kill_at(event: int) -> None:
    """Let this process kill itself just before its ``event``-th change of a file."""
    seen = 0

    def watch(name: str, arguments: Any) -> None:
        nonlocal seen
        writes = name != "open" or (isinstance(arguments[1], str) and "w" in arguments[1])
        if name in FILE_EVENTS and writes:
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def save_and_die(folder: Path, step: int, event: int) -> bool:
    """Return whether a save in a process of its own died at its ``event``-th change of a file."""
    child = os.fork()
    if not child:
        try:
            kill_at(event)
            save(folder, step, state(0, 1, step))
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_sigkill_at_every_change_of_a_file_loses_nothing(tmp_path: Path) -> None:
    """Kill the third save at each thing it does to the disk: there are always two checkpoints that load."""
    for event in range(1, 100):
        folder = tmp_path / str(event)
        for step in (1, 2):
            save(folder, step, state(0, 1, step))
        died = save_and_die(folder, 3, event)
        newest = latest(folder)
        assert newest is not None
        step = int(newest.name[-1])
        check_load(folder, step)
        assert step in (2, 3)
        save(folder, 4, state(0, 1, 4))
        check_load(folder, 4)
        assert sorted(path.name for path in folder.iterdir()) == [f"step-0000000{step}", "step-00000004"]
        if not died:
            break
    assert 6 < event < 60


@pytest.mark.parametrize(("victim", "event"), [(0, 2), (0, 3), (0, 5), (1, 1)])
def test_sigkill_of_one_of_two_ranks_keeps_the_older(tmp_path: Path, victim: int, event: int) -> None:
    def work(rank: int) -> None:
        save(tmp_path / "c", 1, state(rank, 2, 1))
        if rank == victim:
            kill_at(event)
        save(tmp_path / "c", 2, state(rank, 2, 2))

    children = [start(rank, 2, tmp_path / "store", work) for rank in range(2)]
    assert os.waitstatus_to_exitcode(os.waitpid(children[victim], 0)[1]) == -signal.SIGKILL
    os.kill(children[1 - victim], signal.SIGKILL)
    os.waitpid(children[1 - victim], 0)
    check_load(tmp_path / "c", 1)
    on_ranks(2, tmp_path / "again", lambda rank: save(tmp_path / "c", 2, state(rank, 2, 2)))
    check_load(tmp_path / "c", 2)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000001", "step-00000002"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "disk"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(where)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_keeps_the_older_one(tiny_disk: Path, tmp_path: Path) -> None:
    folder = tiny_disk / "c"

    def work(rank: int) -> None:
        save(folder, 1, state(rank, 2, 1))
        for size in (1000, 3000):
            says = refused(lambda size=size: save(folder, 2, state(rank, 2, 2, size)))
            assert f"no space left for the checkpoint of step 2 in {folder}" in says
            assert "step-00000001 is intact; free space or choose another folder" in says
        dist.barrier()
        check_load(folder, 1, rank, 2)
        save(folder, 3, state(rank, 2, 3))
        check_load(folder, 3, rank, 2)

    on_ranks(2, tmp_path / "store", work)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_no_space_at_a_later_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Some file systems find out only when data are pushed to the disk."""
    save(tmp_path, 1, state(0, 1, 1))
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert "no space left for the checkpoint of step 2" in refused(lambda: save(tmp_path, 2, state(0, 1, 2)))
    check_load(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_other_limits_are_one_line_too(tmp_path: Path) -> None:
    folder = tmp_path / "c"

    def work(rank: int) -> None:
        save(folder, 1, state(rank, 2, 1))
        if rank == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        says = refused(lambda: save(folder, 2, state(rank, 2, 2, 5000)))
        assert "the checkpoint of step 2" in says
        assert "cannot be written: File too large; step-00000001 is intact" in says

    on_ranks(2, tmp_path / "store", work)
    check_load(folder, 1)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    says = refused(lambda: save(tmp_path / "c", 1, state(0, 1, 1)))
    assert "cannot be written: Not a directory; no older checkpoint exists" in says


def test_facts_that_json_cannot_hold_stop_every_rank(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with pytest.raises(TypeError):
            save(tmp_path / "c", 1, {**state(rank, 2, 1), "spec": object()})

    started = time.perf_counter()
    on_ranks(2, tmp_path / "store", work)
    assert time.perf_counter() - started < 10
