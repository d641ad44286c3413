"""Sequences in bins: best fit by falling length, and bins of equal cost."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native

Bins = list[list[int]]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def best_fit(lengths: Sequence[int], most: int) -> Bins:
    """Return bins of at most ``most`` tokens: each sequence, longest first, into the fullest bin that has room for it.

    No more than 11/9 of the fewest bins and 4 are made (Johnson 1973).

    Raises:
        ValueError: a sequence is longer than a bin.

    >>> best_fit([5, 7, 2, 3, 3], 10)
    [[7, 3], [5, 3, 2]]
    """
    order = sorted(lengths, reverse=True)
    if order and order[0] > most:
        raise ValueError(f"a sequence of {order[0]:,} tokens is longer than a bin of {most:,}")
    bins: Bins = []
    free: list[tuple[int, int]] = []
    for length in order:
        at = bisect_left(free, (length, -1))
        if at == len(free):
            bins.append([])
            left, place = most, len(bins) - 1
        else:
            left, place = free.pop(at)
        bins[place].append(length)
        insort(free, (left - length, place))
    return bins


def balanced(lengths: Sequence[int], count: int, most: int, cost: Callable[[int], float]) -> Bins | None:
    """Return ``count`` bins of at most ``most`` tokens whose costs are as even as the longest-first rule makes them;
    ``None`` where it finds no room.

    >>> balanced([4, 3, 3, 2], 2, 8, float)
    [[4, 2], [3, 3]]
    """
    order = np.array(sorted(lengths, reverse=True), dtype=np.int64)
    costs = np.array([cost(length) for length in order.tolist()], dtype=np.float64)
    place = native(_evenly)(order, costs, count, most)
    if (place < 0).any():
        return None
    bins: Bins = [[] for _ in range(count)]
    for length, at in zip(order.tolist(), place.tolist(), strict=True):
        bins[at].append(length)
    return bins


def _evenly(order: Ints, costs: Floats, count: int, most: int) -> Ints:
    """The bin of each sequence: that with least cost of those with room; -1 where none has."""
    done, tokens = np.zeros(count), np.zeros(count, dtype=np.int64)
    found = np.full(len(order), -1, dtype=np.int64)
    for n in range(len(order)):
        best, at = np.inf, -1
        for place in range(count):
            if tokens[place] + order[n] <= most and done[place] < best:
                best, at = done[place], place
        if at < 0:
            break
        found[n] = at
        done[at] += costs[n]
        tokens[at] += order[n]
    return found


def spread(costs: Sequence[float] | Floats, ranks: int) -> Ints:
    """Return the rank of each piece of work, dealt longest first to the rank with least; its longest rank has at most
    4/3 of the shortest possible (Graham 1969).

    >>> spread([3.0, 2.0, 2.0, 1.0], 2).tolist()
    [0, 1, 1, 0]
    """
    each = np.asarray(costs, dtype=np.float64)
    order, found = np.argsort(-each, kind="stable"), np.zeros(len(each), dtype=np.int64)
    found[order] = native(_evenly)(np.zeros(len(each), dtype=np.int64), each[order], ranks, 0)
    return found
