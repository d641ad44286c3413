"""Work that only moves bytes: on the device, between it and its host, and to the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

from penstock.calibrate.bench.pieces import DTYPES, Facts, Machine, Piece, timed
from penstock.calibrate.bench.timers import Call, HostTimer
from penstock.calibrate.shapes import sizes

Made = tuple[Call, float]
"""A call, and how many times the bytes of its first operand it moves at least."""


def pieces(machine: Machine, _: float) -> list[Piece]:
    """Copies and sums over all sizes, then norms, activations, losses and optimizers at a few."""
    first, last = (2 << 20, 2 << 30) if machine.cuda else (64 << 10, 64 << 20)
    curve = [(name, size) for size in sizes(64 << 10, last) for name in ("copy", "add")]
    small = [each for each in curve if each[1] <= first]
    alone = [name for name in _KINDS if name not in ("copy", "add") and (machine.cuda or name not in _SEVERAL)]
    others = [(name, size) for size in _work(machine) for name in alone]
    order = [*small, *others[:8], *curve[len(small) :], *others[8:]]
    found = [_piece(machine, name, machine.precision, size) for name, size in order]
    if machine.cuda:
        found += [_piece(machine, name, "fp32", 256 << 20) for name in ("add", "adamw", "gradient_norm")]
    return found


def _work(machine: Machine) -> tuple[int, ...]:
    return (64 << 20, 4 << 20, 512 << 20) if machine.cuda else (4 << 20, 128 << 10)


def _piece(machine: Machine, name: str, precision: str, size: int) -> Piece:
    make, times, kernels, grad = _KINDS[name]
    facts = {"kind": name, "precision": precision, "moved_bytes": int(size * times), "kernels": kernels}

    def calls() -> Sequence[Call]:
        return [make(machine, precision, size) for _ in range(machine.sets(size * (times + 1)))]

    return timed(facts, machine, calls, grad=grad)


def _flat(machine: Machine, precision: str, size: int) -> Tensor:
    return machine.random(size // DTYPES[precision].itemsize, precision=precision)


def _rows(machine: Machine, precision: str, size: int, width: int = 2048) -> Tensor:
    return _flat(machine, precision, size).view(-1, width if machine.cuda else 256)


def _copy(machine: Machine, precision: str, size: int) -> Call:
    x = _flat(machine, precision, size)
    return partial(torch.empty_like(x).copy_, x)


def _add(machine: Machine, precision: str, size: int) -> Call:
    x, y = _flat(machine, precision, size), _flat(machine, precision, size)
    return partial(torch.add, x, y, out=torch.empty_like(x))


def _norm(machine: Machine, precision: str, size: int) -> Call:
    x = _rows(machine, precision, size)
    return partial(functional.layer_norm, x, x.shape[1:], torch.ones_like(x[0]), torch.zeros_like(x[0]))


def _rms_norm(machine: Machine, precision: str, size: int) -> Call:
    x = _rows(machine, precision, size)
    return partial(functional.rms_norm, x, x.shape[1:], torch.ones_like(x[0]))


def _norm_grad(machine: Machine, precision: str, size: int) -> Call:
    x = _rows(machine, precision, size).requires_grad_()
    y = functional.layer_norm(x, x.shape[1:], torch.ones_like(x[0]), torch.zeros_like(x[0]))
    return partial(torch.autograd.grad, y, x, torch.randn_like(y), retain_graph=True)


def _silu(machine: Machine, precision: str, size: int) -> Call:
    return partial(functional.silu, _flat(machine, precision, size))


def _loss(machine: Machine, precision: str, size: int) -> Call:
    x, target = _logits(machine, size)
    return partial(functional.cross_entropy, x, target)


def _loss_grad(machine: Machine, precision: str, size: int) -> Call:
    x, target = _logits(machine, size)
    loss = functional.cross_entropy(x.requires_grad_(), target)
    return partial(torch.autograd.grad, loss, x, retain_graph=True)


def _logits(machine: Machine, size: int) -> tuple[Tensor, Tensor]:
    """FP32 scores of as many tokens as make ``size`` bytes, and what was meant."""
    vocab = 32768 if machine.cuda else 256
    x = machine.random(size // 4 // vocab, vocab, precision="fp32")
    return x, torch.randint(vocab, (len(x),), device=machine.device)


def _adamw(machine: Machine, precision: str, size: int) -> Call:
    param = torch.nn.Parameter(_flat(machine, precision, size))
    param.grad = torch.randn_like(param)
    return torch.optim.AdamW([param], lr=1e-4, fused=True).step


def _gradient_norm(machine: Machine, precision: str, size: int) -> Call:
    return partial(torch._foreach_norm, [_flat(machine, precision, size)])


_KINDS: dict[str, tuple[Callable[[Machine, str, int], Call], float, int, bool]] = {
    "copy": (_copy, 2, 1, False),
    "add": (_add, 3, 1, False),
    "layer_norm": (_norm, 2, 1, False),
    "rms_norm": (_rms_norm, 2, 1, False),
    "layer_norm_grad": (_norm_grad, 3, 1, True),
    "silu": (_silu, 2, 1, False),
    "loss": (_loss, 2, 2, False),
    "loss_grad": (_loss_grad, 4, 2, True),
    "adamw": (_adamw, 7, 1, False),
    "gradient_norm": (_gradient_norm, 1, 1, False),
}
"""How each is made, how many times the bytes of its operand it moves, its kernels, and whether it needs a graph."""
_SEVERAL = ("rms_norm",)
"""What PyTorch does in several kernels on a CPU."""


def transfers(machine: Machine, _: float) -> list[Piece]:
    """Copies between the device and pinned memory of its host, one way at a time and both ways at once."""
    ways = ("to_device", "to_host", "both")
    return [Piece({"way": way, "bytes": size}, partial(_transfer, machine, way, size)) for size, way in _legs(ways)]


def _legs(ways: Sequence[str]) -> Iterator[tuple[int, str]]:
    for size in (64 << 20, 64 << 10, 1 << 20, 8 << 20, 512 << 20):
        for way in ways:
            yield size, way


def _transfer(machine: Machine, way: str, size: int) -> Iterator[tuple[Facts, float]]:
    host, other = (torch.empty(size, dtype=torch.uint8).pin_memory() for _ in range(2))
    here, there = (torch.empty(size, dtype=torch.uint8, device=machine.device) for _ in range(2))
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    timer = HostTimer()
    timer.target_s = machine.timer.target_s

    def copy() -> None:
        if way != "to_host":
            with torch.cuda.stream(streams[0]):
                here.copy_(host, non_blocking=True)
        if way != "to_device":
            with torch.cuda.stream(streams[1]):
                other.copy_(there, non_blocking=True)
        machine.timer.settle()

    yield {}, timer.time([copy]).seconds


def disk(folder: Path, seconds: float) -> list[Piece]:
    """Writing a file as checkpoints do, until it is on the disk: as large as a slow disk takes in that time."""
    size = min(256 << 20, int(seconds * 64e6))
    return [Piece({"bytes": size}, partial(_write, folder, size))]


def _write(folder: Path, size: int) -> Iterator[tuple[Facts, float]]:
    file, content = folder / "written.tmp", os.urandom(size)
    try:
        begun = perf_counter()
        with file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        yield {}, perf_counter() - begun
    finally:
        file.unlink(missing_ok=True)
