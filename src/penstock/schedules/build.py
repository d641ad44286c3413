"""From a name or a user's own function to a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Op
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.words import nearest, suggest
from penstock.schedules.phases import expand
from penstock.schedules.table import SCHEDULES, LaneFunction, Schedule, knobs_of, lengths_of, own_options, slices_of
from penstock.schedules.task import Objective, Task, reads_costs
from penstock.schedules.user import is_reference, load


def build(
    schedule: str | LaneFunction,
    ranks: int,
    micros: int,
    chunks: int = 1,
    placement: Placement | None = None,
    costs: Costs | Callable[[Placement], Costs] = Costs.uniform,
    memory_limit: float | None = None,
    objective: Objective = "sync",
    **options: int,
) -> Plan:
    """Lanes of every rank.

    Args:
        schedule: a name of the table, a function ``lane(r, p, m, v)`` of one rank's lane or ``lanes(task)`` of all
            lanes (see ``Task``), or ``FILE.py:NAME`` of such a function.
        ranks, micros, chunks: sizes p, m and v.
        placement: where stages live; default the schedule's own, for a function in a file what ``placement(p, v)``
            beside it gives, else a loop. Chains share the micro-batches evenly, in order.
        costs: what schedules that read costs are made for, of the placement or as a function of it; default every
            rank takes 1 for each of F, I and W.
        memory_limit: bytes of activations that any rank may hold, for schedules that read costs; default their own.
        objective: for schedules that read costs: ``sync`` the makespan, ``span`` the longest time of one rank.
        options: knobs that the schedule has, for example ``group`` of ``interleaved``. A knob ``slices`` cuts each
            micro-batch into so many slices along its sequences: the plan has micros x slices numbers. Schedules with
            slices also take ``attention``, per cent of a sequence's time that it takes: slices are then cut so that
            each takes as long, the later the shorter.

    Raises:
        ValueError: unknown name or option, or sizes the schedule cannot have; the message gives the nearest it can.

    Example:
        >>> plan = build("1f1b", ranks=2, micros=2)
        >>> print(plan.lanes[1])
        1F0 1B0 1F1 1B1
        >>> print(build(lambda r, p, m, v: [(m, "F B")], ranks=1, micros=2).lanes[0])
        0F0 0B0 0F1 0B1
    """
    for size, value in (("ranks", ranks), ("micros", micros), ("chunks", chunks)):
        if value < 1:
            raise ValueError(f"{size}={value}; it must be at least 1")
    name, lane, place = _look_up(schedule, ranks, micros, chunks, options)
    placement = placement or place(ranks, chunks)
    slices, lengths, options = slices_of(lane, options), lengths_of(lane, options), own_options(lane, options)
    micros *= slices
    begins = [chain * micros // placement.chains for chain in placement.chain_of]
    if reads_costs(lane):
        priced = (costs if isinstance(costs, Costs) else costs(placement)).sliced(slices)
        rows = list(lane(Task(placement, micros, priced, memory_limit, objective), **options))
        if len(rows) != ranks:
            raise ValueError(f"{name} gave {len(rows)} lanes for {ranks} ranks; give one per rank")
    else:
        rows = [lane(r, ranks, micros // slices, chunks, **options) for r in range(ranks)]
    on = map(placement.on, range(ranks))
    lanes = (_lane(ops, mine, [begins[s] for s in mine]) for ops, mine in zip(rows, on, strict=True))
    weights = SCHEDULES[name].weights if name in SCHEDULES else "synced"
    return Plan(name, placement, micros, tuple(lanes), slices=slices, weights=weights, slice_lengths=lengths)


def check_sizes(schedule: str, ranks: int, micros: int, chunks: int = 1) -> None:
    """Refuse what ``build`` would refuse of a schedule of the table.

    Raises:
        ValueError: unknown name, or sizes the schedule cannot have; the message gives the nearest it can.
    """
    _look_up(schedule, ranks, micros, chunks, {})


def placement_of(schedule: str, ranks: int, chunks: int) -> Placement:
    """Where the stages of a schedule live: one of the table, or ``FILE.py:NAME``.

    Raises:
        ValueError: no such schedule, or the file's ``placement`` gives none for these sizes.
    """
    place = load(schedule)[1] if is_reference(schedule) else _named(schedule).placement
    return place(ranks, chunks)


def _named(schedule: str) -> Schedule:
    if schedule not in SCHEDULES:
        alike = nearest(schedule, SCHEDULES)
        meant = f"did you mean {alike}?" if alike else "choose one, or FILE.py:FUNCTION"
        raise ValueError(f"unknown schedule {schedule!r}; {meant} ({', '.join(SCHEDULES)})")
    return SCHEDULES[schedule]


def _look_up(
    schedule: str | LaneFunction, p: int, m: int, v: int, options: dict[str, int]
) -> tuple[str, LaneFunction, Any]:
    place: Callable[[int, int], Placement] = Placement.loop
    if not callable(schedule) and is_reference(schedule):
        schedule, place = load(schedule)
    if callable(schedule):
        name = getattr(schedule, "__name__", "schedule").replace("_", "-")
        _check_options(name, knobs_of(schedule) if options else (), options)
        return name, schedule, place
    found = _named(schedule)
    if v > 1 and not found.chunks:
        others = ", ".join(name for name, one in SCHEDULES.items() if one.chunks)
        raise ValueError(f"{schedule} has one chunk per rank, not chunks={v}; use chunks=1 or {others}")
    _check_options(schedule, knobs_of(found.lane), options)
    reason = found.valid(p, m, v, **own_options(found.lane, options))
    if reason:
        raise ValueError(f"{schedule}: {reason}")
    return schedule, found.lane, found.placement


def _check_options(schedule: str, known: tuple[str, ...], options: dict[str, int]) -> None:
    for option in options:
        if option not in known:
            raise ValueError(f"{schedule} has no option {option!r}; {suggest(option, known)}")


def _lane(ops: Any, chunks: tuple[int, ...], begins: list[int]) -> Lane:
    if isinstance(ops, np.ndarray | Lane):
        return Lane.of(ops)
    ops = list(ops)
    if ops and isinstance(ops[0], str):
        return Lane.parse(" ".join(ops))
    if ops and isinstance(ops[0], tuple) and not isinstance(ops[0], Op) and isinstance(ops[0][1], str):
        return expand(ops, chunks, begins)
    return Lane.of(ops)
