"""Host cost of splitting the backward pass: ours against torch.distributed.pipelining, on tiny tensors.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python bench/split.py [rounds]

With 8 features the arithmetic costs nothing: what is left is the time of the CPU that launches the work. The stage is a
chain of Linear and LayerNorm (4 parameters a pair). Both sides run in turn, in one process; medians over the rounds.
"split cost" is what delaying W adds, per parameter and micro-batch: (I + W - B) / parameters. It may be negative.
"""

import copy
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from penstock.runtime.split import WeightQueue, Work, backward, run_pending, split_modules

FEATURES = 8


def chain(params: int) -> nn.Module:
    pairs = ((nn.Linear(FEATURES, FEATURES), nn.LayerNorm(FEATURES)) for _ in range(params // 4))
    return nn.Sequential(*(module for pair in pairs for module in pair))


def leaf() -> Tensor:
    return torch.randn(2, 4, FEATURES, requires_grad=True)


def torch_full(stage: nn.Module) -> Iterator[None]:
    y = stage(leaf())
    yield
    torch.autograd.backward(y, torch.ones_like(y))


def torch_split(stage: nn.Module) -> Iterator[None]:
    x = leaf()
    y = stage(x)
    yield
    _, groups = stage_backward_input([y], [torch.ones_like(y)], [x], stage.parameters())
    yield
    stage_backward_weight(stage.parameters(), groups)


def our_full(stage: nn.Module, queue: WeightQueue) -> Iterator[None]:
    x = leaf()
    y = stage(x)
    yield
    queue.pending = None
    backward(y, torch.ones_like(y), x)


def our_split(stage: nn.Module, queue: WeightQueue) -> Iterator[None]:
    x = leaf()
    y = stage(x)
    yield
    pending: list[Work] = []
    queue.pending = pending
    backward(y, torch.ones_like(y), x)
    yield
    run_pending(pending)


def times_us(steps: Iterator[None]) -> list[float]:
    """Microseconds of each part between two yields."""
    marks = [time.perf_counter()]
    for _ in steps:
        marks.append(time.perf_counter())
    marks.append(time.perf_counter())
    return [(b - a) * 1e6 for a, b in pairwise(marks)]


def measure(params: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median microseconds of F, B, I and W for both sides."""
    theirs = chain(params)
    ours, queue = copy.deepcopy(theirs), WeightQueue()
    assert split_modules(ours, queue) == []
    runs: list[list[list[float]]] = [[], [], [], []]
    for _ in range(rounds):
        for run, steps in zip(
            runs, (torch_full(theirs), torch_split(theirs), our_full(ours, queue), our_split(ours, queue)), strict=True
        ):
            run.append(times_us(steps))
    medians = [[statistics.median(part) for part in zip(*run, strict=True)] for run in runs]
    return {
        who: {"F": full[0], "B": full[1], "I": split[1], "W": split[2]}
        for who, full, split in (("torch", *medians[:2]), ("penstock", *medians[2:]))
    }


def main(rounds: int) -> None:
    print(
        f"{'params':>6} {'side':<9}"
        + "".join(f"{k + ' us':>9}" for k in "FBIW")
        + f"{'I+W us':>9}{'split us/param':>16}"
    )
    for params in (16, 128):
        sides = measure(params, rounds)
        for who, t in sides.items():
            total = t["I"] + t["W"]
            row = "".join(f"{t[k]:9.0f}" for k in "FBIW")
            print(f"{params:6} {who:<9}{row}{total:9.0f}{(total - t['B']) / params:16.2f}")
        a, b = sides["torch"], sides["penstock"]
        split, whole = (a["I"] + a["W"]) / (b["I"] + b["W"]), sum(a[k] for k in "FIW") / sum(b[k] for k in "FIW")
        print(
            f"{params:6} torch/penstock: I+W {split:.1f}x, F+I+W {whole:.1f}x, "
            f"F {a['F'] / b['F']:.2f}x, B {a['B'] / b['B']:.2f}x"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
