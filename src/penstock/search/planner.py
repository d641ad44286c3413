"""The verb ``plan``: the fastest strategies that fit, for a model, machines and a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import FRAMEWORK, Setup
from penstock.cost.laws import suggested
from penstock.cost.stack import Stack
from penstock.predict import Grid, predict, scores
from penstock.search.choice import Choice, Planned
from penstock.search.misses import changes, nearest, refusal
from penstock.search.space import Space, Split, space_of
from penstock.search.wishes import Wished

HEADROOM = 0.05
"""Share of a device's memory that stays free."""
OVER = {"gpipe": 0.01, "1f1b": 0.01, "interleaved": 0.04, "interleaved-zb": 0.04, "zb-h1": 0.08, "zb-h2": 0.08}
OVER_ELSE = 0.15
"""By how much a score may be above the prediction, relative, by schedule; tests/search/test_strategies.py holds it."""
OVER_BYTES = 0.06
"""The same of memory."""
AT_ONCE = 48
"""Finalists that are predicted before it is looked whether others may be better."""
FINALISTS = 384
"""Most that are predicted."""


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
    return replace(best_of(space, top=top, headroom=headroom, first=first), suggested=laws)


def best_of(space: Space, *, top: int, headroom: float, first: Callable[[Choice], None] | None = None) -> Planned:
    """Return the fastest strategies of a space that fit; arguments and errors are those of ``plan``."""
    began = time.perf_counter()
    if top < 1 or not 0 <= headroom < 1:
        raise ValueError(f"top={top}, headroom={headroom}: give 1 or more, and a share from 0 to below 1")
    space.check()
    first_s = None
    if first is not None and (one := _first(space, headroom)) is not None:
        first_s = time.perf_counter() - began
        first(one)
    shares = [scored(space, share, headroom, top) for share in space.shares()]
    choices, predicted, proven = finals(space, shares, top, headroom)
    found = Planned(
        choices=choices,
        considered=sum(share.considered for share in shares),
        impossible=sum(share.impossible for share in shares),
        too_large=sum(share.too_large for share in shares),
        scored=sum(share.scored for share in shares),
        predicted=predicted,
        proven=proven,
        headroom=headroom,
        seconds=time.perf_counter() - began,
        first_s=first_s,
    )
    if choices:
        return found
    if (near := nearest(space)) is None:
        raise ValueError(refusal(space))
    return replace(found, nearest=near, changes=changes(space, headroom), seconds=time.perf_counter() - began)


class Share(NamedTuple):
    """A part of the space, scored: the promising rows of its grid, their seconds, and how many there were.

    One row more than may be predicted tells whether others could be better.
    """

    grid: Grid
    seconds: NDArray[np.float64]
    considered: int
    impossible: int
    too_large: int
    scored: int


def scored(space: Space, share: list[Split], headroom: float, top: int = 1, most_s: float = np.inf) -> Share:
    """Return the promising strategies of some splits: those that cannot take more than ``most_s``."""
    grid = space.grid(share)
    most = most_bytes(space, headroom), (1 + OVER_ELSE) * most_s
    found = scores(space.model, space.cluster, grid, space.stack, *most)
    timed = np.isfinite(found.seconds)
    rows = np.flatnonzero(timed)
    order = np.argsort(at_least_s(grid.rows(rows), found.seconds[rows]), kind="stable")
    rows = rows[order[: max(FINALISTS, top) + 1]]
    impossible = len(grid) - int(found.possible.sum())
    too_large = len(grid) - impossible - int(timed.sum())
    return Share(grid.rows(rows), found.seconds[rows], len(grid), impossible, too_large, int(timed.sum()))


def most_bytes(space: Space, headroom: float) -> float:
    """Return what a device may need by the score of a strategy that may fit."""
    return (1 - headroom) * (1 + OVER_BYTES) * space.cluster.device_of(0).memory_bytes


def at_least_s(grid: Grid, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what predictions are at least, by their scores."""
    over = np.array([OVER.get(name, OVER_ELSE) for name in grid.choices["schedule"]])
    return np.asarray(seconds / (1 + over[grid.columns["schedule"]]))


def _first(space: Space, headroom: float) -> Choice | None:
    """The best of a small part of the space, by its score."""
    typical = space.typical()
    shares = [scored(typical, share, headroom) for share in typical.shares()]
    rows = [(float(s), place, row) for place, share in enumerate(shares) for row, s in enumerate(share.seconds[:8])]
    for score_s, place, row in sorted(rows):
        found = predicted_of(space, shares[place].grid.setup(row), score_s)
        if found is not None and found.headroom >= headroom:
            return found
    return None


def finals(
    space: Space, shares: list[Share], top: int, headroom: float, at_once: int = AT_ONCE
) -> tuple[tuple[Choice, ...], int, bool]:
    """Return the best choices, how many were predicted, and whether no other can be better than the first."""
    rows = [
        (float(least_s), place, row, float(share.seconds[row]))
        for place, share in enumerate(shares)
        for row, least_s in enumerate(at_least_s(share.grid, share.seconds))
    ]
    rows.sort()
    setups = [(shares[place].grid.setup(row), score_s) for _, place, row, score_s in rows[: max(FINALISTS, top)]]
    found: list[Choice] = []
    done = 0
    while done < len(setups):
        if len(found) >= min(top, at_once) and rows[done][0] >= found[0].seconds:
            break
        batch = setups[done : done + at_once]
        made = [predicted_of(space, *one) for one in batch]
        found += [one for one in made if one is not None and one.headroom >= headroom]
        found.sort(key=lambda choice: choice.seconds)
        done += len(batch)
    proven = bool(found) and (done >= len(rows) or rows[done][0] >= found[0].seconds)
    return tuple(found[:top]), done, proven


def predicted_of(space: Space, setup: Setup, score_s: float = 0.0) -> Choice | None:
    """Return a setup predicted with its timeline; ``None`` if it cannot be."""
    try:
        return Choice.of(setup, predict(space.model, space.cluster, setup, space.stack), score_s)
    except ValueError:
        return None
