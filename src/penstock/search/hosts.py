"""Strategies that need too much memory as they are, with a part of it in host memory: activations, or the optimizer."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.setup import Setup
from penstock.predict import Grid, scores
from penstock.predict.host import overfull
from penstock.predict.micro import Rank
from penstock.predict.works import block_operators
from penstock.search.choice import Choice
from penstock.search.finals import FINALISTS, Going, Share, best_of_all, predicted_of
from penstock.search.lighter import Lighter
from penstock.search.margins import at_least_s, over_bytes
from penstock.search.space import Space


def hosted(
    space: Space, shares: Sequence[Share], found: Sequence[Choice], headroom: float, top: int, going: Going
) -> Lighter:
    """Return the best choices with strategies that fit once a part of their memory is in that of the host.

    They go in the order of what they take at least, which is no less than with all of it on the device. Where the best
    without makes nothing again, or norms alone (``Stack.selective``), none are tried: copies to the host are predicted
    to be free where compute hides them, while NVIDIA advises against them where only speed counts (Megatron-Bridge,
    skill nemo-mbridge-perf-cpu-offloading, August 2026), and nobody published what they take.

    Args:
        space: what there is to choose from.
        shares: parts of it, with the strategies that need too much memory by their scores.
        found: the best choices without.
        headroom, top: as ``plan`` takes them.
        going: told of what is looked at.
    """
    choices, predicted, proven = [*found], 0, True
    light = ("none", "selective") if space.stack.selective else ("none",)
    if choices and choices[0].setup.recompute in light:
        return Lighter(tuple(choices), predicted, proven)
    order: list[tuple[float, int, Setup]] = []
    for share in shares:
        number, bases = len(order), ways(space, share.large.base, bool(found))
        order += (
            (s, number + n, one) for n, (s, one) in enumerate(_open(space, share.large, bases, choices, headroom))
        )
    for least_s, _, setup in sorted(order):
        if least_s >= best_of_all(choices) or not going(0, choices):
            break
        if predicted >= FINALISTS:
            proven = False
            break
        one = predicted_of(space, setup, least_s, choices[-1].seconds if len(choices) >= top else np.inf)
        if one is not None and one.headroom >= headroom:
            insort(choices, one, key=lambda choice: choice.seconds)
        predicted += 1
    return Lighter(tuple(choices[:top]), predicted, proven)


def ways(space: Space, base: Setup, fits: bool) -> list[Setup]:
    """Return the base of strategies with each part of memory in the host's which the framework can keep there, and
    which nobody fixed: storages of activations that the model has; and where something ``fits`` without, shares of the
    optimizer's state, which are tried by themselves where nothing does."""
    found: dict[Any, Setup] = {}
    if space.free("offload"):
        there = _storages(space)
        for words in space.stack.offloads:
            if names := tuple(name for name in words.split("+") if name in there):
                found.setdefault(names, replace(base, offload=names))
    if fits and space.free("optimizer_offload"):
        for share in sorted(space.stack.optimizer_offloads):
            if share > base.optimizer_offload:
                found[share] = replace(base, optimizer_offload=share)
    return [*found.values()]


def _storages(space: Space) -> set[str]:
    """Names of what blocks keep."""
    batch = Rank(space.model, space.cluster, space.base, space.stack).batch
    rows = (block_operators(block, batch) for block in space.model.kinds())
    return {tensor.name for made in rows for operator in made for tensor in operator.saves}


def _open(
    space: Space, large: Grid, bases: Sequence[Setup], found: Sequence[Choice], headroom: float
) -> Iterator[tuple[float, Setup]]:
    """Strategies that fit so by their scores and may be better than the best, and what these take at least.

    With more in host memory no step is shorter: where less of the same is enough, more is not tried.
    """
    best_s, room = best_of_all(found), (1 - headroom) * space.cluster.device.memory_bytes
    if np.isfinite(best_s):
        on_device_s = scores(space.model, space.cluster, large, space.stack, np.inf, _most_s(large, best_s)).seconds
        large = large.rows(np.isfinite(on_device_s))
    enough: dict[str, NDArray[np.bool_]] = {}
    for base in bases:
        part = "offload" if base.offload != large.base.offload else "optimizer_offload"
        done = enough.setdefault(part, np.zeros(len(large), bool))
        rows = np.flatnonzero(~done & ~(large.chosen("recompute", "full") & bool(base.offload)))
        if not len(rows):
            continue
        grid = replace(large.rows(rows), base=base)
        over = over_bytes(grid)
        most_bytes = (1 + over) * room
        most = float(most_bytes.max()), _most_s(grid, best_s)
        scored = scores(space.model, space.cluster, grid, space.stack, *most)
        least_s = np.maximum(at_least_s(grid, scored.seconds), scored.work_s)
        fits = ~overfull(space.cluster.node_of(0), space.devices, scored.host_bytes, scored.disk_bytes, over)
        done[rows] |= fits & (scored.needed_bytes <= room) & np.isfinite(scored.peak_bytes)
        fits &= (scored.needed_bytes <= most_bytes) & np.isfinite(scored.seconds) & (least_s < best_s)
        yield from ((float(least_s[row]), grid.setup(row)) for row in np.flatnonzero(fits).tolist())


def _most_s(grid: Grid, best_s: float) -> NDArray[np.float64]:
    """What scores of strategies that may be better than the best are at most."""
    least_s = at_least_s(grid, np.ones(len(grid)))
    return np.where(least_s > 0, best_s / np.where(least_s > 0, least_s, 1.0), np.inf)
