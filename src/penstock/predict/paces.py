"""What a micro-batch of sequences of many lengths takes: a law in its tokens and their squares, by context ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.score import Scores, scores

Floats = NDArray[np.float64]
WHOLE_TOKENS = 131_072
"""Of a micro-batch that keeps a device busy: predictions for a law go up to as many, or to one longest sequence."""
FLOOR = 1.3
"""Predictions below so many times the shortest are bound by launches: the floor tells of them, not the law."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Forward and backward of a micro-batch on one group of ``degree`` context ranks.

    They take ``each_s + token_s * (tokens) + square_s * (sum of squares of the lengths of its sequences)``, since a
    sequence attends to itself alone, and at least ``floor_s``, since kernels must be launched. ``most_tokens`` are
    those for which a device has room; ``error``: of the law at the predictions that it was made from, the largest,
    relative.
    """

    degree: int
    each_s: float
    token_s: float
    square_s: float
    floor_s: float
    most_tokens: int
    error: float

    def seconds(self, lengths: Sequence[int] | NDArray[np.int64], padding: int = 0) -> float:
        """Return the seconds of sequences of these lengths, and of so many tokens of padding beside them.

        >>> Pace(1, 1.0, 0.5, 0.25, 1.5, 100, 0.0).seconds([3, 4])
        10.75
        """
        work_s = self.work_s(np.asarray(lengths, dtype=np.float64)).sum() + self.token_s * padding
        return float(max(self.floor_s, self.each_s + work_s))

    def work_s(self, length: Any) -> Any:
        """Return what a sequence of a length adds to a micro-batch, or each of many: seconds, floor left aside."""
        return self.token_s * length + self.square_s * length**2


@dataclass(frozen=True, eq=False)
class Paces:
    """How a setup without pipeline goes with context ranks of any degree.

    Args:
        setup: of the whole step, with one context rank; ``dp`` are the ranks that can be grouped.
        by_degree: the pace with so many context ranks.
        after_s: of a step behind its last backward.
        together: whether all ranks wait for each other in every micro-batch, as sharded gradients (ZeRO-2, ZeRO-3) make
            them.
    """

    setup: Setup
    by_degree: Mapping[int, Pace]
    after_s: float
    together: bool

    @property
    def ranks(self) -> int:
        """Ranks that can be grouped."""
        return self.setup.dp


def paces(
    model: Architecture, cluster: Cluster, stack: Stack, setups: Sequence[Setup], *, longest: int, headroom: float
) -> list[Paces]:
    """Return how setups go, each with one context rank and one micro-batch per step, on all devices.

    Args:
        model, cluster, stack: as ``predict`` takes them.
        setups: they differ in columns of a ``Grid`` and in their batch, ``dp``.
        longest: tokens of the longest sequence.
        headroom: share of a device's memory that stays free.
    """
    rows = [(place, degree) for place, setup in enumerate(setups) for degree in _degrees(setup, stack, longest)]
    points = _points(longest, max(degree for _, degree in rows))
    once, twice = zip(*(_scored(model, cluster, stack, setups, rows, *point) for point in points), strict=True)
    micros = np.array([setups[place].tp * degree for place, degree in rows], dtype=np.float64)
    room = (1 - headroom) * cluster.device.memory_bytes
    step_s, needed = (np.array([getattr(one, name) for one in once]) for name in ("seconds", "needed_bytes"))
    can = np.isfinite(step_s).all(axis=0)
    micro_s = np.zeros_like(step_s)
    micro_s[:, can] = (np.array([two.seconds for two in twice])[:, can] - step_s[:, can]) / micros[can]
    found: list[dict[int, Pace]] = [{} for _ in setups]
    after_s = np.full(len(setups), np.inf)
    for row, (place, degree) in enumerate(rows):
        if can[row] and (most := _most(points, needed[:, row], room)):
            found[place][degree] = _law(degree, points, micro_s[:, row], most)
            after_s[place] = min(after_s[place], (step_s[:, row] - micros[row] * micro_s[:, row]).max())
    return [
        Paces(setup, each, float(after_s[place]), setup.zero >= 2)
        for place, (setup, each) in enumerate(zip(setups, found, strict=True))
    ]


def _points(longest: int, top: int) -> list[tuple[int, int]]:
    """Micro-batches at which predictions are made: tokens of a sequence, and sequences. Short ones come alone, and many
    together, so that tokens and their squares do not rise alike."""
    many = 1
    while 2 * many * longest <= WHOLE_TOKENS:
        many *= 2
    grain = 2 * top
    part, least = (max(1, round(longest / times / grain)) * grain for times in (4, 16))
    whole = max(1, longest // grain) * grain
    some = [(whole, max(1, many // times)) for times in (1, 4, 16, many)]
    return [*dict.fromkeys([*some, (part, 1), (part, 4 * many), (least, 1), (least, 16 * many)])]


def _degrees(setup: Setup, stack: Stack, longest: int) -> list[int]:
    """Powers of two that divide the ranks, no more ranks than pairs of tokens; 1 if the framework has no more."""
    most = 20 if stack.splits("cp") else 1
    return [d for d in (2**n for n in range(most)) if setup.dp % d == 0 and 2 * d <= longest]


def _scored(
    model: Architecture,
    cluster: Cluster,
    stack: Stack,
    setups: Sequence[Setup],
    rows: list[tuple[int, int]],
    size: int,
    many: int,
) -> tuple[Scores, Scores]:
    """Steps of ``many`` sequences of ``size`` tokens per device, and of twice as many: each group has as many
    micro-batches of them as it has devices."""
    columns = {name: [getattr(setups[place], name) for place, _ in rows] for name in ("tp", "sp", "zero", "recompute")}
    columns["cp"] = [degree for _, degree in rows]
    columns["dp"] = [setups[place].dp // degree for place, degree in rows]
    devices = setups[0].devices
    grids = (
        Grid.of(replace(setups[0], seq=size, batch=batch * many, tp=1, dp=1, sp=False, micro=1), micro=many, **columns)
        for batch in (devices, 2 * devices)
    )
    once, twice = (scores(model, cluster, grid, stack) for grid in grids)
    return once, twice


def _most(points: list[tuple[int, int]], needed: Floats, room: float) -> int:
    """Tokens for which there is room, by the line through the largest and the smallest micro-batch."""
    tokens = np.array([size * many for size, many in points])
    high, low = int(tokens.argmax()), int(tokens.argmin())
    if high == low or needed[high] <= needed[low]:
        return int(tokens[high]) if needed[high] <= room else 0
    each = (needed[high] - needed[low]) / (tokens[high] - tokens[low])
    return max(0, int(tokens[high] + (room - needed[high]) / each))


def _law(degree: int, points: list[tuple[int, int]], seconds: Floats, most: int) -> Pace:
    """The law with the least relative errors, none of its numbers below 0, at those that launches do not bind."""
    sizes, many = np.array(points, dtype=np.float64).T
    columns = np.stack([np.ones_like(sizes), many * sizes, many * sizes**2], axis=1)
    floor_s = float(seconds.min())
    free = seconds >= min(FLOOR * floor_s, float(seconds.max()))
    relative = columns[free] / seconds[free, None]
    scale = relative.max(axis=0)
    used = [True, True, True]
    while True:
        solved = np.zeros(3)
        solved[used] = np.linalg.lstsq((relative / scale)[:, used], np.ones(len(relative)), rcond=None)[0]
        if (solved >= 0).all():
            break
        used[int(np.argmin(solved))] = False
    each, token, square = (float(one) for one in solved / scale)
    law = np.maximum(floor_s, columns @ (solved / scale))
    return Pace(degree, each, token, square, floor_s, most, float(np.abs(law / seconds - 1).max()))
