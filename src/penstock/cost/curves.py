"""Times from what was measured of a machine: the structured bound, a level, and what measured shapes near by show.

A curve says t = (bound / level + floor) * exp(residual). Level and floor suit the measured shapes best; the residual
is what is left at each of them, carried over to others by how near they are in the logarithm of their sizes (a Gaussian
process; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, 2.23). The error of a curve is that of
each shape predicted from all others (5.12 there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.core.cluster import Level
from penstock.core.device import Device
from penstock.cost.bounds import Floats, attention_bound_s, attention_roofline_s, matmul_bound_s, roofline_s

if TYPE_CHECKING:
    from penstock.core.curves import Column

LENGTHS = (1.0, 2.0, 4.0, 8.0)
"""Distances, in powers of two of one size, over which residuals are alike; the one that predicts best is taken."""
NOISES = (0.05, 0.2, 0.8)
"""Variance of a single measurement over that of residuals; likewise."""
OPERATOR_S = 8.3e-6
"""What the host of the H100 takes on which constants of frameworks were measured (data/clusters)."""
_CHUNK = 8192
_FLOORS = 24


class Reading(NamedTuple):
    """Seconds from a curve, its error, its level and its name."""

    seconds: Floats
    error: float
    level: float
    level_of: str


@dataclass(frozen=True, eq=False)
class Curve:
    """A fitted part.

    Args:
        error: mean relative error of each measured shape predicted from all others.
        points: log2 of the sizes of each: (shapes, sizes).
        weights: of the closeness to each, to give the residual: (shapes,).
        length: see ``LENGTHS``.
    """

    name: str
    level: float
    floor_s: float
    error: float
    points: Floats
    weights: Floats
    length: float

    def at(self, bound_s: Floats, *sizes: npt.ArrayLike) -> Reading:
        """Return the times of shapes with these bounds; sizes are those that the curve was made with."""
        modelled = bound_s / self.level + self.floor_s
        arrays = np.broadcast_arrays(modelled, *sizes)
        queries = np.log2(np.stack([np.ravel(array) for array in arrays[1:]], axis=1).astype(float))
        residual = np.empty(len(queries))
        for at in range(0, len(queries), _CHUNK):
            some = slice(at, at + _CHUNK)
            residual[some] = _closeness(queries[some], self.points, self.length) @ self.weights
        seconds = modelled * np.exp(residual.reshape(arrays[0].shape))
        return Reading(np.asarray(seconds), self.error, self.level, self.name)


Over = tuple[Curve, Callable[..., Floats]]
"""A curve, and what gave its bounds."""


def fitted(name: str, seconds: Floats, bound_s: Floats, sizes: Sequence[Column]) -> Curve:
    """Return the curve through measured shapes.

    Args:
        seconds, bound_s: measured, and the structured bound: (shapes,).
        sizes: arrays (shapes,) whose logarithm tells how alike two shapes are.
    """
    level, floor_s = _level_and_floor(seconds, bound_s)
    residual = np.log(seconds / (bound_s / level + floor_s))
    points = np.log2(np.stack(sizes, axis=1).astype(float))
    best = Curve(
        name, level, floor_s, float(np.mean(np.abs(np.expm1(-residual)))), points, np.zeros_like(points[:, 0]), 1.0
    )
    for length, noise in product(LENGTHS, NOISES) if len(seconds) > 1 else ():
        inverse = np.linalg.inv(_closeness(points, points, length) + noise * np.eye(len(points)))
        weights = np.asarray(inverse @ residual, np.float64)
        error = float(np.mean(np.abs(np.expm1(-weights / np.diag(inverse)))))
        if error < best.error:
            best = Curve(name, level, floor_s, error, points, weights, length)
    return best


def _level_and_floor(seconds: Floats, bound_s: Floats) -> tuple[float, float]:
    """The pair that leaves the least mean of absolute logarithms; no floor is longer than the shortest shape took."""
    floors = np.concatenate([[0.0], np.geomspace(seconds.min() / 1e3, seconds.min() * 0.98, _FLOORS)])
    best = (np.inf, 1.0, 0.0)
    for floor_s in floors.tolist():
        level = float(np.median(bound_s / (seconds - floor_s)))
        left = float(np.mean(np.abs(np.log(seconds / (bound_s / level + floor_s)))))
        best = min(best, (left, level, floor_s))
    return best[1], best[2]


def _closeness(queries: Floats, points: Floats, length: float) -> Floats:
    """Matern's of order 3/2: (queries, points)."""
    square = (queries**2).sum(1)[:, None] + (points**2).sum(1) - 2 * queries @ points.T
    apart = np.sqrt(3 * np.maximum(square, 0.0)) / length
    return np.asarray((1 + apart) * np.exp(-apart))


def _better(structured: Over, plain: Over) -> Over:
    """The curve that predicts better; errors of so few shapes tell no smaller differences apart."""
    return plain if plain[0].error < 0.8 * structured[0].error else structured


@lru_cache(maxsize=256)
def matmul_curve(device: Device, precision: str) -> Over | None:
    """Return the curve of a device's matrix products by (m, n, k, batch), or ``None`` if none were measured.

    It is over ``matmul_bound_s``, or ``roofline_s`` where that predicts much better, as on CPUs.
    """
    rows = _rows(device, "matmul", precision=_alike(device, "matmul", precision))
    if not rows:
        return None
    sizes = [rows[name].astype(float) for name in ("m", "n", "k", "batch")]
    name, seconds = f"{device.name} measured", rows["seconds"]
    tried = ((fitted(name, seconds, of(device, precision, *sizes), sizes), of) for of in (matmul_bound_s, roofline_s))
    return _better(*tried)


@lru_cache(maxsize=256)
def attention_curve(device: Device, precision: str, gradient: bool) -> Over | None:
    """Return the curve of attention's forward or gradient by ``attention_sizes``, or ``None`` as above.

    Both are over a bound of the forward: ``attention_bound_s``, or ``attention_roofline_s`` where that predicts better.
    """
    same = {"precision": _alike(device, "attention", precision), "gradient": gradient, "backend": "chosen"}
    rows = _rows(device, "attention", **same)
    if not rows:
        return None
    sizes = tuple(rows[name].astype(float) for name in ("batch", "heads", "seq", "head", "head", "kv_heads"))
    name = f"{device.name} measured" + (", gradients over the bound of the forward" if gradient else "")
    tried: list[Over] = []
    for of in (attention_bound_s, attention_roofline_s):
        both = [of(device, precision, *sizes, causal=causal, window=None) for causal in (False, True)]
        curve = fitted(name, rows["seconds"], np.where(rows["causal"], both[1], both[0]), attention_sizes(sizes))
        tried.append((curve, of))
    return _better(*tried)


def attention_sizes(sizes: Sequence[Floats]) -> list[Floats]:
    """Return by what attentions are alike: all heads, tokens, size of a head, and how many heads share keys.

    ``sizes``: batch, heads, seq, size of a head and of its values, heads of keys.
    """
    batch, heads, seq, head, _, kv_heads = sizes
    return [batch * heads, seq, head, heads / kv_heads]


@lru_cache(maxsize=64)
def host_pace(device: Device) -> float:
    """Return how long this machine's host takes for an operator with its graph, over ``OPERATOR_S``; 1 where that was
    not measured."""
    rows = _rows(device, "launch", what="forward")
    return float(rows["seconds"][0]) / OPERATOR_S if rows else 1.0


@lru_cache(maxsize=64)
def lasting_share(device: Device) -> float | None:
    """Return the rate of a large product in the second half of a long row of them over that at its start, at most 1."""
    rows = _rows(device, "sustained")
    if not rows or not rows["after_s"].max():
        return None
    late = rows["seconds"][rows["after_s"] >= rows["after_s"].max() / 2]
    return min(1.0, float(rows["seconds"][rows["after_s"].argmin()] / np.median(late)))


SINGLE = ("copy", "add", "silu", "rms_norm", "layer_norm", "layer_norm_grad")
"""Kinds of memory-bound work that were measured and are one kernel of known traffic."""


@lru_cache(maxsize=64)
def memory_curve(device: Device) -> Curve | None:
    """Return the curve of memory-bound work by the bytes of a kernel, through all kinds in ``SINGLE``, or ``None`` as
    above."""
    rows = _rows(device, "memory")
    single = np.isin(rows["kind"], SINGLE) if rows else np.zeros(0, bool)
    if not single.any():
        return None
    rows = {column: values[single] for column, values in rows.items()}
    moved = rows["moved_bytes"] / rows["kernels"]
    each_s = rows["seconds"] / rows["kernels"]
    return fitted(f"{device.name} measured", each_s, moved / device.memory_bytes_per_s, [moved])


@lru_cache(maxsize=256)
def link_curve(kind: str, level: Level, bound: Callable[..., Floats]) -> Curve | None:
    """Return the curve of a collective or of ``send`` over one level of links by (bytes, ranks), or ``None`` as above.

    ``bound(kind, whole_bytes, level)`` is the structured time.
    """
    rows = level.curves.rows("collective", kind=kind) if level.curves is not None else {}
    if not rows or level.curves is None:
        return None
    sizes = [rows["bytes"].astype(float), rows["ranks"]]
    groups = {ranks: bound(kind, sizes[0], replace(level, ranks=ranks)) for ranks in set(rows["ranks"].tolist())}
    bound_s = np.select([sizes[1] == ranks for ranks in groups], list(groups.values()))
    return fitted(f"{level.curves.name} measured", rows["seconds"], bound_s, sizes)


def _rows(device: Device, part: str, **chosen: object) -> Mapping[str, Column]:
    return device.curves.rows(part, **chosen) if device.curves is not None else {}


def _alike(device: Device, part: str, precision: str) -> str:
    """FP16 as BF16 where only that was measured."""
    if precision == "fp16" and not _rows(device, part, precision="fp16"):
        return "bf16"
    return precision
