"""What is made of promising strategies: fewer layers on the stages at the ends, a split vocabulary, smaller shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.setup import Setup, even
from penstock.core.words import all_divisors
from penstock.predict import Grid
from penstock.predict.held import Less
from penstock.schedules.build import placement_of
from penstock.search.space import Space
from penstock.search.wishes import COLUMNS, RECOMPUTE

MOST_LESS = 2
"""Layers that the first stage gives away at most; the last gives at most one more than head and loss are worth."""
Variant = tuple[int, int, tuple[int, ...]]
"""Ranks that share shards, how the vocabulary is split, and the layers of each stage."""


def less(space: Space) -> Less:
    """Return what variants may have less; where the vocabulary is split, that is more than any layers at the ends."""
    shards = space.stack.hybrid and space.free("shards")
    if _splits(space) != (0,):
        return Less(space.model.layers, space.model.layers, shards)
    if space.stack.uneven and space.free("stage_layers"):
        return Less(MOST_LESS, ceil(head_layers(space.model)) + 1, shards)
    return Less(shards=shards)


def again_ways(space: Space) -> list[tuple[str, str]]:
    """Return the ways in which the first layers of stages may be made again: what the rest has, and what they have."""
    there = [name for name in RECOMPUTE if name in space.values("recompute", RECOMPUTE)]
    how = space.stack.again_layers if space.free("recompute_layers") else ""
    pairs = [*combinations(there, 2)]
    wanted = {"alike": [("none", "full")], "ranks": [pair for pair in pairs if pair[0] == "none"], "any": pairs}
    return [pair for pair in wanted.get(how, []) if pair in pairs]


def too_heavy(space: Space, grid: Grid, needed_bytes: Any, room: float) -> NDArray[np.bool_]:
    """Return which strategies need too much, and may not if the first layers of their stages are made again."""
    rests = {rest for rest, _ in again_ways(space)}
    able = np.array([again in rests for again in grid.choices["recompute"]], dtype=bool)
    found = able[grid.columns["recompute"]] & ~grid.says("recompute_layers")
    return np.asarray(found & (needed_bytes > room))


def variants(space: Space, grid: Grid) -> tuple[Grid, NDArray[np.int64]]:
    """Return all variants of some strategies without these themselves, and of which row each is one."""
    places: dict[tuple[int, ...], int] = {(): 0}
    rows: list[int] = []
    found: list[tuple[int, int, int]] = []
    for row in range(len(grid)):
        for shards, vocabulary, layers in _variants(space, grid.setup(row)):
            rows.append(row)
            found.append((shards, vocabulary, places.setdefault(layers, len(places))))
    of = np.array(rows, dtype=np.int64)
    changed = np.array(found, dtype=np.int64).reshape(-1, 3).T
    columns = {name: grid.columns[name][of] for name in COLUMNS}
    columns |= dict(zip(("shards", "vocabulary", "stage_layers"), changed, strict=True))
    return Grid(grid.base, columns, dict(grid.choices) | {"stage_layers": tuple(places)}), of


def _variants(space: Space, setup: Setup) -> Iterator[Variant]:
    """Those of one strategy."""
    shards, vocabulary, layers = setup.shards, setup.vocabulary, setup.stage_layers
    found: list[Variant] = [(size, vocabulary, layers) for size in _shards(space, setup)]
    if setup.pp > 1:
        found += [(shards, way, layers) for way in _splits(space) if way]
        if space.stack.uneven and space.free("stage_layers") and not vocabulary and not setup.recompute_layers:
            sizes = cuts(space.model, setup.schedule, setup.pp, setup.chunks)
            found += [(shards, vocabulary, one) for one in sizes]
    for size, way, one in found:
        if not space.bars(shards=size, vocabulary=way, stage_layers=one):
            yield size, way, one


def _splits(space: Space) -> tuple[int, ...]:
    """Ways to split the vocabulary."""
    return space.stack.vocabularies if space.free("vocabulary") and not space.base.multi_token else (0,)


def _shards(space: Space, setup: Setup) -> Iterator[int]:
    """Ranks that may share shards, fewer than all: those of whole nodes, with whole groups of experts."""
    if not (space.stack.hybrid and space.free("shards") and setup.zero):
        return
    node = space.node_devices
    for size in all_divisors(setup.replicas)[1:-1]:
        whole = size * setup.tp
        apart = whole * (1 if setup.order.endswith("pp") else setup.pp)
        if not any((size % setup.cp, apart % node, whole % (setup.ep * setup.etp))):
            yield size


@lru_cache(maxsize=4096)
def cuts(model: Architecture, schedule: str, ranks: int, chunks: int) -> tuple[tuple[int, ...], ...]:
    """Return layers of each stage, with fewer on the first and the last than in an even cut.

    What they give away goes, layer by layer, to the rank with least to do, where head and loss count as the layers that
    take as long; of equal ones to the last, whose activations wait least.

    >>> from penstock.core.config import read_architecture
    >>> cuts(read_architecture("llama-3-8b"), "1f1b", 4, 1)[:3]
    ((8, 8, 9, 7), (8, 9, 9, 6), (8, 9, 10, 5))
    """
    try:
        sizes = even(model.layers, ranks * chunks)
    except ValueError:
        return ()
    worth = head_layers(model)
    ends = range(min(MOST_LESS, sizes[0]) + 1), range(min(ceil(worth) + 1, sizes[-1]) + 1)
    rank_of = placement_of(schedule, ranks, chunks).rank_of
    found = [_cut(sizes, rank_of, worth, *less) for less in product(*ends) if any(less)]
    return tuple(dict.fromkeys(cut for cut in found if cut is not None))


def head_layers(model: Architecture) -> float:
    """Return how many layers have as much work for each token as the head, by their matrices."""
    used = sum(kind.active_parameters * count for kind, count in model.kinds().items()) / model.layers
    return model.hidden * model.vocab / used


def _cut(
    sizes: tuple[int, ...], rank_of: tuple[int, ...], worth: float, first: int, last: int
) -> tuple[int, ...] | None:
    """With so many layers fewer on the first and the last stage, if others can take them."""
    found, end = [*sizes], len(sizes) - 1
    found[0], found[end] = found[0] - first, found[end] - last
    takers = list(range(1, end)) or [stage for stage, less in ((0, first), (end, last)) if not less]
    load: dict[int, float] = {}
    for stage, count in enumerate(found):
        load[rank_of[stage]] = load.get(rank_of[stage], 0.0) + count + worth * (stage == end)
    for _ in range((first + last) * bool(takers)):
        stage = min(takers, key=lambda one: (load[rank_of[one]], found[one], -rank_of[one], one))
        found[stage] += 1
        load[rank_of[stage]] += 1
    return tuple(found) if takers else None
