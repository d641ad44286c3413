"""A pipeline's state cut over ranks, and ranks forked from the test, for the tests of checkpoints."""

import os
import signal
import traceback
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from penstock.runtime.checkpoint import latest, load

NAMES = ["embed.weight", *(f"layers.{i}.{part}" for i in range(5) for part in ("w", "b")), "norm.weight"]
SPEC = {"model": "tiny-llama", "job": {"steps": 3}}


def held(rank: int, ranks: int) -> list[str]:
    """Each rank holds a run of the names; the last also holds the tied embedding."""
    mine = NAMES[len(NAMES) * rank // ranks : len(NAMES) * (rank + 1) // ranks]
    return mine if rank < ranks - 1 or "embed.weight" in mine else [*mine, "embed.weight"]


def value(name: str, step: int, size: int) -> torch.Tensor:
    maker = torch.Generator().manual_seed(zlib.crc32(f"{name} {step}".encode()))
    return torch.randn(3, size, generator=maker)


def state(rank: int, ranks: int, step: int, size: int = 40) -> dict[str, Any]:
    names = held(rank, ranks)
    return {
        "model": {name: value(name, step, size) for name in names},
        "optimizer": {
            name: {
                "exp_avg": value(f"{name} m", step, size),
                "exp_avg_sq": value(f"{name} v", step, size),
                "step": torch.tensor(float(step)),
            }
            for name in names
        },
        "step": step,
        "spec": SPEC,
    }


def blank(rank: int, ranks: int, size: int = 40) -> dict[str, Any]:
    made = state(rank, ranks, 0, size)
    for tensor in tensors(made):
        tensor.fill_(-1)
    return made


def tensors(made: dict[str, Any]) -> Iterator[torch.Tensor]:
    yield from made["model"].values()
    for parts in made["optimizer"].values():
        yield from parts.values()


def check_load(folder: Path, step: int, rank: int = 0, ranks: int = 1) -> None:
    path = latest(folder)
    assert path is not None
    assert path.name == f"step-{step:08d}"
    got = blank(rank, ranks)
    assert load(path, got) == {"step": step, "spec": SPEC}
    for have, want in zip(tensors(got), tensors(state(rank, ranks, step)), strict=True):
        assert torch.equal(have, want)


def start(rank: int, ranks: int, store: Path, work: Callable[[int], object]) -> int:
    """Fork a rank that does ``work`` with gloo up; it exits 0 when ``work`` returns and 1 when it raises."""
    child = os.fork()
    if child:
        return child
    try:
        signal.alarm(60)
        file_store = dist.FileStore(str(store), ranks)
        dist.init_process_group("gloo", store=file_store, rank=rank, world_size=ranks, timeout=timedelta(seconds=20))
        work(rank)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def on_ranks(ranks: int, store: Path, work: Callable[[int], object]) -> None:
    children = [start(rank, ranks, store, work) for rank in range(ranks)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * ranks


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller compares the message)
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
