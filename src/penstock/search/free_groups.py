"""Context-parallel groups that wait for nobody else: each rank goes on to its next micro-batch when it is done.

In the manner of ByteScale (Ge et al. 2025, arXiv:2502.21231): each sequence is on no more ranks than it needs, and what
is left is dealt to the ranks that are done soonest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.predict.paces import Pace
from penstock.search.packing import best_fit

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the tokens for which a device has room, those of a micro-batch of several sequences that are tried: fewer balance
better."""
GOALS = (1.0, 1.1, 1.3, np.inf)
"""Over the shortest time that there can be: in how much of it a sequence must be done, which may take more ranks."""


@dataclass(frozen=True, slots=True)
class Running:
    """Micro-batches that ranks work on in turn: ``degrees`` and ``lengths`` of each, in order, ``seconds`` until all
    are done, and ``work_s``, the sum over ranks of the time in which they compute."""

    degrees: tuple[int, ...]
    lengths: tuple[tuple[int, ...], ...]
    seconds: float
    work_s: float


def running(lengths: Sequence[int], ranks: int, paces: Sequence[Pace], least_s: float) -> Running | None:
    """Return the fastest of what was tried; ``None`` where a sequence does not fit.

    Args:
        lengths: tokens of each sequence.
        ranks: that can be grouped.
        paces: of each degree that groups may have, powers of two.
        least_s: what no way is faster than.

    >>> one, two = Pace(1, 0.0, 1.0, 0.0, 0.0, 10, 0.0), Pace(2, 0.0, 0.6, 0.0, 0.0, 20, 0.0)
    >>> found = running([15, 4, 4, 9, 9], 4, [one, two], 9.0)
    >>> found.degrees, found.seconds
    ((2, 1, 1, 1, 1), 13.0)
    """
    found = [
        one
        for share in SHARES
        for goal in GOALS
        if (one := _running(lengths, ranks, paces, share, goal * least_s)) is not None
    ]
    return min(found, key=lambda one: one.seconds, default=None)


def _running(lengths: Sequence[int], ranks: int, paces: Sequence[Pace], share: float, goal_s: float) -> Running | None:
    members: dict[int, list[int]] = {place: [] for place in range(len(paces))}
    for length in lengths:
        place = _degree(length, paces, goal_s)
        if place is None:
            return None
        members[place].append(length)
    done, order, work_s = np.zeros(ranks), [], 0.0
    for place in reversed(members):
        pace, mine = paces[place], members[place]
        most = int(share * pace.most_tokens)
        bins = [[length] for length in mine if length > most] + best_fit([each for each in mine if each <= most], most)
        times = [pace.seconds(each) for each in bins]
        for n in np.argsort(-np.array(times), kind="stable").tolist():
            blocks = done[: ranks // pace.degree * pace.degree].reshape(-1, pace.degree)
            at = int(blocks.max(axis=1).argmin())
            blocks[at] = blocks[at].max() + times[n]
            order.append((pace.degree, tuple(bins[n])))
            work_s += pace.degree * times[n]
    degrees, those = zip(*order, strict=True)
    return Running(degrees, those, float(done.max()), work_s)


def _degree(length: int, paces: Sequence[Pace], goal_s: float) -> int | None:
    """The fewest ranks that have room for a sequence and are done with it in time, else those that are done soonest."""
    fitting = [place for place, pace in enumerate(paces) if pace.most_tokens >= length]
    times = [paces[place].seconds([length]) for place in fitting]
    in_time = [place for place, seconds in zip(fitting, times, strict=True) if seconds <= goal_s]
    return in_time[0] if in_time else fitting[int(np.argmin(times))] if fitting else None
