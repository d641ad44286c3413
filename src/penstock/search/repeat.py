"""An order that repeats: what every rank does in each turn, how long a turn takes, and the order for a whole step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.schedules.problem import KINDS
from penstock.schedules.task import Objective, Task
from penstock.schedules.work import Work, in_turn

if TYPE_CHECKING:
    from penstock.search.period import Facts, State

HEATS = 6e-3, 3e-5
"""By how much a move that is likely taken may lengthen the period, at first and at last, in times of the busiest rank's
work for one micro-batch of each chain."""
TUNE_S = 0.15e-6
"""About what a move takes for each op of a turn."""
EXACT = 1e-9
"""Differences of time, in times of the longest op, that count as none."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """An order that repeats.

    Args:
        work: the ops of one turn, in which every chain takes so many micro-batches.
        lane: ids of a turn, rank after rank, shape (ops,).
        turn: in turn t an op runs for the micro-batches that entered in turn ``t - turn[op]``, shape (ops,).
        start_s: of each op for the micro-batches that enter at time 0, shape (ops,).
        turn_s: the period: seconds from one turn to the next; no way to run the order repeats faster.
        each: micro-batches of every chain per turn.
        chains: of the placement.
    """

    work: Work
    lane: NDArray[np.int64]
    turn: NDArray[np.int64]
    start_s: NDArray[np.float64]
    turn_s: float
    each: int
    chains: int

    @property
    def micro_s(self) -> float:
        """Seconds from one micro-batch to the next."""
        return self.turn_s / (self.each * self.chains)

    def order(self, work: Work) -> NDArray[np.int64]:
        """For all micro-batches of a step: turn after turn, without the ops of those before and after it."""
        kind, stage, micro = work.codes.T
        chain, number = np.divmod(micro, (int(micro.max()) + 1) // self.chains)
        entered, which = np.divmod(number, self.each)
        op = self.work.of_rows([np.column_stack([kind, stage, which + chain * self.each])])
        place = np.argsort(self.lane)
        return np.lexsort((place[op], entered + self.turn[op], work.rank))


def turn_of(task: Task, each: int) -> Work:
    """The ops of one turn in which every chain takes so many micro-batches."""
    return Work.of(replace(task, micros=each * task.placement.chains), KINDS, task.limit)


def kernel_of(task: Task, each: int, start_s: NDArray[np.float64], turn_s: float) -> Kernel | None:
    """The order of given times; ``None`` if turns that follow each other hold more than the limit, or cannot run.

    Args:
        task: what there is to do.
        each: micro-batches of every chain per turn.
        start_s: of each op of ``turn_of(task, each)``, shape (ops,).
        turn_s: seconds from one turn to the next.
    """
    work = turn_of(task, each)
    turn = np.floor(start_s / turn_s + EXACT).astype(np.int64)
    lane = in_turn(task, work, start_s - turn * turn_s)
    return measured(work, lane, turn, each, task.placement.chains)


def tuned(kernel: Kernel, objective: Objective, micros: int, moves: int, seed: int) -> Kernel:
    """The best order found in so many moves, for a step of so many micro-batches; never worse than at first.

    Args:
        kernel: where to begin.
        objective: what counts at both ends of the step.
        micros: micro-batches per step.
        moves: how many are tried; one takes about ``TUNE_S`` for each op of a turn.
        seed: of what is tried.
    """
    from penstock.search.tune import tune

    facts, state = _compiled(kernel.work, kernel.lane, kernel.turn)
    turns = micros / (kernel.each * kernel.chains)
    unit = float(np.bincount(kernel.work.rank, kernel.work.seconds).max()) / kernel.each
    slack = EXACT * float(kernel.work.seconds.max())
    best = np.zeros((3, len(kernel.lane)), dtype=np.int64)
    heats = HEATS[0] * turns * unit, HEATS[1] * turns * unit
    tune(facts, state, (objective == "sync", float(turns), slack), kernel.work.most, heats, moves, seed, best)
    return measured(kernel.work, best[0], best[2], kernel.each, kernel.chains) or kernel


def measured(work: Work, lane: NDArray[np.int64], turn: NDArray[np.int64], each: int, chains: int) -> Kernel | None:
    """With its period and starts; ``None`` if it breaks the limit or cannot run."""
    from penstock.search.period import fits, period_of

    facts, state = _compiled(work, lane, turn)
    if not all(fits(facts, state, r, work.most) for r in range(len(work.begin) - 1)):
        return None
    turn_s, _ = period_of(facts, state, EXACT * float(work.seconds.max()))
    if turn_s <= 0:
        return None
    start_s = state.start + turn * turn_s
    return Kernel(work, lane, turn, start_s - start_s.min(), turn_s, each, chains)


def _compiled(work: Work, lane: NDArray[np.int64], turn: NDArray[np.int64]) -> tuple[Facts, State]:
    """What compiled loops take: facts, and an order with nothing known of its times."""
    from penstock.search.period import Facts, State

    ops = len(lane)
    facts = Facts(
        work.rank, work.stream, work.needed, work.lag, work.seconds, work.takes, work.frees, work.begin.astype(np.int64)
    )
    numbers = [np.zeros(ops, dtype=np.int64) for _ in range(4)]
    times = np.zeros(ops), np.full(ops, -1), np.zeros(ops)
    return facts, State(lane.copy(), np.argsort(lane), turn.copy(), *times, *numbers)
