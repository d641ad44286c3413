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
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 64))
"""Rows and columns of the result that one unit makes at once; libraries choose among these and their like."""
PARTS = 8
"""Into how many parts a library cuts the inner dimension at most, when the result has too few tiles."""
ASYNCHRONOUS = frozenset({"hopper", "blackwell", "blackwell-ultra"})
"""Architectures whose matrix units take operands from shared memory, which a copy engine of each unit fills."""
_ROWS, _COLUMNS = np.array(TILES, float).T
_HALVINGS = np.log2((_ROWS * _COLUMNS).max() / (_ROWS * _COLUMNS))


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
    """Return the structured bound of ``matmul``, before any level and the floor: of its products or its traffic.

    A unit makes whole tiles, in waves over all units, of which the last loses ``tail`` of what it leaves idle. Each
    tile first waits for operands, ``prologue_bytes`` along k. Every halving of a tile keeps ``halved`` of the rate of
    the matrix unit (``halved_async`` on ``ASYNCHRONOUS`` architectures, in 16 bits or more). With idle units to fill,
    the inner dimension is cut in as many parts as they take, which adds ``split``. The best tile counts.
    """
    m, n, k, batch = _sizes(m=m, n=n, k=k, batch=batch)
    shape = shape or constants("matmul")
    item, peak, units = BYTES[precision], device.peak_flops(precision), device.units
    kept = shape["halved_async" if device.architecture in ASYNCHRONOUS and item >= 2 else "halved"]
    rows, columns, tile_s = (
        each.reshape(-1, *(1,) * m.ndim)
        for each in (_ROWS, _COLUMNS, 2 * units / peak * _ROWS * _COLUMNS / kept**_HALVINGS)
    )
    tiles = np.ceil(m / rows)
    tiles *= np.ceil(n / columns)
    tiles *= batch
    waves = tiles / units
    rounds = np.maximum(waves + shape["tail"] * (np.ceil(waves) - waves), 1)
    parts = np.minimum(np.maximum(np.floor(units / tiles), 1), PARTS)
    waited = shape["prologue_bytes"] / item
    inner = np.minimum((k / parts + waited) * (1 + shape["split"]), k + waited)
    inner *= rounds
    inner *= tile_s
    moved = product_bytes(precision, m, n, k, batch)
    return np.asarray(np.maximum(inner.min(axis=0), moved / device.memory_bytes_per_s))


def product_bytes(precision: str, m: Sizes, n: Sizes, k: Sizes, batch: Sizes = 1) -> Floats:
    """Return the bytes that ``matmul`` reads and writes at least: operands and the result, each once."""
    m, n, k, batch = _sizes(m=m, n=n, k=k, batch=batch)
    return np.asarray(batch * (k * (m + n) * BYTES[precision] + m * n * OUT_BYTES.get(precision, 2)))


def cast(device: Device, precision: str, elements: Sizes) -> Time:
    """Return seconds of turning ``elements`` of BF16 into FP8 or FP4 with scales, in one kernel.

    At the bound every byte moves once each way; levels are those of inference libraries, of which some read twice, for
    the greatest value. ``matmul`` has no casts in it.
    """
    (elements,) = _sizes(elements=elements)
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
    sizes = _sizes(batch=batch, heads=heads, seq=seq, head_size=head_size, value_size=value_size, kv_heads=kv_heads)
    if (curve := attention_curve(device, precision, backward, attention_bound_s)) is not None:
        bound_s = (curve.bound or attention_bound_s)(device, precision, *sizes, causal=causal, window=window)
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
    backward: bool = False,
    shape: Mapping[str, float] | None = None,
) -> Floats:
    """Return the structured bound of the forward kernel, or of the gradient, before level and floor.

    Blocks of 64 queries, each at work ``prologue_keys`` keys longer than the keys it sees; with more blocks than units
    the last to end, which sees most keys, keeps the others waiting for ``tail`` of its time. Products (forward: of
    queries with keys, and with values; gradient: three and two) and softmax share the units: ``overlap`` is the power
    of the mean of their times, 1 adds them, many take the longer. A unit does the softmax of ``softmax_`` of its
    architecture pairs a cycle, elsewhere of 16: exponentials, by the CUDA programming guide; its gradient takes longer.
    """
    shape = shape or constants("attention")
    rows = 64
    blocks = np.ceil(seq / rows)
    whole = blocks * rows
    span = whole if window is None else np.minimum(whole, window + 4 * rows)  # whole blocks of 128 keys
    seen = span * whole - (span * (span - 1) / 2 if causal else 0) + whole * shape["prologue_keys"]
    longest = (span + shape["prologue_keys"]) * rows * device.units
    late = shape["tail"] * longest * (batch * heads * blocks > device.units)
    pairs = np.maximum(batch * heads * seen + late, longest)
    products = 3 * head_size + 2 * value_size if backward else head_size + value_size
    product_s = 2 * products / device.peak_flops(precision)
    softmax_s = 1 / (shape.get(f"softmax_{device.architecture}", 16) * device.units * device.clock_hz)
    if backward:
        softmax_s *= constants("attention_gradient")["softmax"]
    power = shape["overlap"]
    pair_s = (product_s**power + softmax_s**power) ** (1 / power)
    moved = batch * seq * BYTES[precision] * (heads + kv_heads) * (head_size + value_size)
    return np.asarray(np.maximum(pairs * pair_s, (1 + backward) * moved / device.memory_bytes_per_s))


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


def _sizes(**given: Sizes) -> tuple[Floats, ...]:
    arrays = {name: np.asarray(value, float) for name, value in given.items()}
    for name, array in arrays.items():
        if array.size and not (array >= 1).all():
            raise ValueError(f"{name}={array.min():g} is not a size; give at least 1")
    return tuple(np.broadcast_arrays(*arrays.values()))
