"""Switches that a search turns: those that take memory, or forbid something, for messages that they hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES, axis_of
from penstock.cost.stack import Stack
from penstock.cost.switches import check_switches_of, on
from penstock.predict import Grid
from penstock.predict.grid import blocked
from penstock.search.wishes import Wishes

if TYPE_CHECKING:
    from penstock.search.space import Space

Columns = Mapping[str, NDArray[Any]]
Words = Mapping[str, tuple[Any, ...]]
TURNED = ("tp_overlap", "ep_overlap")
"""Fields that a search turns. With the others on no step takes longer, or nobody measured which way is faster."""


def check_fixed(stack: Stack, base: Setup, fixed: Wishes) -> None:
    """Do nothing where a framework has the switches that somebody fixes.

    Raises:
        ValueError: it lacks one.
    """
    for name in SWITCHES:
        for value in fixed.get(name, ()):
            own: dict[str, Any] = dict.fromkeys(SWITCHES, "own")
            check_switches_of(stack, replace(base, **own | {name: value}))


def tried(space: Space) -> dict[str, list[str]]:
    """Return the values of ``TURNED`` that strategies may have where their axis has several ranks: where a switch is
    off unless told otherwise, both; where it is on, that alone, since off no step is shorter."""
    stack, found = space.stack, {}
    for name in TURNED:
        axis = axis_of(name)
        free = ("own", "on") if axis in stack.switches and axis not in stack.hides else ("own",)
        found[name] = space.values(name, free)
    return found


def choices(space: Space) -> dict[str, tuple[str, ...]]:
    """Return what rows of a grid may have, first what those with one rank of the axis have."""
    return {name: tuple(dict.fromkeys(("own", *values))) for name, values in tried(space).items()}


def has_sense(space: Space, columns: Columns, words: Words) -> NDArray[np.bool_]:
    """Return which rows have switches that mean something, can be turned so, and are on where nobody says otherwise:
    so no step is longer. What does not fit then has siblings."""
    kept = ~blocked(Grid(space.base, columns, words))
    for name, values in tried(space).items():
        wanted = np.array([value in values for value in words[name]], dtype=bool)
        several, place = columns[axis_of(name)] > 1, columns[name]
        kept &= np.where(several, wanted[place], place == 0)
        if space.free(name) and "on" in words[name]:
            turned = np.full_like(place, words[name].index("on"))
            kept &= ~several | (place == turned) | blocked(Grid(space.base, dict(columns) | {name: turned}, words))
    return kept


def siblings(space: Space, grid: Grid, needed_bytes: NDArray[np.float64], room: float) -> Grid | None:
    """Return strategies that need too much, with switches off that nobody fixed; ``None`` where there are none.

    One switch takes the framework's buffers, the other one more micro-batch of a stage than one or more that are there:
    half of all at most. Scores are no less than what strategies need but by rounding, so that those that fit have none.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    free = [name for name in TURNED if space.free(name) and "on" in grid.choices[name]]
    own_bytes = grid.micro * grid.seq / grid.cp * space.model.hidden * 4 * space.stack.tp_buffers
    saves = {"tp_overlap": own_bytes, "ep_overlap": np.where(np.isfinite(needed_bytes), needed_bytes / 2, 0.0)}
    for off in chain.from_iterable(combinations(free, count) for count in range(1, len(free) + 1)):
        rows = (needed_bytes > 0.99 * room) & (needed_bytes <= room + sum(saves[name] for name in off))
        for name in off:
            rows &= grid.chosen(name, "on")
        changed = {name: grid.columns[name][rows] for name in grid.columns}
        parts.append(changed | {name: np.zeros(rows.sum(), dtype=np.int64) for name in off})
    if not any(len(part["tp"]) for part in parts):
        return None
    return replace(grid, columns={name: np.concatenate([part[name] for part in parts]) for name in grid.columns})


def off(space: Space) -> Space:
    """Return the part of a space in which switches that nobody fixed are as the framework has them, which takes least
    memory."""
    return replace(space, usual=space.usual | dict.fromkeys(TURNED, ("own",)))


def flipped(space: Space, setup: Setup) -> list[dict[str, str]]:
    """Return the switches of a setup, each turned the other way, that mean something in it."""
    axes = [axis for axis in space.stack.switches if getattr(setup, axis) > 1]
    axes = [axis for axis in axes if axis != "cp" or setup.cp_turned == 1]
    names = [name for name in SWITCHES if axis_of(name) in axes]
    return [{name: "off" if on(space.stack, axis_of(name), getattr(setup, name)) else "on"} for name in names]
