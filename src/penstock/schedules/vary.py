"""Orders found by varying a good one: starts shift a little, what follows is played and kept if it is no worse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.reorder import HABITS, Run, improve
from penstock.schedules.task import Objective
from penstock.schedules.work import Work

REACHES = (0.2, 0.5, 1.0, 2.0)
"""How far starts shift (one standard deviation), in times of the longest op."""


def vary(work: Work, run: Run, objective: Objective, tries: int) -> Run:
    """The best of ``tries`` variations, each of the best before it; always the same for the same arguments.

    Args:
        work: what there is to do, and the limit that is kept.
        run: where to begin.
        objective: what counts.
        tries: how many variations; each is played four times.
    """
    rng = np.random.default_rng(0)
    played = 4 * tries * len(work.codes)
    longest = float(work.seconds.max())
    for _ in range(tries):
        habit = HABITS[rng.integers(len(HABITS))]
        shift = longest * REACHES[rng.integers(len(REACHES))] * _shift(work, rng)
        for found in improve(work, work.by_time(run.start_s + shift), habit, 1, played):
            if found.score(objective) <= run.score(objective):
                run = found
    return run


def _shift(work: Work, rng: np.random.Generator) -> NDArray[np.float64]:
    """What starts shift by: all ops of some kinds and stages alike, those of some micro-batches, or single ops."""
    scope = rng.integers(3)
    if scope == 2:
        chosen = rng.random(len(work.stream)) < rng.choice([0.01, 0.05, 0.2])
        return np.where(chosen, rng.normal(size=len(chosen)), 0.0)
    streams = work.stream[-1] + 1
    chosen = rng.random(streams) < rng.choice([0.05, 0.2, 1.0])
    shift = np.where(chosen, rng.normal(size=streams), 0.0)[work.stream]
    if scope == 1:
        micro = work.codes[:, 2]
        first = rng.integers(micro.max() + 1)
        shift[(micro < first) | (micro > rng.integers(first, micro.max() + 1))] = 0.0
    return shift
