"""How short the turns of orders that repeat can be: what is found, beside what a constraint solver shows to be too
short for any. Where the two are close, a bound is to blame for the gap.

    python bench/turns.py [--ranks 16] [--memory 0.375] [--costs 28.3B] [--w-share 1] [--placements v vx2]
                          [--each 1] [--effort 20] [--seed 0]

In every turn each rank runs all its ops of ``each`` micro-batches, some of those that entered turns before. An order
that repeats can be stretched, so what is impossible in a turn is impossible in all shorter ones. Times are whole
multiples of a unit, or rounded down, as in ``search.exact``.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock import Placement
from penstock.cli.ways import placement
from penstock.core.op import Kind
from penstock.cost import pricing
from penstock.engine.bounds import period_bound
from penstock.schedules.task import Task
from penstock.search.exact import GUARD_S, cp_sat
from penstock.search.integral import Integral
from penstock.search.kernel import shortest
from penstock.search.repeat import Kernel, kernel_of, tuned, turn_of

MOVES = 100_000
"""That improve the first order, before the constraint solver is asked."""
CLOSE = 5e-4
"""Share of a turn between what is found and what is impossible that is close enough."""


@dataclass(frozen=True)
class Turns:
    """What is known of one placement: no order repeats in ``none_s`` per micro-batch, one does in ``found_s``."""

    none_s: float
    found_s: float
    effort: float


def turns(task: Task, each: int, effort: float, seed: int) -> Turns:
    """Ask for ever shorter turns, halfway between what is found and what is impossible, or nearer to the latter where
    the solver cannot tell."""
    if task.placement.chains > 1:
        raise ValueError(f"{task.placement.chains} chains: turns are asked for of one; name another placement")
    whole = Integral.of(Task(task.placement, each, task.costs, task.memory_limit, "span"), turn_of(task, each))
    lifespan_s = period_bound(task.placement, task.costs, task.limit).seconds * each
    best = begun(task, each, seed)
    low, high = math.floor(lifespan_s / whole.time.unit), math.ceil(best.turn_s / whole.time.unit)
    spent, share = 0.0, 0.5
    while high - low > max(1, CLOSE * high) and spent < effort and share > 1 / 64:
        most = low + max(1, int(share * (high - low)))
        model, start = asked(whole, task.placement, most)
        starts, possible, took = told(model, start, (effort - spent) / 3, seed)
        spent += took
        if possible is None:
            share /= 2
        elif starts is None:
            low, share = most, min(0.5, 2 * share)
        else:
            kernel = kernel_of(task, each, np.asarray(starts * whole.time.unit), most * whole.time.unit)
            best = min(best, kernel or best, key=lambda one: one.turn_s)
            high, share = most, min(0.5, 2 * share)
    return Turns(low * whole.time.unit / each, best.micro_s, spent)


def begun(task: Task, each: int, seed: int) -> Kernel:
    """An order that repeats, improved op by op."""
    first = shortest(task, each)
    if first is None:
        raise ValueError(f"memory_limit={task.memory_limit}: no order that repeats is known that keeps it; allow more")
    return tuned(first, "span", 1000 * each, MOVES, seed)


def told(model: Any, start: list[Any], effort: float, seed: int) -> tuple[NDArray[np.int64] | None, bool | None, float]:
    """Starts if the solver finds some, whether there are any (``None``: it cannot tell), and what the answer took. Its
    linear relaxation shows most of what is impossible here, through the bytes that a rank holds."""
    one = cp_sat().CpSolver()
    one.parameters.num_workers, one.parameters.random_seed = 1, seed
    one.parameters.max_deterministic_time, one.parameters.max_time_in_seconds = effort, GUARD_S * effort
    status, known = one.solve(model), cp_sat()
    took = float(one.response_proto.deterministic_time)
    if status in (known.OPTIMAL, known.FEASIBLE):
        return np.array([one.value(op) for op in start]), True, took
    return None, False if status == known.INFEASIBLE else None, took


def asked(whole: Integral, place: Placement, turn: int) -> tuple[Any, list[Any]]:
    """The question whether an order repeats in ``turn`` units, and its starts: each is that of its rank's first
    forward, so many turns, and a phase in which the rank has room."""
    model, work = cp_sat().CpModel(), whole.work
    start = [model.new_int_var(0, _latest(whole) * turn, "") for _ in whole.seconds]
    model.add(start[_first(whole, place, np.arange(len(start)))] == 0)
    for op, needed in enumerate(work.needed):
        for maker, lag in zip(needed, whole.lag[op], strict=True):
            if maker >= 0:
                model.add(start[op] >= start[maker] + int(whole.seconds[maker] + lag))
    for ops in np.split(np.arange(len(start)), np.flatnonzero(np.diff(work.stream)) + 1):
        for before, op in pairwise(ops.tolist()):
            model.add(start[op] >= start[before] + int(whole.seconds[before]))
        model.add(start[ops[0]] + turn >= start[ops[-1]] + int(whole.seconds[ops[-1]]))
    for rank in range(place.ranks):
        mine = np.flatnonzero(work.rank == rank)
        _add_rank(model, whole, start, mine, _first(whole, place, mine), turn)
    return model, start


def _latest(whole: Integral) -> int:
    """Turns after which the micro-batches of one are done: none of their bytes stay for more turns than fit."""
    return 2 * (whole.room // int(whole.takes[whole.takes > 0].min())) + 2


def _first(whole: Integral, place: Placement, ops: NDArray[np.int64]) -> int:
    """The first forward of some ops, that of the first of their stages in the chain: none of the others can start
    before it."""
    forwards = ops[whole.work.codes[ops, 0] == Kind.F]
    depth = np.array(place.depth_of)[whole.work.codes[forwards, 1]]
    return int(forwards[np.argmin(depth)])


def _add_rank(model: Any, whole: Integral, start: list[Any], mine: NDArray[np.int64], first: int, turn: int) -> None:
    """One op at a time in every turn, which begins with ``first``, and no more bytes than fit when any begins."""
    took = {op: int(whole.seconds[op]) for op in mine.tolist()}
    phase = {op: 0 if op == first else model.new_int_var(0, turn - took[op], "") for op in took}
    turns_of = {op: 0 if op == first else model.new_int_var(0, _latest(whole), "") for op in took}
    for op in took:
        if op != first:
            model.add(start[op] == start[first] + phase[op] + turn * turns_of[op])
    model.add_no_overlap([model.new_fixed_size_interval_var(phase[op], took[op], "") for op in took])
    behind = {(first, op): 1 for op in took if op != first} | {(op, first): 0 for op in took if op != first}
    for one in took:
        for other in (op for op in took if op > one and first not in (one, op)):
            literal = model.new_bool_var("")
            model.add(phase[other] >= phase[one] + took[one]).only_enforce_if(literal)
            model.add(phase[one] >= phase[other] + took[other]).only_enforce_if(~literal)
            behind[one, other], behind[other, one] = literal, 1 - literal
    takes, frees = whole.takes, whole.frees
    held = sum((int(frees[op]) - int(takes[op])) * turns_of[op] for op in took)
    freed = sum(int(frees[op]) * (start[op] + took[op]) - int(takes[op]) * start[op] for op in took)
    model.add(freed <= whole.room * turn)
    for op in took:
        if takes[op]:
            others = [(behind[op, one], int(frees[one] - takes[one])) for one in took if one != op]
            model.add(held + sum(change * later for later, change in others) <= whole.room)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=16)
    parser.add_argument("--memory", type=float, default=0.375)
    parser.add_argument("--costs", default="28.3B")
    parser.add_argument("--w-share", type=float, default=1.0)
    parser.add_argument("--placements", nargs="+", default=["v"])
    parser.add_argument("--each", type=int, nargs="+", default=[1])
    parser.add_argument("--effort", type=float, default=20.0, help="deterministic time of the solver for each line")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'placement':10}{'each':>5}{'bound':>8}{'none in':>9}{'found':>8}{'effort':>8}")
    for name in given.placements:
        place = placement(name, given.ranks)
        costs = pricing(given.costs, given.w_share).on(place)
        task = Task(place, 4 * given.ranks, costs, given.memory * given.ranks, "span")
        lifespan_s = period_bound(place, costs, task.limit).seconds
        for each in given.each:
            one = turns(task, each, given.effort, given.seed)
            figures = f"{lifespan_s:8.2f}{one.none_s:9.3f}{one.found_s:8.3f}{one.effort:8.1f}"
            print(f"{name:10}{each:5}{figures}", flush=True)


if __name__ == "__main__":
    main()
