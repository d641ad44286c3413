"""Orders that repeat, by a constraint solver: faster ones, and what none of them beats.

In every turn each rank runs all its ops of ``each`` micro-batches of every chain, some of those that entered turns
before. What counts is the phase of an op, its time since its rank's turn began, and how many turns later than there it
runs. An order that repeats can be stretched, so what is impossible in a turn is impossible in all shorter ones.

As in ``search.exact``, times are whole multiples of a unit or rounded down, and micro-batches of a chain, which are
alike, run in their order without loss. A turn may take a fraction of a unit, as its ring of waits may span several
turns; units are made small, so that one more makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.schedules.task import Task
from penstock.search.exact import LEAST_SHARE, Answer, answer, cp_sat, high_of, low_of
from penstock.search.integral import Integral
from penstock.search.repeat import Kernel, kernel_of, turn_of

LINEAR = 1, 2
"""Levels of the solver's linear relaxation, in turns. It shows most of what is impossible here, through the bytes that
a rank holds."""
TRIES = 4
"""Of a question, with other seeds, before it is given up: what the solver takes depends on them more than on the
question."""
PIECES = 4
"""Tries that the effort lasts for at least."""
UNITS = 2**32
"""Of a turn, about."""
LARGEST = 2**62
"""Sum that the constraint solver takes; what would be larger is left out, and follows from what else is said."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What is known of the orders on one placement that repeat every so many micro-batches.

    Args:
        none_s: none takes less from one micro-batch to the next.
        kernel: one that takes less than the one to beat; ``None`` if none was found.
        share: of what lies between the two that should be asked for next; 0 if asking is of no more use.
        asked: how often it was asked.
        effort: deterministic time that the last asking took.
    """

    none_s: float
    kernel: Kernel | None = None
    share: float = 1.0
    asked: int = 0
    effort: float = 0.0


def shown(task: Task, each: int, known: Shown, beat_s: float, effort: float, seed: int = 0) -> Shown:
    """Ask for an order that repeats in less than ``beat_s`` and show what is impossible, until they meet or the effort
    is spent.

    Args:
        task: what limits orders and where stages live.
        each: micro-batches of every chain per turn.
        known: before.
        beat_s: what a known order takes from one micro-batch to the next.
        effort: deterministic time of the solver in all; one is about some seconds.
        seed: of what the solver draws.

    Raises:
        ValueError: the solver is not installed.
    """
    micros, share, spent, best, tries, failed = each * task.placement.chains, known.share, 0.0, None, 0, 0
    none_s, whole = known.none_s, _scaled(Integral.of(task, turn_of(task, each)), beat_s * micros)
    low = low_of(whole, none_s * micros)
    while low < (high := high_of(whole, beat_s * micros)) and effort - spent > effort / PIECES:
        turn = low + int(share * (high - 1 - low))
        told = ask(whole, task.placement, turn, effort / PIECES, seed + tries, LINEAR[tries % len(LINEAR)])
        spent += max(told.effort, effort / PIECES**2)
        tries, failed = tries + 1, failed + 1 if told.possible is None else 0
        if told.possible is None:
            if failed == TRIES:
                share, failed = max(share / 2, LEAST_SHARE), 0
        elif told.start is None:
            low, share = turn + 1, min(1.0, 2 * share)
            none_s = max(none_s, float(turn * whole.time.unit) / micros)
        else:
            kernel = kernel_of(task, each, np.asarray(told.start * whole.time.unit), turn * whole.time.unit)
            if kernel is None or kernel.micro_s >= beat_s * (1 - 1e-12):
                share = 0.0
                break
            best, beat_s = kernel, kernel.micro_s
    return Shown(none_s, best, share, known.asked + 1, spent)


def _scaled(whole: Integral, turn_s: float) -> Integral:
    """The same with about ``UNITS`` in a turn: in smaller ones, or rounded down again where times were."""
    units = turn_s / whole.time.unit
    times, parts = (max(1, int(UNITS / units)), 1) if whole.time.exact else (1, max(1, int(units / UNITS)))
    seconds, lag = whole.seconds * times // parts, whole.lag * times // parts
    time = replace(whole.time, unit=whole.time.unit * parts / times)
    return replace(whole, time=time, seconds=seconds, lag=lag, longest=whole.longest * times // parts)


def ask(whole: Integral, place: Placement, turn: int, effort: float, seed: int, linear: int) -> Answer:
    """Whether some order repeats in so many units; ``None`` if the effort does not suffice to tell.

    Raises:
        ValueError: the solver is not installed.
    """
    solver = cp_sat()
    if turn < np.bincount(whole.work.rank, whole.seconds).max():
        return Answer(False, None, 0.0)
    model, work, most = solver.CpModel(), whole.work, _most_turns(whole, place, turn)
    start = [model.new_int_var(0, most * turn, "") for _ in whole.seconds]
    model.add(start[_first(whole, place, np.arange(len(start)))] == 0)
    for op, needed in enumerate(work.needed):
        for maker, lag in zip(needed, whole.lag[op], strict=True):
            if maker >= 0:
                model.add(start[op] >= start[maker] + int(whole.seconds[maker] + lag))
    for ops in np.split(np.arange(len(start)), np.flatnonzero(np.diff(work.stream)) + 1):
        for before, op in pairwise(ops.tolist()):
            model.add(start[op] >= start[before] + int(whole.seconds[before]))
        model.add(start[ops[0]] + turn >= start[ops[-1]] + int(whole.seconds[ops[-1]]))
    _add_waits(model, whole, start, turn)
    for rank in range(place.ranks):
        mine = np.flatnonzero(work.rank == rank)
        _add_rank(model, whole, start, mine, _first(whole, place, mine), turn, most)
    return answer(solver, model, start, effort, seed, linear)


def _add_waits(model: Any, whole: Integral, start: list[Any], turn: int) -> None:
    """No gradient of weights waits for longer than needed: one that could run a turn before does, and holds less."""
    work = whole.work
    micros = int(work.codes[:, 2].max()) + 1
    for op in np.flatnonzero(work.codes[:, 0] == Kind.W):
        for maker in (maker for maker in work.needed[op] if maker >= 0 and work.codes[maker, 0] == Kind.I):
            model.add(start[op] < start[maker] + int(whole.seconds[maker]) + min(micros, 2) * turn)


def _first(whole: Integral, place: Placement, ops: NDArray[np.int64]) -> int:
    """The first forward of some ops, that of the first of their stages in a chain: no others of this chain can start
    before it."""
    forwards = ops[whole.work.codes[ops, 0] == Kind.F]
    depth = np.array(place.depth_of)[whole.work.codes[forwards, 1]]
    return int(forwards[np.argmin(depth)])


def _most_turns(whole: Integral, place: Placement, turn: int) -> int:
    """Turns after which the micro-batches of one are done in some order, if there is any: chains need not begin a turn
    apart, nor need an op wait for a whole turn, as all behind it can be done in the turn before."""
    return 4 * place.stages + 2 + whole.longest // turn


def _add_rank(
    model: Any, whole: Integral, start: list[Any], mine: NDArray[np.int64], first: int, turn: int, most: int
) -> None:
    """One op at a time in every turn, which begins with ``first``, and no more bytes than fit when any begins."""
    took = {op: int(whole.seconds[op]) for op in mine.tolist()}
    phase = {op: 0 if op == first else model.new_int_var(0, turn - took[op], "") for op in took}
    later = {op: 0 if op == first else model.new_int_var(-most, most, "") for op in took}
    for op in took:
        if op != first:
            model.add(start[op] == start[first] + phase[op] + turn * later[op])
    model.add_no_overlap([model.new_fixed_size_interval_var(phase[op], took[op], "") for op in took])
    _add_bytes(model, whole, start, first, phase, later, turn, most)


def _add_bytes(
    model: Any,
    whole: Integral,
    start: list[Any],
    first: int,
    phase: dict[int, Any],
    later: dict[int, Any],
    turn: int,
    most: int,
) -> None:
    """No more bytes on a rank than fit when any of its ops begins, nor in the mean of a turn."""
    takes, frees, seconds = whole.takes, whole.frees, whole.seconds
    if not takes[[*phase]].any():
        return
    behind = {(first, op): 1 for op in phase if op != first} | {(op, first): 0 for op in phase if op != first}
    for one, other in combinations((op for op in phase if op != first), 2):
        literal = model.new_bool_var("")
        model.add(phase[other] >= phase[one] + int(seconds[one])).only_enforce_if(literal)
        model.add(phase[one] >= phase[other] + int(seconds[other])).only_enforce_if(~literal)
        behind[one, other], behind[other, one] = literal, 1 - literal
    held = sum((int(frees[op]) - int(takes[op])) * later[op] for op in phase)
    ends, begins = ([op for op in phase if moves[op]] for moves in (frees, takes))
    freed = sum(int(frees[op]) * (start[op] + int(seconds[op])) for op in ends)
    if int(takes[ends + begins].sum() + frees[ends + begins].sum()) * most * turn < LARGEST:
        model.add(freed - sum(int(takes[op]) * start[op] for op in begins) <= whole.room * turn)
    for op in begins:
        undone = [(behind[op, one], int(frees[one] - takes[one])) for one in phase if one != op]
        model.add(held + sum(change * literal for literal, change in undone) <= whole.room)
