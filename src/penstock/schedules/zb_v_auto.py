"""ZB-V by cost: the V of two chunks a rank, ordered by what its ops cost (Qi et al. 2023, arXiv:2401.10241).

The order for equal times is that of ``zb-v``; here W move to where ranks wait at the given costs, and forwards and
gradients with them.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import COMPILE_FROM_OPS
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.schedules import zb_v
from penstock.schedules.adapt import adapt
from penstock.schedules.problem import KINDS, Problem
from penstock.schedules.reorder import PLAYS, PLAYS_OF_HABIT, best
from penstock.schedules.task import Task
from penstock.schedules.v_starts import v_starts
from penstock.schedules.work import Work
from penstock.schedules.zb_1p import limits

MOST_PLAYED = 1_500_000
"""Ops that are played in all before the search; an op takes about 0.3 us."""


def lanes(task: Task) -> list[NDArray[Any]]:
    """All lanes, by the costs, the objective and the limit of the task; by default p micro-batches on every rank.

    Raises:
        ValueError: the placement is no V, or the limit holds no micro-batch.

    Example:
        >>> from penstock.schedules import build
        >>> str(build("zb-v-auto", ranks=1, micros=2, chunks=2).lanes[0])
        '0F0 1F0 1I0 1W0 0F1 0I0 0W0 1F1 1I1 0I1 1W1 0W1'
    """
    return [*_lanes(task)]


@lru_cache(maxsize=1)
def _lanes(task: Task) -> tuple[NDArray[Any], ...]:
    """The same; those of the last task are kept, since ``v-auto`` begins with them."""
    problem = Problem(task, limits(task, float(task.placement.ranks)))
    p, stages, m, _ = problem.sizes
    if stages != 2 * p or (problem.rank_of != problem.rank_of[::-1]).any():
        raise ValueError(
            f"rank_of={task.placement.rank_of} is no V, which goes up the ranks and back; use Placement.vee"
        )
    rows: list[NDArray[Any]] = [zb_v.lane(int(up), p, m, 2) for up in np.argsort(problem.rank_of[:p])]
    kept = [row[row[:, 0] != Kind.W] for row in rows]
    return tuple(adapt(problem, [problem.woven(kept)], map(problem.woven, chain([rows], _played(problem)))))


def _played(problem: Problem) -> Iterator[list[NDArray[Any]]]:
    """Rows of the best that V-Min, V-Half and ZB-V become, where their placement is the task's and all ranks fit; of
    plans that are too large for that, their own."""
    task, limit = problem.task, float(problem.limit.min())
    p = task.placement.ranks
    if task.placement != Placement.vee(p) or limit < problem.rank_bytes.max() * (1 - 1e-9):
        return
    work = Work.of(task, tuple(KINDS), limit)
    starts = v_starts(work, p, task.micros)
    most = MOST_PLAYED if problem.large else COMPILE_FROM_OPS - 1
    plays = min(len(starts) * PLAYS, most // len(work.codes))
    if plays < len(starts) + PLAYS_OF_HABIT and problem.large:
        yield from ([*work.lanes(order)] for order in starts)
        return
    yield [*work.lanes(best(work, starts, task.objective, plays).order)]


def valid(p: int, m: int, v: int) -> str:
    """A V has two chunks."""
    return zb_v.valid(p, m, v)


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step until the last rank is done: the head (p-1)F/2, from m = 2p-1 on."""
    return zb_v.idle(p, m, v, f, i, w)


def idle_span(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time of the busiest rank between its own ends: 0 from m = 2p-1 on."""
    return zb_v.idle_span(p, m, v, f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W from m = 2p-1 on, where no order is faster; else it is at least as fast as ``zb-v``."""
    return (f == i == w and m >= 2 * p - 1,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r may hold, at most."""
    return min(p, m)
