"""The verb ``plan``: the fastest strategies that fit, for a model, machines and a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import FRAMEWORK, Setup
from penstock.cost.laws import suggested
from penstock.cost.stack import Stack
from penstock.predict import Grid
from penstock.predict.grid import together
from penstock.search.choice import Choice, Planned
from penstock.search.finals import (
    FINALISTS,
    OPEN,
    SLACK,
    Going,
    Share,
    Watch,
    best_of_all,
    enough_s,
    finals,
    grids,
    predicted_of,
    scored,
    scored_grid,
)
from penstock.search.finer import variants
from penstock.search.hosts import hosted
from penstock.search.lighter import lighter
from penstock.search.misses import changes, nearest, refusal
from penstock.search.numbers import parts, planned
from penstock.search.orders import check, orders
from penstock.search.space import Space, space_of
from penstock.search.wishes import Wished

HEADROOM = 0.05
"""Share of a device's memory that stays free."""
OPEN_AT_ONCE = 256
"""Strategies whose variants are scored at a time."""


def plan(
    model: str | Path | Architecture,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int | None = None,
    tokens: float | None = None,
    fix: Wished = None,
    exclude: Wished = None,
    top: int = 20,
    headroom: float = HEADROOM,
    first: Callable[[Choice], None] | None = None,
    solve_s: float = 0.0,
) -> Planned:
    """Return the fastest strategies that fit.

    All strategies of the space are scored by closed forms; from the best score on, they are predicted with their
    timelines, until no score is left that could belong to one better than the first. Those below the first are the best
    of what was predicted on the way.

    Args:
        model, cluster, framework: as ``predict_step`` takes them.
        seq, batch: tokens of a sequence, and sequences per step; no batch: what published laws suggest.
        tokens: of the whole training, for these laws; 20 a parameter if left out.
        fix: values that fields of a setup may have: ``"tp=2..8,recompute=none/full"``, or a mapping; all else is free.
        exclude: values that they may not have, likewise.
        top: how many are wanted.
        headroom: share of a device's memory that stays free.
        first: is called with a first answer, as soon as there is one.
        solve_s: seconds for better orders of passes of the best that have a pipeline; 0: none are looked for.

    Raises:
        ValueError: a name that is not known, or nothing is left to choose from.

    Example:
        >>> found = plan("llama-3-8b", "dgx-h100:1", seq=4096, batch=64, fix="zero=1,cp=1", top=3)
        >>> len(found.choices), found.proven, found.best.setup.devices
        (3, True, 8)
    """
    laws = None
    if batch is None:
        model = model if isinstance(model, Architecture) else model_of(str(model))
        cluster = cluster if isinstance(cluster, Cluster) else Cluster.read(cluster)
        laws = suggested(model, seq, cluster.devices, tokens)
        batch = laws.batch
    space = space_of(model, cluster, framework, seq=seq, batch=batch, fix=fix, exclude=exclude)
    if solve_s:
        check(space, solve_s)
    found = replace(best_of(space, top=top, headroom=headroom, first=first), suggested=laws)
    return replace(found, orders=orders(space, found.choices, headroom, solve_s)) if solve_s else found


def best_of(
    space: Space,
    *,
    top: int,
    headroom: float,
    first: Callable[[Choice], None] | None = None,
    watch: Watch = lambda done, best: True,
) -> Planned:
    """Return the fastest strategies of a space that fit; arguments and errors are those of ``plan``.

    ``watch`` is told how many strategies were looked at and of the best; the search ends when it says ``False``.
    """
    began = time.perf_counter()
    check_wanted(top, headroom)
    if len(apart := parts(space)) > 1:
        return planned(apart, lambda one: best_of(one, top=top, headroom=headroom, first=first, watch=watch), top)
    space.check()
    first_s, most_s = None, np.inf
    if (early := first_choice(space, headroom)) is not None:
        first_s, most_s = time.perf_counter() - began, SLACK * early.seconds
        if first is not None:
            first(early)
    going = Going(watch)
    finer = looked(space, top, headroom, going, most_s)
    if going.on and not finer.enough:
        finer = looked(space, top, headroom, going)
    early_too = (early,) if early is not None and not going.on else ()
    choices, shares = finer.choices or early_too, finer.shares
    found = Planned(
        choices=choices,
        considered=sum(share.considered for share in shares),
        impossible=sum(share.impossible for share in shares),
        too_large=sum(share.too_large for share in shares),
        too_slow=sum(share.too_slow for share in shares),
        scored=sum(share.scored for share in shares),
        predicted=finer.predicted,
        proven=finer.proven and going.on and bool(choices),
        stopped=not going.on,
        headroom=headroom,
        seconds=time.perf_counter() - began,
        first_s=first_s,
    )
    if choices or found.stopped:
        return found
    last = space.offloads()[-1][-1]
    if (near := nearest(last)) is None:
        raise ValueError(refusal(space))
    return replace(found, nearest=near, changes=changes(last, headroom), seconds=time.perf_counter() - began)


def check_wanted(top: int, headroom: float) -> None:
    """Do nothing where so many strategies that leave such a share of the memory free can be looked for.

    Raises:
        ValueError: no strategies, or no share of a whole.
    """
    if top < 1 or not 0 <= headroom < 1:
        raise ValueError(f"top={top}, headroom={headroom}: give 1 or more, and a share from 0 to below 1")


class Finer(NamedTuple):
    """What variants of strategies came to: the best choices with them, their shares, how many were predicted, whether
    none can be better, and whether none was left out that counts."""

    choices: tuple[Choice, ...]
    shares: list[Share]
    predicted: int
    proven: bool
    enough: bool = True


def looked(space: Space, top: int, headroom: float, going: Going, most_s: float = np.inf) -> Finer:
    """Return the best strategies that fit, with the optimizer on devices if any do, and the shares of all; those that
    take more than ``most_s``, or than what the shares before are enough for, are left out."""
    shares, predicted, proven, enough = list[Share](), 0, True, True
    for spaces in space.offloads():
        new: list[Share] = []
        for part, grid in ((one, grid) for one in spaces for grid in grids(one, one.shares())):
            if going(0):
                made = scored(part, grid, headroom, top, most_s)
                new += made
                going(sum(share.considered for share in made))
                most_s = min(most_s, enough_s(new, top))
        misfits: list[Grid] = []
        choices, done, sure, reach_s = finals(space, new, top, headroom, going=going, misfits=misfits)
        enough = enough and reach_s <= most_s
        away = hosted(space, new, choices, headroom, top, going)
        finer = _refined(space, new, away.choices, top, headroom, going)
        light = lighter(space, new, misfits, finer.choices, headroom, top, going)
        shares = [*shares, *new, *finer.shares]
        predicted += done + finer.predicted + light.predicted + away.predicted
        proven = proven and sure and finer.proven and light.proven and away.proven
        finer = finer._replace(choices=light.choices)
        if finer.choices or not going.on:
            break
    return Finer(finer.choices, shares, predicted, proven, enough)


def first_choice(space: Space, headroom: float) -> Choice | None:
    """The best of a small part of the space, by its score."""
    typical = space.typical()
    shares = [one for grid in grids(typical, typical.shares()) for one in scored(typical, grid, headroom)]
    rows = [(float(s), place, row) for place, share in enumerate(shares) for row, s in enumerate(share.seconds[:8])]
    for score_s, place, row in sorted(rows):
        found = predicted_of(space, shares[place].grid.setup(row), score_s)
        if found is not None and found.headroom >= headroom:
            return found
    return None


def _refined(
    space: Space, shares: list[Share], choices: tuple[Choice, ...], top: int, headroom: float, going: Going
) -> Finer:
    """Look for variants of strategies that are better than the best; of each strategy the best stays.

    Strategies go in the order of what their variants take at least, until that is more than the best takes.
    """
    found, made, predicted, proven = [*choices], list[Share](), 0, True
    order = sorted(
        (float(least_s), place, row) for place, share in enumerate(shares) for row, least_s in enumerate(share.open[1])
    )
    for begin in range(0, len(order), OPEN_AT_ONCE):
        best_s = best_of_all(found)
        if order[begin][0] >= best_s or not going(0, found):
            break
        if begin >= OPEN or predicted >= FINALISTS:
            proven = False
            break
        new = [one for one in order[begin : begin + OPEN_AT_ONCE] if one[0] < best_s]
        for some in _by_base(shares, new):
            grid, _ = variants(space, some)
            if len(grid):
                made.append(scored_grid(space, grid, headroom, top, finer=True, most_s=best_of_all(found)))
                going(len(grid), found)
                better, count, sure, _ = finals(space, made[-1:], top, headroom, best_s=best_of_all(found))
                found, predicted, proven = _merged(found, better), predicted + count, proven and sure
    return Finer(tuple(found[:top]), made, predicted, proven)


def _by_base(shares: Sequence[Share], open_to: Sequence[tuple[float, int, int]]) -> list[Grid]:
    """Strategies that are open, by their shares and rows there, in a grid for each base."""
    found: dict[Setup, list[Grid]] = {}
    for place, share in enumerate(shares):
        if rows := [row for _, where, row in open_to if where == place]:
            found.setdefault(share.grid.base, []).append(share.open[0].rows(rows))
    return [together(grids) for grids in found.values()]


def _merged(found: list[Choice], better: tuple[Choice, ...]) -> list[Choice]:
    """Choices with others, the fastest first, of each strategy one."""
    each: dict[Setup, Choice] = {}
    for one in sorted((*found, *better), key=lambda choice: choice.seconds):
        each.setdefault(replace(one.setup, shards=0, vocabulary=0, stage_layers=(), recompute_layers=()), one)
    return [*each.values()]
