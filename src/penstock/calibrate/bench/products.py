"""Matrix products by shape, layout and precision, and what is left of their rate under lasting load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from penstock.calibrate.bench.machine import watched
from penstock.calibrate.bench.pieces import Facts, Machine, Piece, timed
from penstock.calibrate.bench.timers import Call
from penstock.calibrate.shapes import Product, batched, products
from penstock.cost.bounds import BYTES


def pieces(machine: Machine, seconds: float) -> list[Piece]:
    """Products worth measuring in so many seconds: those of the main precision all, of others some."""
    main = machine.precision
    most = _rate(machine, main) * min(0.25, seconds / 100)
    shapes = products(most, large=machine.cuda)
    several = batched(most, large=machine.cuda)
    forward = [shape for shape in shapes if shape.layout == "forward"]
    plan: list[tuple[str, Sequence[Product]]] = [(main, shapes[:24]), (main, several), (main, shapes[24:])]
    if machine.cuda:
        fits = [shape for shape in forward if not (shape.m % 16 or shape.n % 16 or shape.k % 16)]
        small = [shape for shape in forward if shape.flops < most / 16]
        plan = [
            *plan[:2],
            ("fp8", fits[:20]),
            *plan[2:],
            ("tf32", small[:8]),
            ("fp16", forward[:6]),
            ("fp32", small[:5]),
        ]
    else:
        plan += [("bf16", [shape for shape in forward if shape.flops < most / 16][:6])]
    return [_piece(machine, precision, shape) for precision, chosen in plan for shape in chosen]


def _piece(machine: Machine, precision: str, shape: Product) -> Piece:
    facts = {"precision": precision, **shape._asdict()}
    return timed(facts, machine, partial(_calls, machine, precision, shape))


def _calls(machine: Machine, precision: str, shape: Product) -> Sequence[Call]:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    item = BYTES[precision]
    operands = (shape.m * shape.k + shape.k * shape.n) * item * shape.batch
    count = machine.sets(operands + shape.m * shape.n * shape.batch * max(2, item))
    if precision == "fp8":
        return [_scaled(machine, shape) for _ in range(count)]
    make = partial(machine.random, precision=precision)
    return [_call(make, shape) for _ in range(count)]


def _call(make: Callable[..., Tensor], shape: Product) -> Call:
    """One product with operands as its layout has them: x W^T, g W, g^T x, or a batch."""
    layout, batch, m, n, k = shape
    if layout == "batched":
        a, b = make(batch, m, k), make(batch, k, n)
        return partial(torch.bmm, a, b, out=torch.empty(batch, m, n, device=a.device, dtype=a.dtype))
    a = make(k, m).t() if layout == "weight_grad" else make(m, k)
    b = make(n, k).t() if layout == "forward" else make(k, n)
    return partial(torch.mm, a, b, out=torch.empty(m, n, device=a.device, dtype=a.dtype))


def _scaled(machine: Machine, shape: Product) -> Call:
    """A product in FP8 (E4M3) with one scale per tensor, to BF16."""
    kind = torch.float8_e4m3fn
    a = machine.random(shape.m, shape.k).to(kind)
    b = machine.random(shape.n, shape.k).to(kind).t()
    one = torch.ones((), device=machine.device)
    scaled: Any = torch._scaled_mm
    return partial(scaled, a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)


def _rate(machine: Machine, precision: str) -> float:
    """FLOP/s of a product of middling size, to choose shapes by."""
    size = 4096 if machine.cuda else 512
    shape = Product("forward", 1, size, size, size)
    with torch.no_grad():
        return shape.flops / machine.timer.time(_calls(machine, precision, shape)[:2]).seconds


def sustained(machine: Machine, seconds: float) -> list[Piece]:
    """One large product back to back for most of ``seconds``: its time by how long that has gone on."""
    return [Piece({}, partial(_sustain, machine, seconds * 0.8))]


def _sustain(machine: Machine, seconds: float) -> Iterator[tuple[Facts, float]]:
    precision, size = machine.precision, 8192 if machine.cuda else 768
    shape = Product("forward", 1, size, size, size)
    facts = {"precision": precision, **shape._asdict()}
    with torch.no_grad():
        calls = _calls(machine, precision, shape)[:4]
        machine.timer.target_s = 0.03
        found = [(0.0, machine.timer.time(calls).seconds)]
        machine.timer.target_s = min(0.5, seconds / 4)
        watch, begun = watched(machine), perf_counter()
        while (after_s := perf_counter() - begun) < seconds:
            found.append((round(after_s, 3), machine.timer.time(calls).seconds))
        told = watch()
    for number, (after_s, each_s) in enumerate(found, 1):
        yield {**facts, "after_s": after_s, **(told if number == len(found) else {})}, each_s
