"""The noun ``Roofline``: the rates of a device, those that last through a step, and a rank's operators under them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from penstock.core.device import Device
from penstock.cost.kernels import matmul, memory_bound
from penstock.predict.explain_blocks import blocks_of
from penstock.predict.explain_kernels import Kernel, kernels_of, kernels_of_end
from penstock.predict.step import Step

LARGE = 8192
"""Rows, columns and inner size of the product whose rate stands for products."""
LARGE_BYTES = 2.0**30


class Point(NamedTuple):
    """An operator, all its phases, blocks and micro-batches together, casts apart: FLOPs that the mask leaves, bytes
    read and written, seconds of a step."""

    name: str
    kind: str
    flops: float
    moved_bytes: float
    seconds: float

    @property
    def flops_per_byte(self) -> float:
        """Arithmetic intensity."""
        return self.flops / self.moved_bytes

    @property
    def flops_per_s(self) -> float:
        """Rate of a step."""
        return self.flops / self.seconds


class Ceiling(NamedTuple):
    """A peak rate of the datasheet, and what large work reaches of it through a step at best; ``None`` where no
    operator here needs it."""

    name: str
    peak: float
    lasting: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Roofline:
    """The ceilings of a device, in FLOP/s by precision and in bytes/s of ``memory``, and operators (Williams et al.
    2009, doi:10.1145/1498765.1498785)."""

    device: Device
    flops: tuple[Ceiling, ...]
    memory: Ceiling
    points: tuple[Point, ...]


def roofline_of(step: Step, r: int) -> Roofline:
    """Return the roofline of a pipeline rank of a step."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    lasting: dict[str, float] = {}
    for kernel, times in _done(step, r):
        op = kernel.operator
        one = sums[op.name, op.kind]
        for at, size in enumerate((op.needed_flops, kernel.moved_bytes, kernel.seconds)):
            one[at] += times * size
        if op.kind.endswith("matmul") or op.kind == "elementwise":
            what = kernel.precision if op.kind != "elementwise" else "memory"
            lasting[what] = max(kernel.lasting, lasting.get(what, 0.0))
    device = step.rank.device
    return Roofline(
        device=device,
        flops=tuple(_products(device, name, lasting.get(name)) for name in device.matrix_flops),
        memory=_memory(device, lasting["memory"]),
        points=tuple(Point(*names, *three) for names, three in sums.items() if all(three)),
    )


def _done(step: Step, r: int) -> Iterator[tuple[Kernel, float]]:
    """The operators of a rank, and how often each runs in a step."""
    micros = step.setup.micros
    for mine in blocks_of(step, r):
        for kernel in kernels_of(mine.rank, mine.block):
            yield kernel, mine.times * (1.0 + kernel.again)
    for stage in step.on[r]:
        for which, share in step.end_shares(stage):
            for kernel in kernels_of_end(step.rank, which):
                yield kernel, micros * share


def _products(device: Device, precision: str, lasting: float | None) -> Ceiling:
    peak = device.peak_flops(precision)
    if lasting is None:
        return Ceiling(precision, peak, None)
    return Ceiling(precision, peak, lasting * 2 * LARGE**3 / float(matmul(device, precision, *[LARGE] * 3).seconds))


def _memory(device: Device, lasting: float) -> Ceiling:
    rate = LARGE_BYTES / float(memory_bound(device, LARGE_BYTES).seconds)
    return Ceiling("memory", device.memory_bytes_per_s, lasting * rate)
