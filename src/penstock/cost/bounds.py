"""Bounds of matrix products and attention in seconds: by the structure of their kernels, and plain rooflines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from penstock.core.device import Device
from penstock.cost.constants import constants

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
    m, n, k, batch = arrays_of(m=m, n=n, k=k, batch=batch)
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
    moved = _product_bytes(precision, m, n, k, batch)
    return np.asarray(np.maximum(inner.min(axis=0), moved / device.memory_bytes_per_s))


def product_bytes(precision: str, m: Sizes, n: Sizes, k: Sizes, batch: Sizes = 1) -> Floats:
    """Return the bytes that ``matmul`` reads and writes at least: operands and the result, each once."""
    return np.asarray(_product_bytes(precision, *arrays_of(m=m, n=n, k=k, batch=batch)))


def _product_bytes(precision: str, m: Floats, n: Floats, k: Floats, batch: Floats) -> Floats:
    return batch * (k * (m + n) * BYTES[precision] + m * n * OUT_BYTES.get(precision, 2))


def roofline_s(device: Device, precision: str, m: Floats, n: Floats, k: Floats, batch: Floats) -> Floats:
    """Return the larger of FLOPs and bytes over the peaks: what is left of the bound where nothing works in tiles."""
    flops_s = 2 * batch * m * n * k / device.peak_flops(precision)
    return np.asarray(np.maximum(flops_s, product_bytes(precision, m, n, k, batch) / device.memory_bytes_per_s))


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
    moved = attention_bytes(precision, batch, heads, seq, head_size, value_size, kv_heads)
    return np.asarray(np.maximum(pairs * pair_s, (1 + backward) * moved / device.memory_bytes_per_s))


def attention_roofline_s(device: Device, precision: str, *sizes: Floats, causal: bool, window: int | None) -> Floats:
    """Return the larger of FLOPs and bytes over the peaks, of the forward; arguments as in ``attention_bound_s``.

    FLOPs that ``causal`` masks count too, as where nothing skips them.
    """
    batch, heads, seq, head_size, value_size, _ = sizes
    span = seq if window is None else np.minimum(seq, window)
    flops_s = 2 * batch * heads * seq * span * (head_size + value_size) / device.peak_flops(precision)
    return np.asarray(np.maximum(flops_s, attention_bytes(precision, *sizes) / device.memory_bytes_per_s))


def attention_bytes(
    precision: str, batch: Floats, heads: Floats, seq: Floats, head_size: Floats, value_size: Floats, kv_heads: Floats
) -> Floats:
    """Return the bytes that the forward reads and writes at least: queries, keys, values and results, each once."""
    return batch * seq * BYTES[precision] * (heads + kv_heads) * (head_size + value_size)


def arrays_of(**given: Sizes) -> tuple[Floats, ...]:
    """Return sizes as arrays of one shape, in the order in which they are given.

    Raises:
        ValueError: one is below 1.
    """
    arrays = {name: np.asarray(value, float) for name, value in given.items()}
    for name, array in arrays.items():
        if not array.min(initial=1.0) >= 1:
            raise ValueError(f"{name}={array.min():g} is not a size; give at least 1")
    return tuple(np.broadcast_arrays(*arrays.values()))
