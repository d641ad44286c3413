"""Orders improved and chosen under noise: by the mean of their times over draws, the same draws for all orders.

Of three sets of draws none shares one with another: those of a stint, new ones each time, so that no order is fitted to
a few of them; those by which the orders that stints find are chosen, the same throughout; and the first of all, by
which answers are judged. What an order holds does not depend on times: a limit that it keeps it keeps in every draw.

Importing this module loads numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.engine.noise import Noise, factors, starts
from penstock.schedules.reorder import Run
from penstock.schedules.task import Objective, Task
from penstock.schedules.work import Work
from penstock.search.anneal import anneal, facts_of, sequence_of
from penstock.search.arms import Arm
from penstock.search.judged import turn, whole

STINT_DRAWS, CHOOSING_DRAWS = 16, 64
"""Draws of jitter that a stint goes by, and those by which orders are chosen."""
MOVE_S, MOVE_OP_S = 3e-6, 1.5e-9
"""About what a move takes, and for each op and draw."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Work whose ops take other times in each draw.

    Args:
        work: what there is to do, at the times that ops take on the mean.
        seconds: what each op takes in each draw, shape (ops, draws).
        objective: what counts.
    """

    work: Work
    seconds: NDArray[np.float64]
    objective: Objective

    @classmethod
    def of(cls, task: Task, work: Work, noise: Noise, draws: Sequence[int]) -> Drawn:
        """The work in the draws of these numbers."""
        factor = factors(noise, task.placement, task.micros, work.codes, draws)
        return cls(work, work.seconds[:, None] * factor, task.objective)

    def times(self, run: Run) -> NDArray[np.float64]:
        """What an order takes in each draw, shape (draws,); infinite if it gets stuck."""
        work, order = self.work, run.order
        if run.sync == np.inf:
            return np.full(self.seconds.shape[1], np.inf)
        before = np.full(len(order), -1)
        follows = work.rank[order[:-1]] == work.rank[order[1:]]
        before[order[1:][follows]] = order[:-1][follows]
        sequence = sequence_of(facts_of(work), run)
        start = starts(sequence, before, work.needed, work.lag, self.seconds, often=True)
        end = start + self.seconds
        first, last = order[work.begin[:-1]], order[work.begin[1:] - 1]
        took = end[last] if self.objective == "sync" else end[last] - start[first]
        return np.asarray(took.max(axis=0))

    def expected(self, run: Run) -> float:
        """The mean of them."""
        return float(self.times(run).mean())


@dataclass(frozen=True, eq=False)
class Hardened:
    """A placement and the order on it that is expected to take least so far.

    Args:
        arm: the placement, with its best order without noise.
        noise: how times vary.
        judging: how many draws answers are judged by.
        run: the order.
        seconds: what it takes on the mean over the draws by which orders are chosen.
    """

    arm: Arm
    noise: Noise
    judging: int
    run: Run
    seconds: float

    def given(self, run: Run) -> Hardened:
        """With another order, if that is better."""
        task, ranks = self.arm.task, self.arm.task.placement.ranks
        chosen_by = draws_of(self.noise, ranks, self.judging, CHOOSING_DRAWS, 0)
        seconds = Drawn.of(task, self.arm.work, self.noise, chosen_by).expected(run)
        return replace(self, run=run, seconds=seconds) if seconds < self.seconds else self


def hardened(arm: Arm, noise: Noise, judging: int) -> Hardened:
    """A placement with its best order without noise to begin with."""
    assert arm.run is not None
    return Hardened(arm, noise, judging, arm.run, np.inf).given(arm.run)


def draws_of(noise: Noise, ranks: int, after: int, least: int, number: int) -> range:
    """Numbers of draws behind the first ``after``, set after set: at least so many if there is jitter, in whole
    turns."""
    each = turn(noise, ranks)
    many = -(-(least if noise.jitter else 1) // each) * each
    begin = whole(after, each) + number * many
    return range(begin, begin + many)


def stint(now: Hardened, seconds: float, number: int, seed: int) -> Run:
    """Move single ops of an order for about so long; equal arguments give equal results."""
    task, work = now.arm.task, now.arm.work
    ranks = task.placement.ranks
    behind = draws_of(now.noise, ranks, now.judging, CHOOSING_DRAWS, 0).stop
    draws = draws_of(now.noise, ranks, behind, STINT_DRAWS, number)
    drawn = Drawn.of(task, work, now.noise, draws).seconds
    moves = int(seconds / (MOVE_S + MOVE_OP_S * drawn.size))
    return anneal(work, now.run, task.objective, moves, seed, drawn)
