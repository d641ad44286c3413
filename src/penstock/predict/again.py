"""Layers by the way in which they are made again: the first ones of each stage, and all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.cluster import Cluster
from penstock.core.mesh import Row
from penstock.core.setup import Setup
from penstock.core.unchecked import like
from penstock.cost.stack import Stack
from penstock.predict.micro import Rank

Rows = tuple[Row, Row, int]
Blocks = list[Counter[Block]]
"""Of each stage, or of one."""


def layers_by_way(model: Architecture, setup: Setup) -> tuple[Blocks, Blocks]:
    """Return, of each stage, the layers that have ``recompute``, and the first ones that have ``recompute_first``; not
    to be changed."""
    stages = setup.layers_of(model.layers)
    if not setup.again:
        return layers(model, stages), [Counter()] * len(stages)
    both = [(each[count:], each[:count]) for each, count in zip(stages, setup.again, strict=True)]
    rest, first = zip(*both, strict=True)
    return layers(model, rest), layers(model, first)


@lru_cache(maxsize=4096)
def layers(model: Architecture, stages: tuple[range, ...]) -> Blocks:
    """Return the blocks of each stage; not to be changed, since many setups have the same."""
    return [Counter(model.blocks[each.start : each.stop]) for each in stages]


@lru_cache(maxsize=16)
def ranks_on(model: Architecture, cluster: Cluster, stack: Stack) -> Callable[[Setup, Rows], Rank]:
    """Return what gives a rank of a setup, equal ones once; ``rows`` as in ``Rank``."""

    @lru_cache(maxsize=32768)
    def rank(setup: Setup, rows: Rows) -> Rank:
        plain = bare = None
        if setup.ep * setup.etp > 1:
            alone = like(setup, ep=1, etp=1, dp=1, batch=setup.batch // setup.dp)
            plain = rank(alone, (rows[0], Row(1), rows[2]))
        if setup.recompute != "none":
            bare = rank(like(setup, recompute="none"), rows)
        return Rank(model, cluster, setup, stack, rows=rows, plain=plain, bare=bare)

    return rank


@lru_cache(maxsize=32768)
def all_as(rank: Rank, recompute: str) -> Rank:
    """Return the rank with all layers made again in one way."""
    setup = replace(rank.setup, recompute=recompute, recompute_layers=(), recompute_first="full")
    rows = (rank.context_row, rank.expert_row, rank.devices)
    if rank.shares is None:
        return ranks_on(rank.model, rank.cluster, rank.stack)(setup, rows)
    return Rank(rank.model, rank.cluster, setup, rank.stack, rank.shares, rows)


def ways(rank: Rank) -> list[tuple[Rank, Blocks]]:
    """Return a rank whose layers are all made again in the same way, and the layers of each stage that are; for each
    way that there is."""
    rest, first = layers_by_way(rank.model, rank.setup)
    return [(rank, rest), (all_as(rank, rank.setup.recompute_first), first)] if rank.setup.again else [(rank, rest)]
