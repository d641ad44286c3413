"""V-Auto: the best order on a V of two chunks within a limit of memory (idea: Qi et al. 2024, arXiv:2405.15362)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.schedules import zb_v, zb_v_auto
from penstock.schedules.problem import Problem
from penstock.schedules.reorder import PLAYS, Run, best, play
from penstock.schedules.task import Task
from penstock.schedules.v_starts import v_starts
from penstock.schedules.vary import vary
from penstock.schedules.work import Work

TRIES = 1000
"""Variations of the best order where the user asks for no other number."""
FEWEST = 10
"""Fewer variations are not worth their time: then the plan is that of ``zb-v-auto``."""
MOST_PLAYED = 2_000_000
"""Ops that are played in all where plans are so large that fewer are tried; an op takes about 0.3 us."""
KINDS = (Kind.F, Kind.I, Kind.W)


def lanes(task: Task, tries: int | None = None) -> list[NDArray[np.int64]]:
    """The best of what ``zb-v-auto`` finds and what V-Min, V-Half and ZB-V become at the task's costs, varied further.

    Where no order can beat what ``zb-v-auto`` finds, that is it.

    Args:
        task: on a V of two chunks; without a limit, 1F1B's memory is taken: as many micro-batches as there are ranks.
        tries: variations of the best order; more take longer and find more. Default 1000, fewer for small plans and
            for large ones.

    Raises:
        ValueError: the limit does not hold one micro-batch, or the placement is another.
    """
    p = task.placement.ranks
    if task.placement != Placement.vee(p):
        raise ValueError(f"v-auto is for a V of two chunks, not for rank_of={task.placement.rank_of}")
    one = float(np.bincount(task.placement.rank_of, task.costs.saved_bytes).max())
    limit = p * one if task.memory_limit is None else task.memory_limit
    if not limit >= one * (1 - 1e-9):
        raise ValueError(f"memory_limit={limit:.6g} does not hold one micro-batch; it needs at least {one:.6g}")
    ops = len(KINDS) * task.placement.stages * task.micros
    if tries is None:
        tries = min(TRIES, ops, MOST_PLAYED // (4 * ops))
        if tries < FEWEST:
            return zb_v_auto.lanes(task)
    work = Work.of(task, KINDS, limit)
    first = work.of_rows(zb_v_auto.lanes(task))
    if _unbeaten(task, limit, play(work, first)):
        return work.lanes(first)
    starts = [first, *v_starts(work, p, task.micros)]
    plays = min(len(starts) * PLAYS, MOST_PLAYED // ops)
    run = best(work, starts, task.objective, plays)
    return work.lanes(vary(work, run, task.objective, tries).order)


def _unbeaten(task: Task, limit: float, run: Run) -> bool:
    """Whether no order has a shorter makespan or a shorter span."""
    limits = np.full(task.placement.ranks, limit)
    sync, span = (Problem(replace(task, objective=one), limits) for one in ("sync", "span"))
    return run.sync <= sync.bound_s + sync.slack_s and run.span <= span.bound_s + span.slack_s


def valid(p: int, m: int, v: int, tries: int | None = None) -> str:
    """A V has two chunks."""
    return zb_v.valid(p, m, v)


def idle(p: int, m: int, v: int, f: float, i: float, w: float, tries: int | None = None) -> float:
    """Idle time per step until the last rank is done: ZB-V's, in 1F1B's memory."""
    return zb_v.idle(p, m, v, f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float, tries: int | None = None) -> tuple[bool, bool]:
    """Proved of the makespan for F = I = W from m = 2p-1 on, where nothing is faster than ZB-V."""
    return f == i == w and m >= 2 * p - 1, False


def peak_micros(r: int, p: int, m: int, v: int, tries: int | None = None) -> float:
    """Micro-batches whose activations any rank holds at most: those of 1F1B."""
    return min(m, p)
