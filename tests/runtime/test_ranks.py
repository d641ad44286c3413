"""The forked ranks themselves: they return, fail loudly and never outlive the test."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import RankFailed, on_ranks
from runs import prepared, run_forked


def test_it_returns_what_ranks_return() -> None:
    def work(rank: int) -> torch.Tensor:
        both = torch.tensor([float(rank + 1)])
        dist.all_reduce(both)
        return both

    assert [x.item() for x in on_ranks(3, work)] == [6.0, 6.0, 6.0]


def test_a_failing_rank_fails_the_test_with_its_traceback_while_others_wait() -> None:
    def work(rank: int) -> None:
        if rank == 1:
            raise KeyError("a clear cause")
        dist.barrier()

    begun = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1 raised\n(.|\n)*in work\n(.|\n)*a clear cause"):
        on_ranks(2, work)
    assert time.monotonic() - begun < 10
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.slow
def test_a_hanging_rank_fails_the_test_with_its_stack() -> None:
    def work(rank: int) -> None:
        if rank == 0:
            time.sleep(100)

    with pytest.raises(RankFailed, match=r"no end after 1 s\nrank 0 is at\n(.|\n)*in work"):
        on_ranks(2, work, timeout_s=1)


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RankFailed, match="rank 1 died without a word, exit code 7"):
        on_ranks(2, lambda rank: os._exit(7) if rank else dist.barrier())


@pytest.mark.slow
def test_a_hanging_run_ends_with_the_stacks_of_its_ranks(tmp_path: Path) -> None:
    def stuck(rank: int) -> None:
        if rank == 1:
            time.sleep(100)

    ended = run_forked(*prepared(tmp_path), stuck, timeout_s=1)
    assert ended.codes == [None, None]
    assert [line for line in ended.lines if line.startswith("rank ")] == ["rank 0 is at", "rank 1 is at"]
    assert any(line.endswith("in stuck") for line in ended.lines)
