"""Seconds of matrix products, attention and memory-bound work on a device: the hardware's side, launches apart.

Each is what the device's datasheet and the structure of the kernel allow, over a level of its architecture. All take
numpy arrays (or numbers) that broadcast, and work on 100,000 shapes at once. What one launch costs the host is a
property of the software and counted elsewhere; here a kernel has only a floor on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.core.device import Device
from penstock.cost.constants import constants, levels
from penstock.cost.curves import attention_curve, attention_sizes, matmul_curve, memory_curve

Floats = npt.NDArray[np.float64]
Sizes = npt.ArrayLike

BYTES: Mapping[str, float] = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5625}
"""Bytes of one operand element; FP4 with a scale of one byte for 16 elements."""
OUT_BYTES: Mapping[str, float] = {"fp64": 8, "fp32": 4, "tf32": 4, "int8": 4}
"""Bytes of one element of the result, where they are not the 2 of BF16."""
TILES = ((256, 256), (256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64))
"""Rows and columns of the result that one unit makes at once; libraries choose among these and their like."""
SPLITS = (1, 2, 4, 8)
"""Into how many parts a library cuts the inner dimension when the result has too few tiles."""


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of kernels, and how far they are off.

    Args:
        seconds: of each shape.
        error: mean relative error, for intervals: over the shapes that the level was fitted to, or an estimate of it
            where the level is guessed; of a curve measured on this machine, that of shapes left out of it.
        level: share of the structured bound that is reached, or the ratio used, and ``level_of`` whose it is.
        guessed: no measurement of this architecture and precision stands behind the level.
    """

    seconds: Floats
    error: float
    level: float
    level_of: str
    guessed: bool


def matmul(device: Device, precision: str, m: Sizes, n: Sizes, k: Sizes, batch: Sizes = 1) -> Time:
    """Return seconds of ``batch`` products of (m, k) by (k, n) in one kernel; FLOPs are 2 batch m n k.

    Raises:
        ValueError: the device has no such precision, or a size is below 1.
    """
    if (curve := matmul_curve(device, precision, matmul_bound_s)) is not None:
        sizes = _sizes(m=m, n=n, k=k, batch=batch)
        return Time(*curve.at((curve.bound or matmul_bound_s)(device, precision, *sizes), *sizes), False)
    level, error, whose, guessed = _level("matmul", device, precision)
    seconds = matmul_bound_s(device, precision, m, n, k, batch) / level + constants("matmul")["floor_s"]
    return Time(seconds, error, level, whose, guessed)


def grouped_matmul(device: Device, precision: str, rows: Sizes, n: Sizes, k: Sizes, groups: Sizes) -> Time:
    """Return seconds of one product per expert in one kernel, with ``rows`` shared out evenly over ``groups`` experts.

    Every expert's tiles are rounded up by themselves, and every expert's weights are read: both follow from a batch.
    Rows that fall unevenly are the caller's: give the rows of the fullest device, not those of the fullest expert.
    """
    rows, groups = _sizes(rows=rows, groups=groups)
    used = np.minimum(rows, groups)
    level, error, whose, guessed = _level("grouped", device, precision)
    seconds = matmul_bound_s(device, precision, rows / used, n, k, used) / level
    seconds = seconds + constants("matmul")["floor_s"]
    return Time(seconds, error, level, whose, guessed)


def matmul_bound_s(
    device: Device,
    precision: str,
    m: Sizes,
    n: Sizes,
    k: Sizes,
    batch: Sizes = 1,
    *,
    shape: Mapping[str, float] | None = None,
) -> Floats:
    """Return the structured bound of ``matmul``: the best tile and split, before any level and the floor.

    A unit makes whole tiles, in waves over all units of which the last is partly empty; each tile first waits for its
    first operands (``prologue_bytes`` along k) and small tiles feed the matrix unit worse (``edge``). Bytes move beside
    that, ``latency_s`` after the start; operands that do not fit the shared cache are read again by waves.
    """
    m, n, k, batch = _sizes(m=m, n=n, k=k, batch=batch)
    shape = shape or constants("matmul")
    best = np.full(m.shape, np.inf)
    for rows, columns in TILES:
        for split in SPLITS:
            best = np.minimum(best, _tiled_s(device, precision, (m, n, k, batch), (rows, columns, split), shape))
    flops_s = 2 * batch * m * n * k / device.peak_flops(precision)
    return np.asarray(np.maximum(best, flops_s))


def _tiled_s(
    device: Device,
    precision: str,
    sizes: tuple[Floats, Floats, Floats, Floats],
    tile: tuple[int, int, int],
    shape: Mapping[str, float],
) -> Floats:
    (m, n, k, batch), (rows, columns, split) = sizes, tile
    item, out = BYTES[precision], OUT_BYTES.get(precision, 2)
    down, across = np.ceil(m / rows), np.ceil(n / columns)
    waves = batch * down * across * split / device.units
    waves = np.where(waves < 1, 1.0, waves + shape["tail"] * (np.ceil(waves) - waves))
    fed = 1 + shape["edge"] * (1 / rows + 1 / columns)
    inner = k / split + shape["prologue_bytes"] / item
    compute_s = waves * 2 * rows * columns * inner * fed * device.units / device.peak_flops(precision)
    operands = batch * k * (m + n) * item
    square = np.sqrt(device.units * rows * columns)
    again = 2 * batch * k * item * m * n / square
    spilled = np.clip(operands / device.l2_bytes - 1, 0, 1)
    moved = np.maximum(operands, spilled * again) + batch * m * n * (out + 8 * (split - 1))
    memory_s = moved / (device.memory_bytes_per_s * shape["memory_share"]) + shape["latency_s"]
    power = shape["overlap"]
    larger, smaller = np.maximum(compute_s, memory_s), np.minimum(compute_s, memory_s)
    return np.asarray(larger * (1 + (smaller / larger) ** power) ** (1 / power))


def attention(
    device: Device,
    precision: str,
    batch: Sizes,
    heads: Sizes,
    seq: Sizes,
    head_size: Sizes,
    *,
    kv_heads: Sizes | None = None,
    value_size: Sizes | None = None,
    causal: bool = True,
    window: int | None = None,
    backward: bool = False,
) -> Time:
    """Return seconds of one fused attention kernel.

    The levels are those of the kernels that were measured, forward and causal: FlashAttention 2 on Ampere, 3 on Hopper,
    TensorRT-LLM's own on Ada and Blackwell. No gradient was measured: its ratio to the forward pass is an estimate.

    Args:
        batch: sequences of ``seq`` tokens, with ``heads`` heads of ``head_size`` (of ``value_size`` for the values, as
            in multi-head latent attention; its keys and values are then those of every head).
        kv_heads: heads of keys and values that are read; all, where ``None``.
        window: how many keys a token sees at most, itself included; needs ``causal``.
        backward: the gradient instead, which does five products where the forward pass does two.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window} with causal={causal}: give causal=True and a window of at least 1 token")
    value_size = head_size if value_size is None else value_size
    kv_heads = heads if kv_heads is None else kv_heads
    sizes = _sizes(batch=batch, heads=heads, seq=seq, head_size=head_size, value_size=value_size, kv_heads=kv_heads)
    if (curve := attention_curve(device, precision, backward, attention_bound_s)) is not None:
        bound_s = (curve.bound or attention_bound_s)(device, precision, *sizes, causal=causal, window=window)
        return Time(*curve.at(bound_s, *attention_sizes(sizes)), False)
    level, error, whose, guessed = _level("attention", device, precision)
    seconds = attention_bound_s(device, precision, *sizes, causal=causal, window=window) / level
    floor_s = constants("attention")["floor_s"]
    if backward:
        ratio, more, ratio_of, unsure = _level("attention_backward", device, precision)
        whose = f"{whose}; {ratio_of}"
        return Time(seconds * ratio + floor_s, error + more, level, whose, guessed or unsure)
    return Time(seconds + floor_s, error, level, whose, guessed)


def attention_bound_s(
    device: Device,
    precision: str,
    batch: Floats,
    heads: Floats,
    seq: Floats,
    head_size: Floats,
    value_size: Floats,
    kv_heads: Floats,
    *,
    causal: bool,
    window: int | None,
    shape: Mapping[str, float] | None = None,
) -> Floats:
    """Return the structured bound of the forward kernel, before level and floor: blocks of 128 queries in waves.

    Exponentials run on units of which each makes 16 a cycle (CUDA programming guide, throughput of instructions), of
    which ``exposed`` is not hidden behind the products; a block starts up for ``prologue_keys`` keys, and none is done
    before its longest block, which sees all keys of the last queries.
    """
    shape = shape or constants("attention")
    rows = 128
    blocks = np.ceil(seq / rows)
    whole = blocks * rows
    span = whole if window is None else np.minimum(whole, window + 2 * rows)  # blocks at both edges are whole
    pairs = span * whole - (span * (span - 1) / 2 if causal else 0) + whole * shape["prologue_keys"]
    work = batch * heads * blocks / device.units
    longest = (np.minimum(whole, span) + shape["prologue_keys"]) * whole
    pairs = np.maximum(pairs * (1 + shape["tail"] * (np.ceil(work) / work - 1)), longest / work)
    product_s = 2 * (head_size + value_size) / device.peak_flops(precision)
    exponential_s = 1 / (16 * device.units * device.clock_hz)
    compute_s = batch * heads * pairs * (product_s + shape["exposed"] * exponential_s)
    item = BYTES[precision]
    tokens = batch * seq * item
    moved = tokens * ((heads + kv_heads) * head_size + (heads + kv_heads) * value_size)
    memory_s = moved / device.memory_bytes_per_s
    return np.asarray(np.maximum(compute_s, memory_s))


def unfused_attention(
    device: Device, precision: str, batch: Sizes, heads: Sizes, seq: Sizes, head_size: Sizes, *, passes: float = 4
) -> Time:
    """Return seconds of attention as two products and ``passes`` reads or writes of the whole (seq, seq) scores."""
    batch, heads, seq, head_size = _sizes(batch=batch, heads=heads, seq=seq, head_size=head_size)
    scores = matmul(device, precision, seq, seq, head_size, batch * heads)
    values = matmul(device, precision, seq, head_size, seq, batch * heads)
    soft = memory_bound(device, passes * BYTES[precision] * batch * heads * seq * seq)
    seconds = scores.seconds + values.seconds + soft.seconds
    return Time(seconds, scores.error, scores.level, scores.level_of, scores.guessed or soft.guessed)


def memory_bound(device: Device, moved_bytes: Sizes, *, kernels: Sizes = 1) -> Time:
    """Return seconds of work that reads and writes ``moved_bytes`` from and to memory, in ``kernels`` kernels.

    Norms, residuals, activations, softmax, losses, gathers and optimizers are of this sort. The rate rises with size:
    ``latency_s`` passes before the first byte is there, in every kernel. Neither it nor the share of the peak rate that
    large work reaches was measured: both are estimates.
    """
    moved, kernels = np.broadcast_arrays(np.asarray(moved_bytes, float), np.asarray(kernels, float))
    if not (moved >= 0).all() or not (kernels >= 1).all():
        raise ValueError(f"moved_bytes={moved.min():g}, kernels={kernels.min():g}: give at least 0 bytes and 1 kernel")
    if (curve := memory_curve(device)) is not None:
        each, error, level, whose = curve.at(
            moved / kernels / device.memory_bytes_per_s, np.maximum(moved / kernels, 1.0)
        )
        return Time(kernels * each, error, level, whose, False)
    floor_s = constants("memory")["latency_s"]
    level, error, whose, guessed = _level("memory", device, "")
    seconds = moved / (device.memory_bytes_per_s * level) + kernels * floor_s
    return Time(np.asarray(seconds), error, level, whose, guessed)


def _level(part: str, device: Device, precision: str) -> tuple[float, float, str, bool]:
    """Find (level, error, whose, guessed): of architecture and precision, of the architecture, or the default."""
    known = levels(part)
    alike = "bf16" if precision == "fp16" else precision
    for owner in (device.architecture, "default"):
        for name in (f"{owner} {alike}", owner):
            if name in known:
                level, error, measured = known[name]
                return level, error, f"{part} {name}", not measured
    raise LookupError(f"data/constants.toml has no default among levels.{part}")


def _sizes(**given: Sizes) -> tuple[Floats, ...]:
    arrays = {name: np.asarray(value, float) for name, value in given.items()}
    for name, array in arrays.items():
        if array.size and not (array >= 1).all():
            raise ValueError(f"{name}={array.min():g} is not a size; give at least 1")
    return tuple(np.broadcast_arrays(*arrays.values()))
