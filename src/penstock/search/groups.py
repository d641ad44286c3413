"""Context-parallel groups made anew in each micro-batch: their sizes, and which sequences each takes.

In the manner of FlexSP (Wang et al. 2024, arXiv:2412.01523), whose integer program is replaced by a search: groups are
merged and split while that helps, each time with sequences dealt longest first to the group that is done soonest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native
from penstock.predict.paces import Pace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Counts = tuple[int, ...]
"""Groups of each pace."""
STARTS = 2
"""Equal splits from which the search goes on."""


@dataclass(frozen=True, eq=False)
class Grouped:
    """Groups of one micro-batch: their ``degrees``, the ``lengths`` of each, and ``seconds`` until all are done."""

    degrees: tuple[int, ...]
    lengths: tuple[Counts, ...]
    seconds: float


def group(lengths: Sequence[int], ranks: int, paces: Sequence[Pace]) -> Grouped | None:
    """Return groups of ``ranks`` ranks, or fewer, for the sequences of one micro-batch; ``None`` where they do not fit.

    Args:
        lengths: tokens of each sequence.
        ranks: that can be grouped.
        paces: of each degree that groups may have, powers of two.

    >>> short, long = Pace(1, 0.0, 1.0, 0.0, 0.0, 10, 0.0), Pace(2, 0.0, 0.6, 0.0, 0.0, 20, 0.0)
    >>> found = group([15, 4, 4], 4, [short, long])
    >>> found.degrees, found.seconds
    ((2, 2), 9.0)
    """
    order = np.array(sorted(lengths, reverse=True), dtype=np.int64)
    facts = [(p.degree, p.each_s, p.token_s, p.square_s, p.most_tokens, p.floor_s) for p in paces]
    table = np.array(facts, dtype=np.float64)
    deal = native(_deal)

    def judged(counts: Counts) -> float:
        return float(deal(order, _places(counts), table)[0])

    equal = [
        tuple(ranks // paces[place].degree * (place == at) for place in range(len(paces))) for at in range(len(paces))
    ]
    starts = sorted(((judged(counts), counts) for counts in equal), key=lambda one: one[0])[:STARTS]
    mixed = _covering(order, ranks, paces)
    starts += [(judged(mixed), mixed)] if mixed else []
    seconds, counts = min((_climbed(one, judged) for one in starts), key=lambda one: one[0])
    if not np.isfinite(seconds):
        return None
    places = _places(counts)
    seconds, where = deal(order, places, table)
    members = [tuple(order[where == g].tolist()) for g in range(len(places))]
    return Grouped(tuple(int(table[place, 0]) for place in places), tuple(members), float(seconds))


def _places(counts: Counts) -> Ints:
    """The pace of each group, largest groups first."""
    return np.repeat(np.arange(len(counts)), counts)[::-1].copy()


def _climbed(start: tuple[float, Counts], judged: Callable[[Counts], float]) -> tuple[float, Counts]:
    """The best counts that single changes lead to."""
    best = start
    while True:
        others = [(judged(counts), counts) for counts in _moves(best[1])]
        found = min(others, key=lambda one: one[0], default=best)
        if not found[0] < best[0]:
            return best
        best = found


def _moves(counts: Counts) -> Iterator[Counts]:
    """Pairs of groups merged, and groups split: one, half of them, and all."""
    for place, count in enumerate(counts):
        for many in {1, count // 4, count // 2} if place + 1 < len(counts) else ():
            if 0 < 2 * many <= count:
                yield _changed(counts, {place: -2 * many, place + 1: many})
        for many in {1, (count + 1) // 2, count} if place else ():
            if 0 < many <= count:
                yield _changed(counts, {place: -many, place - 1: 2 * many})


def _changed(counts: Counts, by: dict[int, int]) -> Counts:
    return tuple(count + by.get(place, 0) for place, count in enumerate(counts))


def _covering(order: Ints, ranks: int, paces: Sequence[Pace]) -> Counts:
    """Groups just large enough for the longest sequences, and single ones else; empty where there are too few ranks."""
    counts, left = [0] * len(paces), ranks
    for length in order.tolist():
        place = next((at for at, pace in enumerate(paces) if pace.most_tokens >= length), None)
        if place is None:
            return ()
        if place == 0 or left < paces[place].degree:
            break
        counts[place] += 1
        left -= paces[place].degree
    counts[0] += left // paces[0].degree
    return tuple(counts)


def _deal(order: Ints, places: Ints, table: Floats) -> tuple[float, Ints]:
    """Seconds until all groups are done, and the group of each sequence: each goes, longest first, where it is done
    soonest. ``places`` are rows of ``table``, one a group; infinite where one has no room."""
    groups = len(places)
    done, tokens = np.zeros(groups), np.zeros(groups)
    where = np.zeros(len(order), dtype=np.int64)
    for n in range(len(order)):
        length = float(order[n])
        best, at = np.inf, -1
        for g in range(groups):
            row = places[g]
            if tokens[g] + length > table[row, 4]:
                continue
            begun = done[g] if tokens[g] > 0 else table[row, 1]
            end = begun + table[row, 2] * length + table[row, 3] * length * length
            if end < best:
                best, at = end, g
        if at < 0:
            return np.inf, where
        done[at] = best
        tokens[at] += length
        where[n] = at
    longest = 0.0
    for g in range(groups):
        if tokens[g] > 0:
            longest = max(longest, done[g], table[places[g], 5])
    return longest, where


def least_s(lengths: Sequence[int], ranks: int, paces: Sequence[Pace]) -> float:
    """Return what no grouping of so many ranks is faster than, in however many micro-batches: the longest sequence on
    the groups that are best for it, or all work as cheap as groups make it, evenly over the ranks."""
    sizes = np.asarray(lengths, dtype=np.float64)
    alone, work = np.full(len(sizes), np.inf), np.full(len(sizes), np.inf)
    for pace in paces:
        fits = sizes <= pace.most_tokens
        own = pace.work_s(sizes)
        alone = np.where(fits, np.minimum(alone, np.maximum(pace.floor_s, pace.each_s + own)), alone)
        shared = pace.each_s * sizes / pace.most_tokens  # of a micro-batch that is as full as can be
        work = np.where(fits, np.minimum(work, pace.degree * (own + shared)), work)
    return float(max(alone.max(), work.sum() / ranks))
