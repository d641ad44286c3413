"""Tokens on their way to experts: how many copies of one cross each level of links, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from penstock.core.cluster import Level
from penstock.cost.collectives import exchange_s, seconds_of

DISPATCHERS = ("alltoall", "deepep", "hybridep")
ONCE = DISPATCHERS[1:]
"""Those that send a token once to each node, from where it goes once to each device with experts that it visits
(github.com/deepseek-ai/DeepEP, and its branch hybrid-ep: its README and kernels, 2025)."""


def visited(parts: int, experts: int, topk: int) -> float:
    """Return in how many of equal parts of all experts the ``topk`` of a token lie, in the mean, if any of them are as
    likely.

    >>> visited(1, 128, 8), round(visited(4, 128, 8), 2), round(visited(128, 128, 8), 2)
    (1.0, 3.63, 8.0)
    """
    others = experts - experts / parts
    return parts * (1 - prod(max(0.0, others - place) / (experts - place) for place in range(topk)))


def copies(dispatcher: str, ranks: int, experts: int, topk: int) -> float:
    """Return how many copies of a token a group of so many ranks gets."""
    return visited(ranks, experts, topk) if dispatcher in ONCE else float(topk)


@lru_cache(maxsize=32768)
def dispatch_s(dispatcher: str, token_bytes: float, experts: int, topk: int, levels: tuple[Level, ...]) -> float:
    """Return the seconds in which tokens go to their experts, or come back, over the group that crosses ``levels``.

    Args:
        dispatcher: one of ``DISPATCHERS``.
        token_bytes: of all tokens of a rank, once each.
        experts, topk: all of a block, and those that a token visits.
        levels: as ``Cluster.path`` gives them.
    """
    ranks = prod(level.ranks for level in levels)
    if dispatcher not in ONCE or len(levels) == 1:
        return seconds_of("all_to_all", token_bytes * copies(dispatcher, ranks, experts, topk), levels)
    return exchange_s([token_bytes * each for each in _crossing(ranks, experts, topk, levels)], levels)


def _crossing(ranks: int, experts: int, topk: int, levels: Sequence[Level]) -> list[float]:
    """Copies of a token that cross each level: one to each part below it, but for the part that the token is in."""
    found, inner = [], 1
    for level in levels:
        found.append(visited(ranks // inner, experts, topk) * (1 - 1 / level.ranks))
        inner *= level.ranks
    return found
