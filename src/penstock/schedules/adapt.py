"""The best order that a modest search finds for a task: many orders, woven with many dials, then small changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.schedules.greedy import greedy_orders
from penstock.schedules.problem import Order, Problem
from penstock.schedules.task import Task
from penstock.schedules.weave import Weaver

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
TARGETS = tuple(0.6 * 1.5**-step for step in range(12))
"""Bubbles that ranks may have before ``W`` that do not fit are run, relative to their work."""
CHANGES, FEW = 36_000, 2_000
"""Small changes tried at most, and where loops are not compiled; fewer where one takes long."""
MEAN = 0.01
"""How much the mean time of the ranks counts beside the longest, so that changes to the others are judged too."""
HURRIES = 40
"""Directed changes tried at most."""
WORTHWHILE = 50
"""Fewer changes from one start are not worth their time."""
SEEDS = (0, 1, 2, 3)
"""Of the changes tried from each start."""
FARTHEST = 3
"""Places an op is moved at most, mostly few."""
MOST_TRIED = 24_000_000
"""Ops played in all trials before those changes, about; at large sizes fewer orders and dials are tried."""
FEWEST = 3
"""Orders that are tried in any case."""
MOST_OPS = 12_000_000
"""Ops played in all changes, about: a sixth of a second."""

Dials = tuple[NDArray[np.float64], float]
"""Budget and share of ``Weaver.play``."""


@dataclass(frozen=True)
class Trial:
    """An order and its dials."""

    seconds: float
    order: Order
    budget: NDArray[np.float64]
    share: float
    mean_s: float = math.inf


def adapt(
    problem: Problem, orders: Iterable[Order], named: Iterable[Order], whole: Iterable[list[Lane]] = ()
) -> list[NDArray[Any]]:
    """Rows of each rank for the objective of the task, within its limit.

    Args:
        orders: to start from, beside those of dispatchers; any may turn out not to run.
        named: orders of published schedules with their ``W``; nothing slower is given where they fit.
        whole: lanes of published schedules that do not split backwards, as ``named``.

    Raises:
        ValueError: nothing fits the limit.
    """
    weaver = Weaver(problem)
    best = _search(weaver, orders, named)
    fixed = min(_played(problem, whole), key=lambda pair: pair[0], default=(math.inf, []))
    if fixed[0] < best.seconds - problem.slack_s:
        return [lane.codes for lane in fixed[1]]
    if best.seconds == math.inf:
        raise ValueError(f"no order fits a memory_limit of {problem.limit.min():.6g}; allow more")
    _play(weaver, best)
    return weaver.lanes()


def _search(weaver: Weaver, orders: Iterable[Order], named: Iterable[Order]) -> Trial:
    """The best of all orders and dials; one that no order can beat ends the search."""
    best: dict[tuple[bool, bool], Trial] = {}
    for trial in _trials(weaver, orders, named):
        start = (_is_woven(weaver, trial), bool(np.ravel(trial.budget)[0] < 0))
        if start not in best or trial.seconds < best[start].seconds:
            best[start] = trial
            if weaver.unbeaten(trial.seconds):
                return trial
    first = min(best.values(), key=lambda trial: trial.seconds)
    best = {start: trial for start, trial in best.items() if trial is first or not _is_woven(weaver, trial)}
    found = min((_hurry(weaver, trial) for trial in best.values()), key=lambda trial: trial.seconds)
    if weaver.unbeaten(found.seconds):
        return found
    improved = [_improve(weaver, trial, seed) for seed in SEEDS for trial in best.values()]
    return min(found, *improved, key=lambda trial: trial.seconds)


def _is_woven(weaver: Weaver, trial: Trial) -> bool:
    """Whether an order holds its ``W``."""
    return len(trial.order) > weaver.problem.sizes[0] * weaver.problem.sizes[3]


def _trials(weaver: Weaver, orders: Iterable[Order], named: Iterable[Order]) -> Iterator[Trial]:
    """Each order with a few dials, then the best four with many."""
    found: list[Trial] = []
    coarse = _coarse(weaver)
    most = MOST_TRIED // (2 * weaver.problem.forwards)
    for order in islice(_all_orders(weaver.problem, orders), max(FEWEST, most // (8 * sum(map(len, coarse))))):
        tries = [_best_of(weaver, order, dials) for dials in coarse]
        found.append(min(tries, key=lambda trial: trial.seconds))
        yield from tries
    yield from (_best_of(weaver, order, [(weaver.problem.work_s, 1.0)]) for order in named)
    for trial in sorted(found, key=lambda trial: trial.seconds)[:4]:
        yield from (_best_of(weaver, trial.order, dials) for dials in islice(_fine(weaver), max(FEWEST, most // 40)))


def _all_orders(problem: Problem, orders: Iterable[Order]) -> Iterator[Order]:
    """The orders and those of dispatchers, one of them guided by the first order, each once."""
    first = next(iterator := iter(orders))
    guide = np.array(first).reshape(problem.sizes[0], -1)
    seen = set()
    for order in chain([first], iterator, greedy_orders(problem, guide)):
        key = np.asarray(order).tobytes()
        if key not in seen:
            seen.add(key)
            yield order


def _coarse(weaver: Weaver) -> list[list[Dials]]:
    """Budgets and shares for a first look: none or any, and that of the most idle."""
    ranks = weaver.problem.sizes[0]
    dials = [[(0.0, 1.0), (math.inf, 1.0), (math.inf, 0.6), (math.inf, 0.2)], [(-1.0, 1.0), (-1.0, 0.6)]]
    return [[(np.full(ranks, budget), share) for budget, share in half] for half in dials]


def _fine(weaver: Weaver) -> Iterator[list[Dials]]:
    """Budgets that let all ranks end at about the same time."""
    work = weaver.problem.work_s
    yield [(np.full(len(work), -1.0), share) for share in SHARES]
    for target in (weaver.problem.bound_s / work.max() - 1, *TARGETS):
        yield [(work.max() * (1 + target) - work, share) for share in SHARES]


def _best_of(weaver: Weaver, order: Order, dials: list[Dials]) -> Trial:
    trials = (_play(weaver, Trial(math.inf, order, budget, share)) for budget, share in dials)
    return min(trials, key=lambda trial: trial.seconds)


def _play(weaver: Weaver, trial: Trial) -> Trial:
    seconds, mean_s = weaver.play(trial.order, weaver.problem.array(trial.budget), trial.share)
    return replace(trial, seconds=seconds, mean_s=mean_s)


def _improve(weaver: Weaver, best: Trial, seed: int) -> Trial:
    """Small random changes, the same ones each time: first of orders and dials, then of all ops."""
    most = CHANGES if weaver.problem.large else FEW
    changes = min(most, MOST_OPS // (3 * weaver.problem.forwards)) // (4 * len(SEEDS))
    if changes < WORTHWHILE:
        return best
    best = _change(weaver, best, changes, 0.4, seed)
    _play(weaver, best)
    return _hurry(weaver, _change(weaver, replace(best, order=weaver.woven()), changes, 0.0, seed))


def _hurry(weaver: Weaver, best: Trial) -> Trial:
    """What the slowest rank waits for, moved forward by one op on the rank that makes it, as long as that helps."""
    problem, left = weaver.problem, HURRIES
    while left > 0 and not weaver.unbeaten(best.seconds):
        _play(weaver, best)
        for kind, stage, micro in list(weaver.waits())[:left]:
            left -= 1
            trial = _play(weaver, _earlier(best, problem, kind, stage + (1 if kind else -1), micro))
            if trial.seconds < best.seconds - problem.slack_s:
                best = trial
                break
        else:
            break
    return best


def _earlier(trial: Trial, problem: Problem, kind: int, stage: int, micro: int) -> Trial:
    order = trial.order.copy()
    if 0 <= stage < len(problem.chain):
        lane = int(problem.rank_of[stage]) * (len(order) // problem.sizes[0])
        at = lane + int(np.flatnonzero(np.array(order[lane:]) == 4 * stage + kind)[micro])
        if at > lane:
            order[at - 1], order[at] = order[at], order[at - 1]
    return replace(trial, order=order)


def _change(weaver: Weaver, best: Trial, changes: int, dials: float, seed: int) -> Trial:
    """Changes that do no harm stay; a part ``dials`` of them concerns dials."""
    problem, random, last = weaver.problem, Random(seed), best
    for _ in range(changes):
        if weaver.unbeaten(best.seconds):
            break
        change = _other_budget if random.random() < dials else _other_order
        trial = _play(weaver, change(last, problem, random.randrange(problem.sizes[0]), random))
        if trial.seconds + MEAN * trial.mean_s <= last.seconds + MEAN * last.mean_s:
            last = trial
            best = min(best, last, key=lambda one: one.seconds)
    return best


def _other_budget(trial: Trial, problem: Problem, rank: int, random: Random) -> Trial:
    budget = trial.budget.copy()
    budget[rank] = random.random() * 1.3 * max(trial.seconds - problem.work_s[rank], 0.0)
    return replace(trial, budget=budget)


def _other_order(trial: Trial, problem: Problem, rank: int, random: Random) -> Trial:
    """One op of a lane moved by a few places."""
    length = len(trial.order) // problem.sizes[0]
    i = random.randrange(length)
    j = rank * length + min(length - 1, i + 1 + int(FARTHEST * random.random() ** 3))
    i += rank * length
    order = trial.order.copy()
    moved = list(order[i : j + 1])
    order[i : j + 1] = moved[1:] + moved[:1] if random.random() < 0.5 else moved[-1:] + moved[:-1]
    return replace(trial, order=order)


def _played(problem: Problem, whole: Iterable[list[Lane]]) -> Iterator[tuple[float, list[Lane]]]:
    """Seconds and lanes of those that fit."""
    task = problem.task
    for lanes in whole:
        peaks = [_peak(task, lane) for lane in lanes]
        if (np.array(peaks) <= problem.limit * (1 + 1e-9)).all():
            plan = Plan("whole", task.placement, task.micros, tuple(lanes))
            kind, stage, _ = plan.ops.T
            played = play(plan, task.costs.seconds[kind, stage], task.costs.hop_s)
            begin = played.start_s[plan.first[:-1]] if task.objective == "span" else 0.0
            yield float((played.end_s[plan.first[1:] - 1] - begin).max()), lanes


def _peak(task: Task, lane: Lane) -> float:
    """Bytes that a lane of forwards and whole backwards holds at its peak."""
    kind, stage, _ = lane.codes.T
    return float(np.cumsum(np.where(kind == Kind.F, 1.0, -1.0) * task.costs.saved_bytes[stage]).max(initial=0.0))
