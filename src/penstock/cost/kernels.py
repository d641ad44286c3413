"""Seconds of matrix products, attention and memory-bound work on a device: the hardware's side, launches apart.

Each is what the device's datasheet and the structure of the kernel allow, over a level of its architecture. All take
numpy arrays (or numbers) that broadcast, and work on 100,000 shapes at once. What one launch costs the host is a
property of the software and counted elsewhere; here a kernel has only a floor on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.core.device import Device
from penstock.cost.bounds import BYTES, Floats, Sizes, arrays_of, attention_bound_s, matmul_bound_s
from penstock.cost.constants import constants, levels
from penstock.cost.curves import attention_curve, attention_sizes, matmul_curve, memory_curve


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of kernels, and how far they are off.

    Args:
        seconds: of each shape.
        error: mean relative error, for intervals: over the shapes that the level was fitted to, or an estimate of it
            where the level is guessed; of a curve measured on this machine, that of shapes left out of it.
        level: share of the structured bound that is reached, and ``level_of`` whose it is.
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
    if (found := matmul_curve(device, precision)) is not None:
        curve, bound = found
        sizes = arrays_of(m=m, n=n, k=k, batch=batch)
        return Time(*curve.at(bound(device, precision, *sizes), *sizes), False)
    level, error, whose, guessed = _level("matmul", device, precision)
    seconds = matmul_bound_s(device, precision, m, n, k, batch) / level + constants("matmul")["floor_s"]
    return Time(seconds, error, level, whose, guessed)


def grouped_matmul(device: Device, precision: str, rows: Sizes, n: Sizes, k: Sizes, groups: Sizes) -> Time:
    """Return seconds of one product per expert in one kernel, with ``rows`` shared out evenly over ``groups`` experts.

    Every expert's tiles are rounded up by themselves, and every expert's weights are read: both follow from a batch.
    Rows that fall unevenly are the caller's: give the rows of the fullest device, not those of the fullest expert.
    """
    rows, groups = arrays_of(rows=rows, groups=groups)
    used = np.minimum(rows, groups)
    level, error, whose, guessed = _level("grouped", device, precision)
    seconds = matmul_bound_s(device, precision, rows / used, n, k, used) / level
    seconds = seconds + constants("matmul")["floor_s"]
    return Time(seconds, error, level, whose, guessed)


def cast(device: Device, precision: str, elements: Sizes) -> Time:
    """Return seconds of turning ``elements`` of BF16 into FP8 or FP4 with scales, in one kernel.

    At the bound every byte moves once each way; levels are those of inference libraries, of which some read twice, for
    the greatest value. ``matmul`` has no casts in it.
    """
    (elements,) = arrays_of(elements=elements)
    level, error, whose, guessed = _level("cast", device, precision)
    moved_s = elements * (2 + BYTES[precision]) / device.memory_bytes_per_s
    return Time(np.asarray(moved_s / level + constants("cast")["floor_s"]), error, level, whose, guessed)


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

    The levels are those of the best kernel that was measured for each shape, forward and causal, among FlashAttention
    2 and 3, FlashInfer and TensorRT-LLM's own; of gradients only those of cuDNN on Hopper were measured. Beside its
    main kernel a gradient reads results and their gradients for sums of rows, rounds that of queries from FP32, and
    adds up those of keys and values over the heads that share them.

    Args:
        batch: sequences of ``seq`` tokens, with ``heads`` heads of ``head_size`` (of ``value_size`` for the values, as
            in multi-head latent attention; its keys and values are then those of every head).
        kv_heads: heads of keys and values that are read; all, where ``None``.
        window: how many keys a token sees at most, itself included; needs ``causal``.
        backward: the gradient instead, as ``attention_bound_s`` has it.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window} with causal={causal}: give causal=True and a window of at least 1 token")
    value_size = head_size if value_size is None else value_size
    kv_heads = heads if kv_heads is None else kv_heads
    sizes = arrays_of(batch=batch, heads=heads, seq=seq, head_size=head_size, value_size=value_size, kv_heads=kv_heads)
    if (found := attention_curve(device, precision, backward)) is not None:
        curve, bound = found
        bound_s = bound(device, precision, *sizes, causal=causal, window=window)
        return Time(*curve.at(bound_s, *attention_sizes(sizes)), False)
    part = "attention_backward" if backward else "attention"
    level, error, whose, guessed = _level(part, device, precision)
    bound_s = attention_bound_s(device, precision, *sizes, causal=causal, window=window, backward=backward)
    seconds = bound_s / level + constants("attention")["floor_s"]
    if backward:
        batch, heads, seq, head_size, value_size, kv_heads = sizes
        item = BYTES[precision]
        moved = 2 * item * value_size + (4 + item) * head_size
        moved = moved + (heads > kv_heads) * 2 * item * (head_size + value_size)
        seconds = seconds + memory_bound(device, batch * seq * heads * moved).seconds
    return Time(np.asarray(seconds), error, level, whose, guessed)


def memory_bound(device: Device, moved_bytes: Sizes, *, kernels: Sizes = 1) -> Time:
    """Return seconds of work that reads and writes ``moved_bytes`` from and to memory, in ``kernels`` kernels.

    Norms, residuals, activations, softmax, losses, gathers and optimizers are of this sort. The rate rises with size:
    ``latency_s`` passes before the first byte is there, in every kernel. The share of the peak rate that large work
    reaches is that of the architecture, or a curve's where one was measured.
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
