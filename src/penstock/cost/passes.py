"""Seconds of a device for operators: the kernels of forwards, input gradients and weight gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from penstock.core.device import Device
from penstock.cost.constants import levels
from penstock.cost.kernels import Time, attention, grouped_matmul, matmul, memory_bound
from penstock.cost.operators import Operator

Floats = NDArray[np.float64]
Which = NDArray[np.int64]
PHASES = ("F", "I", "W")
KINDS = ("matmul", "grouped_matmul", "attention", "scan", "elementwise", "norm", "gather", "loss")
WIDE = ("router", "logits", "indexer", "streams")
"""Words in the names of products that stay in the wide precision whatever the recipe."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Operators as columns, one row each.

    ``sizes``: batch, m, n, k, width of values and density, shape (6, operators). ``low``: a recipe of low precision
    takes the product. ``plain``: attention by products and a softmax, with scores in memory.
    """

    names: tuple[str, ...]
    kind: NDArray[np.int64]
    phase: NDArray[np.int64]
    sizes: Floats
    moved_bytes: Floats
    launches: Floats
    low: NDArray[np.bool_]
    plain: NDArray[np.bool_]


def rows_of(operators: Sequence[Operator]) -> Rows:
    """Return the columns of operators."""
    sizes = [(op.batch, op.m, op.n, op.k, op.value_dim or op.k, op.density) for op in operators]
    return Rows(
        tuple(op.name for op in operators),
        np.array([KINDS.index(op.kind) for op in operators]),
        np.array([PHASES.index(op.phase) for op in operators]),
        np.array(sizes, dtype=np.float64).reshape(-1, 6).T,
        np.array([op.moved_bytes for op in operators]),
        np.array([op.launches for op in operators], dtype=np.float64),
        np.array([op.kind.endswith("matmul") and not any(word in op.name for word in WIDE) for op in operators]),
        np.array([op.kind == "attention" and op.launches > 2 for op in operators]),
    )


@dataclass(frozen=True, eq=False)
class Timed:
    """Seconds of a device for each operator, their relative errors, and the levels that nobody measured."""

    seconds: Floats
    error: Floats
    guessed: frozenset[str]


def timed(rows: Rows, device: Device, low: str, wide: str, cast_bytes: float = 0.0) -> Timed:
    """Return what operators take on a device.

    Products and attention run at the rate of their kernels by themselves, times the share of it that lasts through a
    step (``levels.sustained``: power, clocks and cold caches).

    Args:
        rows: operators.
        device: where they run.
        low: precision of the products inside blocks; those in ``WIDE`` keep the wide one.
        wide: precision of all else.
        cast_bytes: memory traffic for each element of the left operand of a product in low precision.
    """
    found = _Found(rows, device)
    recipe = rows.low & (low != wide)
    for each, mine in ((wide, ~recipe), (low, recipe)):
        found.put((rows.kind == 0) & mine, partial(_product, rows, device, each), sustained(device, each))
        found.put((rows.kind == 1) & mine, partial(_grouped, rows, device, each), sustained(device, each))
    if recipe.any() and cast_bytes:
        operands = recipe & (rows.phase < 2)
        batch, m, _, k = rows.sizes[:4, operands]
        found.seconds[operands] += memory_bound(device, batch * m * k * cast_bytes).seconds
    flash = (rows.kind == 2) & ~rows.plain
    for backward in (False, True):
        mine = flash & ((rows.phase > 0) == backward)
        found.put(mine, partial(_flash, rows, device, wide, backward), sustained(device, wide))
    found.put(rows.kind > 2, partial(_moved, rows, device))
    found.put(rows.plain, partial(_plain, rows, device, wide))
    return Timed(found.seconds, found.error, frozenset(found.guessed))


class _Found:
    """Times under way."""

    def __init__(self, rows: Rows, device: Device) -> None:
        self.seconds, self.error = np.zeros(len(rows.kind)), np.zeros(len(rows.kind))
        self.guessed: set[str] = set()
        self.device = device

    def put(self, mine: NDArray[np.bool_], of: Callable[[Which], Time], lasting: float = 1.0) -> None:
        """Write the times of some operators."""
        at = np.flatnonzero(mine)
        if not len(at):
            return
        time = of(at)
        self.seconds[at], self.error[at] = time.seconds / lasting, time.error
        if time.guessed:
            self.guessed.add(f"{time.level_of} for {self.device.architecture}")


def sustained(device: Device, precision: str) -> float:
    """Return the share of the rate of single kernels that lasts through a training step."""
    known = levels("sustained")
    name = f"{device.architecture} {'bf16' if precision == 'fp16' else precision}"
    return next(known[key][0] for key in (name, device.architecture, "default") if key in known)


def _product(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    batch, m, n, k = rows.sizes[:4, at]
    return matmul(device, precision, m, n, k, batch)


def _grouped(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    """Experts' products, each with the mean rows."""
    batch, m, n, k = rows.sizes[:4, at]
    return grouped_matmul(device, precision, m * batch, n, k, batch)


def _moved(rows: Rows, device: Device, at: Which) -> Time:
    return memory_bound(device, rows.moved_bytes[at], kernels=rows.launches[at])


def _flash(rows: Rows, device: Device, precision: str, backward: bool, at: Which) -> Time:
    """Fused attention; a mask of less than half is taken for a window that leaves as many pairs, and queries of a part
    of the sequence for as many fewer heads."""
    batch, m, n, k, value, density = rows.sizes[:, at]
    heads = np.maximum(1.0, batch * m / n)
    causal, window = bool((density < 0.75).all()), None
    if causal and (density < 0.45).all():
        window = int(max(1, round(float((n * (1 - np.sqrt(1 - 2 * density))).max()))))
    return attention(
        device, precision, 1, heads, n, k, value_size=value, causal=causal, window=window, backward=backward
    )


def _plain(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    """Attention by two products and a softmax; twice as many products for gradients."""
    batch, m, n, k, value, _ = rows.sizes[:, at]
    scores = matmul(device, precision, m, n, k, batch)
    values = matmul(device, precision, m, value, n, batch)
    soft = _moved(rows, device, at)
    times = np.where(rows.phase[at] > 0, 2, 1)
    seconds = times * (scores.seconds + values.seconds) / sustained(device, precision) + soft.seconds
    return Time(seconds, scores.error, scores.level, scores.level_of, scores.guessed or soft.guessed)
