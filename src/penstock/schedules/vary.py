"""Orders found by varying a good one: starts shift a little, what follows is played and kept if it is no worse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.reorder import HABITS, Run, improve
from penstock.schedules.task import Objective
from penstock.schedules.work import Work

REACHES = (0.2, 0.5, 1.0, 2.0)
"""How far starts shift (one standard deviation), in times of the longest op."""
SHARES = (0.05, 0.2, 1.0)
"""Of the groups of ops that may shift, how many do."""
SINGLE_SHARES = (0.01, 0.05, 0.2)
"""Likewise where each op is a group."""


def vary(
    work: Work, run: Run, objective: Objective, tries: int, seed: int = 0, heat: float = 0.0, waves: bool = False
) -> Run:
    """The best of ``tries`` variations, each of the best before it; always the same for the same arguments.

    Args:
        work: what there is to do, and the limit that is kept.
        run: where to begin.
        objective: what counts.
        tries: how many variations; each is played four times.
        seed: of what is tried.
        heat: by how much a variation may be worse and still be varied further (a scale, in times of the longest op).
        waves: also shift ops of all ranks together: what all stages of a chunk do with a micro-batch, or all with one.
    """
    rng = np.random.default_rng(seed)
    played = 4 * tries * len(work.codes)
    longest = float(work.seconds.max())
    found = run
    for _ in range(tries):
        habit = HABITS[rng.integers(len(HABITS))]
        shift = longest * REACHES[rng.integers(len(REACHES))] * _shift(work, rng, waves)
        for one in improve(work, work.by_time(run.start_s + shift), habit, 1, played):
            better = one.score(objective) <= run.score(objective)
            worse = one.score(objective)[0] - run.score(objective)[0]
            if better or (heat > 0 and rng.random() < np.exp(-worse / (heat * longest))):
                run = one
            if one.score(objective) <= found.score(objective):
                found = one
    return found


def _shift(work: Work, rng: np.random.Generator, waves: bool) -> NDArray[np.float64]:
    """What starts shift by: all ops of some groups alike, everywhere or in some micro-batches, or single ops."""
    scope = rng.integers(6 if waves else 3)
    if scope == 2:
        return _of_groups(np.arange(len(work.stream)), rng, SINGLE_SHARES)
    if scope == 3:
        return _of_groups(work.codes[:, 2], rng, SHARES)
    if scope == 4:
        return _of_groups(work.wave * (work.codes[:, 2].max() + 1) + work.codes[:, 2], rng, SHARES)
    shift = _of_groups(work.wave if scope == 5 else work.stream, rng, SHARES)
    if scope in (1, 5):
        micro = work.codes[:, 2]
        first = rng.integers(micro.max() + 1)
        shift[(micro < first) | (micro > rng.integers(first, micro.max() + 1))] = 0.0
    return shift


def _of_groups(group: NDArray[np.int64], rng: np.random.Generator, shares: tuple[float, ...]) -> NDArray[np.float64]:
    groups = int(group.max()) + 1
    chosen = rng.random(groups) < rng.choice(shares)
    return np.where(chosen, rng.normal(size=groups), 0.0)[group]
