"""Orders by a constraint solver: the best one with its proof where a task is small, else a higher bound.

Starts of forwards and gradients are confined to what ``engine.flow`` proves, which by itself often raises the bound.
Then the solver is asked whether any order takes at most so long: it finds one, shows that there is none, or gives up.
What is asked for lies between the bound and the best order; nearer to the bound after giving up, nearer to the best
order after a proof.

Micro-batches of a chain are alike, so those of one stage and kind run in their order without loss: call the k-th op
of each stage and kind the k-th micro-batch's. What it needs has happened k times by then, as each op needs one of its
own micro-batch, and all ops of a stage and kind take as long, travel as far, take and free as much.

OR-Tools' CP-SAT is the solver (Perron and Didier, https://developers.google.com/optimization/cp), with one worker and
effort counted in its deterministic time, so that equal arguments give equal answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.schedules.reorder import Run, play
from penstock.schedules.task import Task
from penstock.schedules.work import Work, in_turn
from penstock.search.integral import Integral

BY_WINDOWS, BY_SEARCH = "earliest starts", "exhaustive search"
"""Why no order beats a bound."""
MOST_OPS = 500
"""Of a task for which trying is worth it."""
LEAST_SHARE = 1 / 64
"""Of what lies between bound and best order: less is not asked for."""
LEAST_EFFORT = 1 / 16
"""Share of the effort that one question gets at least."""
GUARD_S = 60.0
"""Seconds after which the solver stops in any case, for each unit of effort: it may count propagation as nothing."""


@dataclass(frozen=True, eq=False)
class Proof:
    """What came of asking.

    Args:
        bound_s: no order is shorter.
        kind: why, if the bound is higher than it was.
        run: an order shorter than the one to beat; ``None`` if none was found.
        share: of what lies between bound and best order that should be asked for next; 0 if asking is of no more use.
    """

    bound_s: float
    kind: str
    run: Run | None
    share: float


def installed() -> bool:
    """Whether the solver is there."""
    return find_spec("ortools") is not None


def exact(
    task: Task, work: Work, bound_s: float, beat_s: float, effort: float, seed: int = 0, share: float = 1.0
) -> Proof:
    """Ask for an order shorter than ``beat_s`` and raise the bound, until they meet or the effort is spent.

    Args:
        task: what counts and where stages live.
        work: its forwards and halves of backwards, and the limit.
        bound_s: known before: no order is shorter.
        beat_s: the time of an order that is known.
        effort: deterministic time of the solver in all; one is about a second or two. With 0 it is not asked.
        seed: of what the solver draws.
        share: of what lies between the two that is asked for first.

    Raises:
        ValueError: the solver is to be asked and is not installed.
    """
    whole, best, kind = Integral.of(task, work), None, ""
    low, spent, by_windows = low_of(whole, bound_s), 0.0, _low_by_windows(whole, task)
    if by_windows > low:
        low, kind = by_windows, BY_WINDOWS
    while low < (high := high_of(whole, beat_s)) and effort - spent > LEAST_EFFORT * effort:
        most = low + int(share * (high - 1 - low))
        answer = ask(whole, task, most, (effort - spent) / 2, seed)
        spent += max(answer.effort, LEAST_EFFORT**2 * effort)
        if answer.possible is None:
            if share <= LEAST_SHARE:
                break
            share /= 2
        elif answer.start is None:
            low, kind, share = most + 1, BY_SEARCH, min(1.0, 2 * share)
        else:
            run = _played(task, work, whole, answer.start)
            if run.score(task.objective)[0] >= beat_s * (1 - 1e-12):
                share = 0.0
                break
            best, beat_s = run, run.score(task.objective)[0]
    return Proof(max(bound_s, float(low * whole.time.unit)), kind, best, share)


def low_of(whole: Integral, bound_s: float) -> int:
    """The least time that is not excluded yet."""
    down = int(whole.time.down(bound_s))
    return down + (whole.time.exact and down * whole.time.unit < bound_s * (1 - 1e-9))


def high_of(whole: Integral, beat_s: float) -> int:
    """The least time that is no better."""
    return low_of(whole, beat_s) - whole.loss


def _low_by_windows(whole: Integral, task: Task) -> int:
    """The least time in which each op fits between its earliest start and what must follow it."""
    bounded = (task.objective == "sync") | (whole.head[whole.work.rank] >= 0)
    return int(np.where(bounded, whole.earliest - _latest(whole, task, 0), 0).max())


@dataclass(frozen=True, eq=False)
class Answer:
    """Whether an order is possible, starts of its ops if it is, and what the answer took."""

    possible: bool | None
    start: NDArray[np.int64] | None
    effort: float


def ask(whole: Integral, task: Task, most: int, effort: float, seed: int) -> Answer:
    """Whether some order takes at most so many units; ``None`` if the effort does not suffice to tell.

    Raises:
        ValueError: the solver is not installed.
    """
    solver = cp_sat()
    latest = _latest(whole, task, most)
    if (latest < whole.earliest).any():
        return Answer(False, None, 0.0)
    model = solver.CpModel()
    start = [model.new_int_var(int(a), int(b), "") for a, b in zip(whole.earliest, latest, strict=True)]
    _add_needs(model, whole, start)
    _add_ranks(model, whole, start)
    _add_spans(model, whole, task, start, most)
    return answer(solver, model, start, effort, seed)


def _latest(whole: Integral, task: Task, most: int) -> NDArray[np.int64]:
    """Latest start of each op."""
    head = whole.head[whole.work.rank]
    end = np.full(len(head), most)
    if task.objective == "span":
        end = np.where(head >= 0, most + head, whole.longest)
    latest = end - whole.left - whole.seconds
    leads = np.isin(np.arange(len(head)), _leads(whole))
    return np.asarray(np.where(leads, np.minimum(latest, head), latest))


def _leads(whole: Integral) -> NDArray[np.int64]:
    """The first op of each rank that has the same in all orders."""
    work, (first, _) = whole.work, whole.work.streams
    forwards = first[work.codes[first, 0] == Kind.F]
    found = [forwards[work.rank[forwards] == rank] for rank in np.flatnonzero(whole.head >= 0)]
    return np.array([ops[np.argmin(whole.earliest[ops])] for ops in found], dtype=np.int64)


def _add_needs(model: Any, whole: Integral, start: list[Any]) -> None:
    """No op before what it needs has come, nor before the one before it of its stage and kind is done."""
    work, end = whole.work, [one + int(took) for one, took in zip(start, whole.seconds, strict=True)]
    for op, needed in enumerate(work.needed):
        for maker, lag in zip(needed, whole.lag[op], strict=True):
            if maker >= 0:
                model.add(start[op] >= end[maker] + int(lag))
        if op and work.stream[op] == work.stream[op - 1]:
            model.add(start[op] >= end[op - 1])


def _add_ranks(model: Any, whole: Integral, start: list[Any]) -> None:
    """One op at a time on each rank, and no more bytes than fit."""
    work, intervals = (
        whole.work,
        [model.new_fixed_size_interval_var(one, int(took), "") for one, took in zip(start, whole.seconds, strict=True)],
    )
    for rank in range(len(work.begin) - 1):
        mine = np.flatnonzero(work.rank == rank)
        model.add_no_overlap([intervals[op] for op in mine])
        if whole.takes[mine].sum() > whole.room:
            moves = [op for op in mine if whole.takes[op] or whole.frees[op]]
            times = [start[op] if whole.takes[op] else start[op] + int(whole.seconds[op]) for op in moves]
            change = [int(whole.takes[op] - whole.frees[op]) for op in moves]
            model.add_reservoir_constraint(times, change, -int(whole.takes[mine].sum()), whole.room)


def _add_spans(model: Any, whole: Integral, task: Task, start: list[Any], most: int) -> None:
    """Ranks whose first op depends on the order take no longer than ``most`` from any of them to any last one."""
    if task.objective == "sync":
        return
    work, (first, _) = whole.work, whole.work.streams
    last = np.append(first[1:], len(start)) - 1
    for rank in np.flatnonzero(whole.head < 0):
        for begin in (op for op in first if work.rank[op] == rank and work.codes[op, 0] == Kind.F):
            for end in (op for op in last if work.rank[op] == rank and work.codes[op, 0] != Kind.F):
                model.add(start[end] + int(whole.seconds[end]) <= start[begin] + most)


def answer(solver: Any, model: Any, start: list[Any], effort: float, seed: int, linear: int = 0) -> Answer:
    """What the solver says of a model whose variables are the starts."""
    one = solver.CpSolver()
    one.parameters.num_workers = 1
    one.parameters.random_seed = seed
    one.parameters.max_deterministic_time = effort
    one.parameters.max_time_in_seconds = GUARD_S * effort
    one.parameters.linearization_level = linear
    one.parameters.use_dynamic_precedence_in_disjunctive = True
    status = one.solve(model)
    spent = float(one.response_proto.deterministic_time)
    if status in (solver.OPTIMAL, solver.FEASIBLE):
        return Answer(True, np.array([one.value(op) for op in start]), spent)
    return Answer(False if status == solver.INFEASIBLE else None, None, spent)


def _played(task: Task, work: Work, whole: Integral, start: NDArray[np.int64]) -> Run:
    """The order of whole starts at its true times; ops that take no time go ahead of others."""
    order = in_turn(task, work, whole.seconds > 0, start)
    run = play(work, order)
    return run if work.fits(order) else Run(order, run.start_s, math.inf, math.inf)


def cp_sat() -> Any:
    """The solver's module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise ValueError("proofs need OR-Tools; install it: pip install 'penstock[exact]'") from None
    return cp_model
