"""Strategies that need too much memory as they are, with the fewest layers made again with which they fit."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.setup import Setup
from penstock.predict import Grid
from penstock.predict.flying import in_flight
from penstock.predict.lighter import lightest, steps_of
from penstock.predict.memory import peak_bytes
from penstock.predict.moments import FIRST, of_block
from penstock.predict.ranks import blocks_until
from penstock.predict.stage import Stage
from penstock.predict.step import Step
from penstock.search.choice import Choice
from penstock.search.finals import FINALISTS, Going, Share, best_of_all, predicted_of
from penstock.search.finer import again_ways
from penstock.search.margins import at_least_s, over_bytes
from penstock.search.space import Space


class Lighter(NamedTuple):
    """What strategies with some layers made again came to: the best choices with them, how many were predicted, and
    whether none can be better."""

    choices: tuple[Choice, ...]
    predicted: int
    proven: bool


def lighter(
    space: Space, shares: Iterable[Share], misfits: Iterable[Grid], found: Sequence[Choice], headroom: float,
    top: int, going: Going,
) -> Lighter:  # fmt: skip
    """Return the best choices with strategies that fit once some layers of each stage are made again.

    Args:
        space: what there is to choose from.
        shares: parts of it, with the strategies that need too much memory by their scores.
        misfits: those that turned out to need too much.
        found: the best choices without.
        headroom, top: as ``plan`` takes them.
        going: told of what is looked at.
    """
    choices, predicted, proven = [*found], 0, True
    if not choices or not (ways := again_ways(space)):
        return Lighter(tuple(choices), 0, True)
    grids = [*(share.heavy for share in shares), *misfits]
    order: list[tuple[float, int, Setup]] = []
    for grid, way in ((grid, way) for grid in grids for way in ways):
        number = len(order)
        order += ((s, number + n, setup) for n, (s, setup) in enumerate(_open(space, grid, way, choices, headroom)))
    seen: set[Setup] = set()
    for least_s, _, setup in sorted(order):
        if setup in seen:
            continue
        seen.add(setup)
        if least_s >= best_of_all(choices) or not going(0, choices):
            break
        if predicted >= FINALISTS:
            proven = False
            break
        made = _lightest(space, setup, headroom)
        one = None if made is None else predicted_of(space, made, least_s, choices[-1].seconds)
        if one is not None and one.headroom >= headroom:
            insort(choices, one, key=lambda choice: choice.seconds)
        predicted += 1
    return Lighter(tuple(choices[:top]), predicted, proven)


def _open(
    space: Space, grid: Grid, way: tuple[str, str], found: Sequence[Choice], headroom: float
) -> Iterator[tuple[float, Setup]]:
    """Strategies that may be better than the best with some layers made again, and what these take at least."""
    rest, first = way
    paired = grid.chosen("ep_overlap", "on") & (first == "full")
    rows = np.flatnonzero(grid.chosen("recompute", rest) & ~paired)
    some = replace(grid.rows(rows), base=replace(grid.base, recompute_first=first))
    if not len(some):
        return
    best_s, how = best_of_all(found), space.stack.again_layers
    room = (1 - headroom) * space.cluster.device.memory_bytes
    apart = how != "alike"
    most_bytes = (1 + over_bytes(some, apart)) * room
    most_s = best_s / at_least_s(some, np.ones(len(some)))
    scored = lightest(space.model, space.cluster, some, space.stack, most_bytes, most_s, how)
    least_s = np.maximum(
        at_least_s(some, scored.seconds, apart), np.maximum(at_least_s(some, scored.none_s), scored.work_s)
    )
    for row in np.flatnonzero(np.isfinite(scored.seconds) & (least_s < best_s)).tolist():
        yield float(least_s[row]), some.setup(row)


def _lightest(space: Space, setup: Setup, headroom: float) -> Setup | None:
    """A strategy with the fewest first layers made again with which it fits; ``None`` if it does with none, or with no
    fewer than all.

    What a rank keeps depends on the order of its passes, not on their times, and on its own layers alone: so each
    rank's fewest are found by themselves.
    """
    step, how = Step(space.model, space.cluster, setup, space.stack), space.stack.again_layers
    sizes = [len(layers) for layers in setup.layers_of(space.model.layers)]
    ladders = [steps_of(tuple(sizes[stage] for stage in stages), how) for stages in step.on]
    longest = max(map(len, ladders))
    counts = np.array([steps + steps[-1:] * (longest - len(steps)) for steps in ladders]).transpose(1, 0, 2)
    fits = 1 - _needed_bytes(step, counts) / step.rank.device.memory_bytes >= headroom
    if how == "alike":
        fits[:] = fits.all(axis=1, keepdims=True)
    first = fits.argmax(axis=0)
    if not fits.any(axis=0).all() or not first.any() or (counts[first, range(len(first))] == counts[-1]).all():
        return None
    if how == "alike":
        return replace(setup, recompute_layers=(int(first[0]),))
    by_stage = dict(zip(chain(*step.on), chain(*(counts[k, r].tolist() for r, k in enumerate(first))), strict=True))
    return replace(setup, recompute_layers=tuple(by_stage[stage] for stage in range(len(sizes))))


def _needed_bytes(step: Step, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What must fit on a device of each rank if so many first layers of each of its stages are made again: of counts of
    shape (steps, ranks, chunks), shape (steps, ranks)."""
    kinds, before = [*step.model.kinds()], blocks_until(step.model)
    begins = np.cumsum([0, *(sum(stage.values()) for stage in step.stages)])[np.array(step.on)]
    again = before[begins + counts] - before[begins]
    kept = np.array([[of_block(step.rank, kind, first).kept for kind in kinds] for first in FIRST])
    saved = step.costs.saved_bytes[np.array(step.on)] + again @ (kept[1] - kept[0])
    setup = step.setup
    flying = in_flight(setup.schedule, setup.pp, setup.micros, setup.chunks, step.stack.w_share)
    held = [(saved[:, r] @ one.T).max(axis=1) for r, one in enumerate(flying)]
    mine, shape = step.of_ranks, counts.shape[:2]
    made = {kind: again[..., place].sum(axis=-1).ravel() for place, kind in enumerate(kinds)}
    all_of_it = {kind: np.broadcast_to(mine.blocks[kind], shape).ravel() for kind in kinds}
    first, last = (np.broadcast_to(end, shape).ravel() for end in (mine.first, mine.last))
    _, needed = peak_bytes(step.rank, Stage(all_of_it, first, last, made), np.stack(held, axis=1).ravel())
    return needed.reshape(shape)
