"""Operators of a prediction one by one: seconds, what bounds them, the share of a peak that they reach, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.device import Device
from penstock.cost.bounds import ASYNCHRONOUS, BYTES, product_bytes
from penstock.cost.constants import constants, levels, table
from penstock.cost.curves import lasting_share
from penstock.cost.inside import inside
from penstock.cost.kept import of_these, rerun
from penstock.cost.kernels import cast
from penstock.cost.lasting import older_key, powered, sustained_key
from penstock.cost.operators import Operator
from penstock.cost.origins import Constant, constant, level, level_of, of_device, of_recipe, of_stack
from penstock.cost.passes import CLASSES, HOT, slows_odd, timed, work
from penstock.cost.rows import Rows, rows_of
from penstock.predict.launching import host_s, recorded
from penstock.predict.micro import Rank
from penstock.predict.parts import hot_of
from penstock.predict.works import block_operators, block_rows, end_operators
from penstock.units import human_bytes, human_s

PHASES = {"F": "forward", "I": "input gradient", "W": "weight gradient"}
POWER = "power.flop_j and power.clock, the datasheet's rated power and peak"
FLOORS = {
    "matmul": ("matmul", "floor_s"),
    "grouped_matmul": ("matmul", "floor_s"),
    "attention": ("attention", "floor_s"),
}
"""Where the least time of a kernel stands, by kind; for all others with memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One operator of one phase, of one micro-batch.

    Args:
        operator: with its shapes, FLOPs and bytes.
        precision: of its products.
        alone_s: as a kernel by itself.
        lasting: share of that rate that the stack reaches through a step; levels ``sustained`` are those of a step
            that is ``hot``, products and attention alone.
        cast_s: of casting its operand, through a step.
        error: relative, of ``alone_s``.
        again: whether recompute runs it once more.
        waits: whether its block, in this direction, takes the host longer than the device.
        bounds_s: the least that FLOPs, bytes, starting kernels and the host's launches take, by ``compute``,
            ``memory``, ``launch floor`` and ``host``.
        moved_bytes: that its seconds count, for products in the width of their precision.
        constants: that the seconds were made with.
    """

    operator: Operator
    precision: str
    alone_s: float
    lasting: float
    hot: float
    cast_s: float
    error: float
    again: bool
    waits: bool
    bounds_s: dict[str, float]
    moved_bytes: float
    constants: tuple[Constant, ...]

    @property
    def seconds(self) -> float:
        """Through a step, casts apart."""
        return self.alone_s / self.lasting

    @property
    def bound(self) -> str:
        """What its time is bound by: the largest of ``bounds_s``; the host if that is what its block waits for, and it
        takes longer than the device."""
        if self.waits and self.bounds_s["host"] > self.seconds:
            return "host"
        on_device = {name: seconds for name, seconds in self.bounds_s.items() if name != "host"}
        return max(on_device, key=on_device.__getitem__)

    @property
    def reached(self) -> float:
        """Share of the peak that counts: of FLOP/s where those bound it, else of the memory's rate."""
        return self.bounds_s["compute" if self.bound == "compute" else "memory"] / self.seconds if self.seconds else 0.0

    @property
    def shape(self) -> str:
        """In words."""
        op = self.operator
        if op.kind in ("matmul", "grouped_matmul"):
            product = f"{op.m:,.7g} x {op.k:,.7g} x {op.n:,.7g}"
            return product if op.batch == 1 else f"{op.batch} of {product}"
        if op.kind == "attention":
            sees = f", {op.density:.0%} seen" if op.density < 1 else ""
            return f"{op.batch} heads of {op.m:,.7g} x {op.n:,.7g}, width {op.k:,.7g}{sees}"
        return human_bytes(op.moved_bytes)

    @property
    def how(self) -> str:
        """The formula."""
        op, plural = self.operator, f"{self.operator.launches} kernels" if self.operator.launches > 1 else "one kernel"
        if op.kind in ("matmul", "grouped_matmul"):
            rule = f"whole tiles in waves over all units, at the peak in {self.precision}, or the operands' bytes"
        elif op.plain:
            rule = "two products and a softmax with scores in memory"
        elif op.kind == "attention":
            rule = "blocks of queries over the keys that they see, products beside softmax"
        else:
            rule = f"{human_bytes(op.moved_bytes)} at the rate of memory"
        alone = f"{rule}, over its level, and the floor of {plural}: {human_s(self.alone_s)}"
        warm = f", {self.hot:.0%} of it products and attention" if self.hot < 1 and self.lasting < 1 else ""
        return f"{alone}; over {self.lasting:.3f}, what lasts through a step{warm}: {human_s(self.seconds)}"


def kernels_of(rank: Rank, block: Block) -> list[Kernel]:
    """Return the operators of a block on a rank, forwards first."""
    batch = rank.batch_of(block)
    made, rows = block_operators(block, batch), block_rows(block, batch)
    again = rerun(made, of_these(made, rank.again), rank.batch.stops_early)
    return _kernels(rank, made, rows, block, rank.bits_in(block), rank.crowd(block), again, rank.stack.graphed)


def kernels_of_end(rank: Rank, which: str) -> list[Kernel]:
    """Return the operators of the ``embedding``, the ``head`` or the ``predictors`` on a rank."""
    made = end_operators(rank.model, rank.batch_of_end(which), which)
    return _kernels(rank, made, rows_of(made), None, rank.bits_in_end(which), 1.0, np.zeros(len(made), bool))


def _kernels(
    rank: Rank,
    made: Sequence[Operator],
    rows: Rows,
    block: Block | None,
    low: str,
    crowd: float,
    again: NDArray[np.bool_],
    graphed: tuple[str, ...] = (),
) -> list[Kernel]:
    found = timed(rows, rank.device, low, rank.wide, crowd)
    done = work(rows, again, found)
    hot = hot_of(done, (host_s(rank, done, block), sum(rank.turns(block).values()), rank.rings(block)))
    lasting = rank.lasting(low, hot)
    times = {int(index): time for at, time in found.sources for index in at}
    cast_s = found.cast_s / lasting[CLASSES.index("cast")]
    paces = np.array([rank.recorded_s, rank.launches_s])[:, (rows.phase > 0).astype(int)]
    launch_s = np.where(recorded(rows, graphed), *paces)
    late_s = found.launches * launch_s - found.seconds / lasting[found.kind] - cast_s
    waits = np.bincount(rows.phase > 0, late_s, minlength=2) > 0
    kernels = []
    for index, op in enumerate(made):
        kind, precision = CLASSES[found.kind[index]], low if rows.low[index] else rank.wide
        share, time, alone_s = float(lasting[found.kind[index]]), times[index], float(found.seconds[index])
        kernels.append(
            Kernel(
                operator=op,
                precision=precision,
                alone_s=alone_s,
                lasting=share,
                hot=hot if found.kind[index] < HOT else 1.0,
                cast_s=float(cast_s[index]),
                error=float(found.error[index]),
                again=bool(again[index]),
                waits=bool(waits[int(op.phase != "F")]),
                bounds_s=_bounds_s(rank, op, precision, float(found.launches[index] * launch_s[index])),
                moved_bytes=_moved_bytes(op, precision),
                constants=(
                    *_hardware(rank, op, precision, level_of(time.level_of, time.level, time.error)),
                    *lasting_constants(rank, kind, precision),
                ),
            )
        )
    return kernels


def _peak_flops(rank: Rank, op: Operator, precision: str) -> float:
    """Of matrix units, which scans in chunks use too, or of vector units."""
    products = op.kind in ("matmul", "grouped_matmul", "attention", "scan")
    return rank.device.peak_flops(precision) if products else rank.device.vector_flops


def _moved_bytes(op: Operator, precision: str) -> float:
    products = op.kind in ("matmul", "grouped_matmul")
    return float(product_bytes(precision, op.m, op.n, op.k, op.batch)) if products else op.moved_bytes


def _bounds_s(rank: Rank, op: Operator, precision: str, host_s: float) -> dict[str, float]:
    part, name = FLOORS.get(op.kind, ("memory", "latency_s"))
    return {
        "compute": op.needed_flops / _peak_flops(rank, op, precision),
        "memory": _moved_bytes(op, precision) / rank.device.memory_bytes_per_s,
        "launch floor": op.launches * constants(part)[name],
        "host": host_s,
    }


def _hardware(rank: Rank, op: Operator, precision: str, own: Constant) -> list[Constant]:
    """The datasheet, the level, and the constants of the kernel's structure."""
    device, found = rank.device, [of_device(rank.device, "memory_bytes_per_s"), own]
    structured = own.name.startswith("levels.")  # else it is a curve, with a floor of its own
    if op.kind in ("matmul", "grouped_matmul") or op.plain:
        other = "halved" if device.architecture in ASYNCHRONOUS and BYTES[precision] >= 2 else "halved_async"
        names = [name for name in table()["matmul"] if name != other] if structured else []
        part = "odd_heads" if op.plain else "odd_matmul"
        slow = [constant(part, "share")] if op.odd and (op.plain or slows_odd(device, precision)) else []
        return [of_device(device, precision), *found, *(constant("matmul", name) for name in names), *slow]
    if op.kind == "attention":
        softmax = f"softmax_{device.architecture}"
        names = [name for name in table()["attention"] if not name.startswith("softmax") or name == softmax]
        names = names if structured else []
        gradient = [constant("attention_gradient", "softmax")] if op.phase != "F" and structured else []
        return [of_device(device, precision), *found, *(constant("attention", name) for name in names), *gradient]
    moved = [level("moved", op.kind)] if op.kind in levels("moved") else []
    return [*found, *moved, *([constant("memory", "latency_s")] if structured else [])]


def lasting_constants(rank: Rank, kind: str, precision: str) -> list[Constant]:
    """Return what makes the share that lasts through a step, of a class of kernels."""
    device, stack = rank.device, rank.stack
    if (in_blocks := inside(device)) is not None:
        meaning, source = "rate of such kernels inside of measured blocks, over that alone", "the cluster file"
        share = float(in_blocks.shares[CLASSES.index(kind)])
        own = Constant(name=f"{device.name} blocks", value=share, meaning=meaning, source=source, error=in_blocks.error)
        return [own, *([of_stack(stack, "moves")] if kind == "memory" else [])]
    if kind.endswith("product") and (measured := lasting_share(device)) is not None:
        meaning, source = "rate of products that lasts, over that at the start", "the cluster file"
        return [Constant(name=f"{device.name} sustained", value=measured, meaning=meaning, source=source)]
    of_memory = {"memory": [of_stack(stack, "moves")], "routing": [of_stack(stack, stack.orders_tokens)]}
    name = "memory" if kind in of_memory else "attention" if kind == "attention" else precision
    found = of_lasting(device, "bf16" if name == "fp16" else name)
    if kind == "low product" and rank.recipe and rank.recipe.rate(device.architecture) != 1:
        found.append(of_recipe(rank.recipe, device.architecture, "rate"))
    if kind == "attention" and stack.attention != "newest":
        older = level("older_attention", older_key(device.architecture, stack.attention))
        return [*found, of_stack(stack, "attention"), older]
    return found + of_memory.get(kind, [])


def of_lasting(device: Device, name: str) -> list[Constant]:
    """Return the share of a precision or of attention that lasts, and what the device's rated power makes of it."""
    key = sustained_key(device.architecture, name)
    own, alone = level("sustained", key), levels("sustained")[key][0]
    share = powered(device, name, key, alone)
    if share == alone:
        return [own]
    meaning = "share that its rated power leaves, over that of the device which the level is of, or over the default"
    return [own, Constant(name=f"{device.name} power", value=share / alone, meaning=meaning, source=POWER)]


def cast_constants(rank: Rank) -> tuple[Constant, ...]:
    """Return what casts of operands to the low precision are made with."""
    time = cast(rank.device, rank.low, 1)
    memory = level("sustained", sustained_key(rank.device.architecture, "memory"))
    own = level_of(time.level_of, time.level, time.error)
    rate = of_device(rank.device, "memory_bytes_per_s")
    found = (rate, own, constant("cast", "floor_s"), memory, of_stack(rank.stack, "casts"))
    return (*found, of_recipe(rank.recipe, rank.device.architecture, "casts")) if rank.recipe else found
