"""Seconds of a device for operators: the kernels of forwards, input gradients and weight gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from penstock.core.device import Device
from penstock.cost.bounds import BYTES
from penstock.cost.constants import constants, levels
from penstock.cost.kernels import Time, attention, grouped_matmul, matmul, memory_bound
from penstock.cost.kernels import cast as casts
from penstock.cost.rows import ATTENDING, ELEMENTWISE, GATHER, GROUPED, KINDS, MATMUL, PHASES, Rows, joined

Floats = NDArray[np.float64]
Which = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Timed:
    """Seconds of each operator as a kernel by itself, relative errors, its class, and levels that nobody measured.

    ``cast_s``: of casting the left operand of each product forward and backward. ``launches``: kernels of each operator
    that the host starts, casts too. ``sources``: which operators got their seconds from which ``Time``.
    """

    seconds: Floats
    error: Floats
    kind: Which
    guessed: frozenset[str]
    cast_s: Floats
    launches: Floats
    sources: tuple[tuple[Which, Time], ...]


CLASSES = ("product", "low product", "attention", "memory", "cast", "routing")
"""What kernels share the rate that lasts: products in the wide and in the low precision, attention, traffic of memory,
casts to the low precision, and moves of tokens to experts and back."""
PRODUCT, LOW_PRODUCT, ATTENTION, MEMORY, CAST, ROUTING = range(len(CLASSES))
HOT = MEMORY
"""So many of them, the first, draw the most power."""


def timed(
    rows: Rows, device: Device, low: str, wide: str, crowd: float | Floats = 1.0, of: Which | None = None
) -> Timed:
    """Return what operators take on a device, each as a kernel by itself.

    Args:
        rows: operators.
        device: where they run.
        low: precision of the products inside blocks; those in ``WIDE`` keep the wide one.
        wide: precision of all else.
        crowd: tokens of the busiest rank of experts over the mean; of all, or of each.
        of: which part of a model each is of, where there are several, one behind the other; left out, all of one.
    """
    found = _Found(rows, device)
    recipe = rows.low & (low != wide)
    for each, mine, kind in ((wide, ~recipe, PRODUCT), (low, recipe, LOW_PRODUCT)):
        found.put((rows.kind == MATMUL) & mine, kind, partial(_product, rows, device, each))
        found.put((rows.kind == GROUPED) & mine, kind, partial(_grouped, rows, device, each))
    flash = (rows.kind == ATTENDING) & ~rows.plain
    for backward in (False, True):
        for mine, window in _masks(rows, flash & ((rows.phase > 0) == backward), of):
            found.put(mine, ATTENTION, partial(_flash, rows, device, wide, backward, window))
    routing = (rows.kind == GATHER) & np.array([name.startswith("experts.") for name in rows.names], bool)
    found.put((rows.kind > ATTENDING) & ~routing, MEMORY, partial(_moved, rows, device))
    found.put(routing, ROUTING, partial(_moved, rows, device))
    found.put(rows.plain, PRODUCT, partial(_plain, rows, device, wide))
    seconds = found.seconds * np.where(rows.kind == GROUPED, crowd, 1.0)
    casts_s, launches = _casts_s(rows, device, low, wide), launched(rows, low, wide)
    return Timed(seconds, found.error, found.kind, frozenset(found.guessed), casts_s, launches, tuple(found.sources))


def timed_each(each: Sequence[Rows], device: Device, low: str, wide: str, crowds: Sequence[float]) -> list[Timed]:
    """Return ``timed`` of each of some parts of a model, found at once, with their ``crowds``; without ``sources``."""
    sizes = [len(rows.names) for rows in each]
    of, ends = np.repeat(np.arange(len(each)), sizes), np.cumsum(sizes)[:-1]
    found = timed(joined(each), device, low, wide, np.repeat(crowds, sizes), of)
    columns = (found.seconds, found.error, found.kind, found.cast_s, found.launches)
    guessed: list[set[str]] = [set() for _ in each]
    for at, time in found.sources:
        for part in np.unique(of[at]).tolist() if time.guessed else ():
            guessed[part].add(_guess(time, device))
    parts = zip(*(np.split(column, ends) for column in columns), guessed, strict=True)
    return [Timed(s.copy(), e.copy(), k.copy(), frozenset(g), c.copy(), n.copy(), ()) for s, e, k, c, n, g in parts]


def _guess(time: Time, device: Device) -> str:
    """A level that nobody measured, in words."""
    return f"{time.level_of} for {device.architecture}"


def _casts_s(rows: Rows, device: Device, low: str, wide: str) -> Floats:
    cast_s = np.zeros(len(rows.kind))
    cast = casting(rows, low, wide)
    if cast.any():
        batch, m, _, k = rows.sizes[:4]
        cast_s[cast] = casts(device, low, (batch * m * k)[cast]).seconds
    return cast_s


def casting(rows: Rows, low: str, wide: str) -> NDArray[np.bool_]:
    """Return before which products an operand is cast: activations of the forward, gradients of the backward."""
    return rows.low & (rows.phase < PHASES.index("W")) & (low != wide)


def launched(rows: Rows, low: str, wide: str) -> Floats:
    """Return the kernels that the host starts for each operator, casts too: a product with one takes the host twice as
    long (github.com/NVIDIA/TransformerEngine, issue 761, 2024: its Linear more than twice as long in FP8 as in BF16).
    """
    return rows.launches * (1.0 + casting(rows, low, wide))


class _Found:
    """Times under way."""

    def __init__(self, rows: Rows, device: Device) -> None:
        self.seconds, self.error = np.zeros(len(rows.kind)), np.zeros(len(rows.kind))
        self.kind = np.full(len(rows.kind), MEMORY)
        self.guessed: set[str] = set()
        self.sources: list[tuple[Which, Time]] = []
        self.device = device

    def put(self, mine: NDArray[np.bool_], kind: int, of: Callable[[Which], Time]) -> None:
        """Write the times of some operators."""
        at = np.flatnonzero(mine)
        if not len(at):
            return
        time = of(at)
        self.seconds[at], self.error[at], self.kind[at] = time.seconds, time.error, kind
        self.sources.append((at, time))
        if time.guessed:
            self.guessed.add(_guess(time, self.device))


@dataclass(frozen=True, eq=False)
class Work:
    """Seconds of operators together, each as a kernel by itself: shape (classes, phases), and errors likewise.

    ``again``: of those that run once more before the gradients, shape (classes,). ``launches``: kernels of each phase,
    and of what runs again. ``experts``: likewise, products of single experts, casts before them and biases behind,
    which one operator starts together. ``weights``: elements of gradients of matrices.
    """

    seconds: Floats
    error_s: Floats
    again: Floats
    launches: tuple[float, float, float, float]
    experts: tuple[float, float, float, float]
    weights: float
    guessed: frozenset[str]

    @cached_property
    def alone_s(self) -> tuple[float, float, float]:
        """Of the forward, of the backward, and of both."""
        return float(self.seconds[:, 0].sum()), float(self.seconds[:, 1:].sum()), float(self._classes_s.sum())

    @cached_property
    def _classes_s(self) -> Floats:
        return np.asarray(self.seconds.sum(axis=1))

    @cached_property
    def _hot_s(self) -> float:
        return float(self._classes_s[:HOT].sum())

    def hot_share(self, whole_s: float) -> float:
        """Return the share of the time that is products and attention, which draw the most power, of ``whole_s``."""
        return self._hot_s / whole_s if self._classes_s.any() else 0.0


def work(rows: Rows, again: NDArray[np.bool_], found: Timed) -> Work:
    """Return the sums over operators.

    Args:
        rows: operators.
        again: which of them run once more.
        found: what they take.
    """
    of, count = found.kind * len(PHASES) + rows.phase, len(CLASSES) * len(PHASES)
    both = (_summed(of, seconds, count) for seconds in (found.seconds, found.seconds * found.error))
    sums, errors = (one.reshape(len(CLASSES), len(PHASES)) for one in both)
    sums[CAST] += _summed(rows.phase, found.cast_s, len(PHASES))
    twice = _summed(found.kind[again], found.seconds[again], len(CLASSES))
    twice[CAST] = found.cast_s[again].sum()
    apart = (rows.kind == GROUPED) | (rows.kind == ELEMENTWISE) & (rows.sizes[0] > 1)
    experts = np.where(apart, rows.sizes[0] * found.launches, 0.0)
    matrices = (rows.kind < ATTENDING) & (rows.phase == PHASES.index("W"))
    weights = float(rows.sizes[:3, matrices].prod(axis=0).sum())
    launches, each = (_by_phase(counts, rows, again) for counts in (found.launches, experts))
    return Work(sums, errors, twice, launches, each, weights, found.guessed)


def _summed(of: Which, values: Floats, count: int) -> Floats:
    """The sums of the values that go to each of so many places."""
    return np.asarray(np.bincount(of, values, count), dtype=np.float64)


def _by_phase(counts: Floats, rows: Rows, again: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    f, i, w = _summed(rows.phase, counts, len(PHASES)).tolist()
    return f, i, w, float(counts[again].sum())


def _product(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    batch, m, n, k = rows.sizes[:4, at]
    time = matmul(device, precision, m, n, k, batch)
    if rows.odd[at].any() and slows_odd(device, precision):
        slow_s = 2 * batch * m * n * k / (device.peak_flops(precision) * constants("odd_matmul")["share"])
        time = replace(time, seconds=np.where(rows.odd[at], np.maximum(time.seconds, slow_s), time.seconds))
    return _accumulated(rows, device, at, time)


def slows_odd(device: Device, precision: str) -> bool:
    """Return whether products of matrices with rows of odd length are slow: in 16 bits, as far as is known."""
    return device.vendor == "NVIDIA" and BYTES[precision] == 2


def _grouped(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    """Experts' products, each with the mean rows; those without rows have no gradients of weights."""
    batch, m, n, k = rows.sizes[:4, at]
    some = np.minimum(k, 1.0)
    batch, k = np.maximum(batch * some, 1.0), k / some
    return _accumulated(rows, device, at, grouped_matmul(device, precision, m * batch, n, k, batch))


def _accumulated(rows: Rows, device: Device, at: Which, time: Time) -> Time:
    """Times of products, of which gradients of weights are no shorter than reading and writing sums in full width."""
    sums = rows.phase[at] == PHASES.index("W")
    if not sums.any():
        return time
    moved = memory_bound(device, rows.moved_bytes[at])
    return replace(time, seconds=np.where(sums, np.maximum(time.seconds, moved.seconds), time.seconds))


def _moved(rows: Rows, device: Device, at: Which) -> Time:
    """Traffic of memory; norms and losses that are one kernel, or two back, go over their rows more than once in it and
    reach less of the rate."""
    share = np.array([levels("moved").get(KINDS[kind], (1.0,))[0] for kind in rows.kind[at]])
    share = np.where(rows.launches[at] <= 2, share, 1.0)
    return memory_bound(device, rows.moved_bytes[at] / share, kernels=rows.launches[at])


def _masks(rows: Rows, mine: NDArray[np.bool_], of: Which | None) -> Iterator[tuple[NDArray[np.bool_], int]]:
    """Fused attention by its mask: none (-1), causal (0), or a window that leaves as many pairs as one of less than
    half; that of a part of a model is the widest of its operators."""
    at = np.flatnonzero(mine)
    if not len(at):
        return
    part = np.zeros(len(at), np.int64) if of is None else of[at]
    starts = np.flatnonzero(np.concatenate([[True], part[1:] != part[:-1]]))
    n, density = rows.sizes[2, at], rows.sizes[5, at]
    most = np.maximum.reduceat(density, starts)
    windows = np.maximum.reduceat(n * (1 - np.sqrt(1 - 2 * np.minimum(density, 0.5))), starts)
    windows = np.where(most < 0.45, np.maximum(1, np.rint(windows)), np.where(most < 0.75, 0, -1)).astype(np.int64)
    each = np.repeat(windows, np.diff([*starts, len(at)]))
    for window in dict.fromkeys(windows.tolist()):
        here = np.zeros(len(mine), bool)
        here[at[each == window]] = True
        yield here, window


def _flash(rows: Rows, device: Device, precision: str, backward: bool, window: int, at: Which) -> Time:
    """Fused attention; queries of a part of the sequence are taken for as many fewer heads."""
    batch, m, n, k, value, _ = rows.sizes[:, at]
    heads, seen = np.maximum(1.0, batch * m / n), window if window > 0 else None
    return attention(
        device, precision, 1, heads, n, k, value_size=value, causal=window >= 0, window=seen, backward=backward
    )


def _plain(rows: Rows, device: Device, precision: str, at: Which) -> Time:
    """Attention by two products and a softmax; twice as many products for gradients. Products of odd heads run on the
    vector units: BLOOM's sweep, heads of 108 and 150, steps 1.35 times as long."""
    vectors = device.vector_flops * constants("odd_heads")["share"]
    batch, m, n, k, value, _ = rows.sizes[:, at]
    scores = matmul(device, precision, m, n, k, batch)
    values = matmul(device, precision, m, value, n, batch)
    vector_s = 2 * batch * m * n * (k + value) / vectors
    products_s = np.maximum(scores.seconds + values.seconds, np.where(rows.odd[at], vector_s, 0))
    times = np.where(rows.phase[at] > 0, 2, 1)
    inside = times * batch * (m * (k + value) + n * (k + value) + 2 * m * n) * BYTES[precision]
    moved = np.maximum(rows.moved_bytes[at] - inside, 0.0)
    soft = memory_bound(device, moved, kernels=rows.launches[at] - 2 * times)
    seconds = times * products_s + soft.seconds
    return Time(seconds, scores.error, scores.level, scores.level_of, scores.guessed or soft.guessed)
