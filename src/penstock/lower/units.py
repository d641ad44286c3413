"""Lanes in pieces that a pass may move: each op that computes with what is posted before it."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.op import WORK, Kind
from penstock.core.plan import Plan


@dataclass(frozen=True, eq=False)
class Unit:
    """Ops of a lane that stay together: one that computes, or a block of two, and what is posted before it."""

    ids: tuple[int, ...]
    kind: Kind
    """Of the first that computes."""
    micro: int
    joins: bool = False
    """Whether it is the backward of a block, to run as one with the forward before it."""
    block: bool = False
    """Whether it is a block: its last two ops are one."""


def units_of(plan: Plan, rank: int) -> list[Unit]:
    """The lane of a rank up to its last op that computes."""
    a, b = int(plan.first[rank]), int(plan.first[rank + 1])
    fused = [False, *plan.fused[a:b].tolist()]
    units, begun = [], a
    for row, (kind, _, micro) in enumerate(plan.ops[a:b].tolist(), a):
        if kind in WORK:
            units.append(Unit(tuple(range(begun, row + 1)), Kind(kind), micro, joins=fused[row - a]))
            begun = row + 1
    return units


def advanced(units: list[Unit], count: int) -> list[Unit]:
    """The same units, each that is no forward behind ``count`` forwards more."""
    forwards = [unit for unit in units if unit.kind == Kind.F]
    lane: list[Unit] = []
    seen = given = 0
    for unit in units:
        if unit.kind == Kind.F:
            seen += 1
            continue
        lane += forwards[given : seen + count]
        given = max(given, min(seen + count, len(forwards)))
        lane.append(unit)
    return lane + forwards[given:]


def joined(units: list[Unit]) -> list[Unit]:
    """The units with blocks made of forwards and the backwards behind them that join one, of different micro-batches.

    Example:
        >>> one, two, three = Unit((0,), Kind.F, 0), Unit((1,), Kind.F, 1), Unit((2,), Kind.B, 0, joins=True)
        >>> [unit.ids for unit in joined([one, two, three])]
        [(0,), (1, 2)]
    """
    found: list[Unit] = []
    for unit in units:
        before = found[-1] if found else unit
        if unit.joins and before.kind == Kind.F and not before.block and before.micro != unit.micro:
            found[-1] = Unit(before.ids + unit.ids, Kind.F, before.micro, block=True)
        else:
            found.append(unit)
    return found
