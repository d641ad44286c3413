"""Constants of frameworks and shares of rates that last, as measured runs have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.calibrate.dials import SUSTAINED, Dial, turned
from penstock.calibrate.least import Found, Target, again, least
from penstock.calibrate.published import Run
from penstock.core.side_by_side import side_by_side
from penstock.cost.lasting import Shares, sustained_key
from penstock.cost.stack import Stack
from penstock.predict.step import Step

Floats = NDArray[np.float64]
Which = NDArray[np.int64]
NUDGE = 3e-3
"""Of a logarithm, for a derivative."""


def step_s(run: Run, stack: Stack, shares: Shares = None) -> float:
    """Return the predicted seconds of a run with this framework.

    Raises:
        ValueError: it cannot be predicted.
    """
    if run.model is None or run.cluster is None or run.setup is None:
        raise ValueError(run.why_not)
    return Step(run.model, run.cluster, run.setup, stack, shares).seconds_alone()


APART = ("DUPLICATE", "MAMBA")
"""Flags of rows that are there twice, or of models that are no mere transformers."""


def unusable(run: Run) -> str:
    """Return why a run cannot be fitted to, nothing if it can."""
    if run.why_not or run.stack is None:
        return run.why_not
    if run.row.get("strict_time") == "0":
        return "strict_time is 0"
    if any(word in run.row.get("flags", "") for word in APART):
        return f"its flags are {run.row['flags']}"
    try:
        if not run.measured_s:
            return "neither time nor tokens per second were measured"
        step_s(run, run.stack)
    except ValueError as error:
        return str(error)
    return ""


@dataclass(frozen=True, eq=False)
class Problem:
    """Measured runs, the dials that may turn, and all frameworks with the dials where they stand.

    ``weight``: of each run, shape (runs,).
    """

    runs: Sequence[Run]
    dials: Sequence[Dial]
    stacks: Mapping[str, Stack]
    weight: Floats

    @cached_property
    def measured_s(self) -> Floats:
        """Of each run."""
        return np.array([run.measured_s for run in self.runs])

    @cached_property
    def target(self) -> Target:
        """Weights and bounds, of the logarithms of the dials."""
        logs = np.log([[dial.usual, dial.low, dial.high] for dial in self.dials]).T.reshape(3, -1)
        give = np.array([dial.give for dial in self.dials])
        at = {(dial.owner, dial.name): index for index, dial in enumerate(self.dials)}
        kin = np.array([at.get((dial.kin, dial.name), -1) for dial in self.dials], np.int64)
        return Target(self.weight, logs[0], give, logs[1], logs[2], kin)

    @property
    def start(self) -> Floats:
        """The logarithms where the dials stand, within their ranges."""
        values = np.log([dial.value for dial in self.dials])
        return np.clip(values, self.target.low, self.target.high)

    @cached_property
    def touched(self) -> list[Which]:
        """The rows that each dial moves."""
        keys = [_shares_of(run) for run in self.runs]
        names = [_framework(run) for run in self.runs]
        return [
            np.array([row for row, name in enumerate(names) if _moves(dial, name, keys[row])], np.int64)
            for dial in self.dials
        ]

    def errors(self, x: Floats, rows: Which | None = None) -> Floats:
        """Return the logarithms of predicted over measured seconds, of some rows, in this process."""
        chosen = np.arange(len(self.runs)) if rows is None else rows
        stacks, shares = turned(self.dials, np.exp(x), self.stacks)
        mine = [self.runs[row] for row in chosen]
        found = [step_s(run, replace(stacks[_framework(run)], **run.ways), shares) for run in mine]
        return np.asarray(np.log(np.array(found) / self.measured_s[chosen]))

    def all_errors(self, x: Floats) -> Floats:
        """Return those of all rows, on all cores."""
        cut = [np.arange(first, len(self.runs), CUTS) for first in range(CUTS)]
        found = np.empty(len(self.runs))
        for rows, part in zip(cut, side_by_side(lambda rows: self.errors(x, rows), cut), strict=True):
            found[rows] = part
        return found

    def jacobian(self, x: Floats, errors: Floats) -> Floats:
        """Return the derivatives of the errors, shape (runs, dials); each dial's by the rows that it moves."""

        def column(dial: int) -> Floats:
            rows, there = self.touched[dial], x.copy()
            there[dial] -= NUDGE
            return (errors[rows] - self.errors(there, rows)) / NUDGE

        found = np.zeros((len(self.runs), len(self.dials)))
        order = np.argsort([-len(rows) for rows in self.touched])
        for dial, part in zip(order, side_by_side(column, order.tolist()), strict=True):
            found[self.touched[dial], dial] = part
        return found

    def solved(self, turns: int = 12, told: Callable[[int, float], None] = lambda turn, cost: None) -> Found:
        """Return the dials at which the runs are met best."""
        return least(self.target, self.start, self.all_errors, self.jacobian, turns, told)

    def without(self, found: Found, held: Which) -> Floats:
        """Return where the dials would stand had these rows not been there; those that do not move them stay."""
        weight, free = self.weight.copy(), np.array([bool(np.isin(rows, held).any()) for rows in self.touched])
        weight[held] = 0.0
        moved = np.concatenate(
            [np.empty(0, np.int64), *(rows for rows, one in zip(self.touched, free, strict=True) if one)]
        )
        rows = np.setdiff1d(moved, held)
        low, high = (np.where(free, bound, found.x) for bound in (self.target.low, self.target.high))

        def errors_at(x: Floats) -> Floats:
            errors = found.errors.copy()
            errors[rows] = self.errors(x, rows)
            return errors

        return again(replace(self.target, weight=weight, low=low, high=high), found, errors_at)

    def deviations(self, found: Found) -> Floats:
        """Return the standard error of each dial, in logarithms."""
        return self.target.deviations(found.x, found.errors, found.jacobian)

    def only(self, which: Sequence[int]) -> Problem:
        """Return the problem with some of its dials; the others stay where they stand."""
        return replace(self, dials=[self.dials[dial] for dial in which])

    def settled(self) -> Problem:
        """Return the problem with those dials only of which the runs say enough, by the derivatives where they stand:
        one after the other goes of which they say least, until they say ``SAID`` of each that is left."""
        x = self.start
        errors = self.all_errors(x)
        jacobian, kept = self.jacobian(x, errors), [*range(len(x))]
        while kept:
            less = self.only(kept)
            shares = less.said(less.target.deviations(x[kept], errors, jacobian[:, kept]))
            if shares.min() >= SAID:
                break
            kept.pop(int(shares.argmin()))
        return self.only(kept)

    def said(self, deviations: Floats) -> Floats:
        """Return how much of what is known of each dial the runs say: 1 less its variance over that of ``give``."""
        return np.maximum(0.0, 1 - (deviations / self.target.give) ** 2)


SAID = 0.25
"""The least that runs must say of a constant that is fitted to them."""
CUTS = 8
"""Parts into which rows are cut, so that all cores are done at about the same time."""


def _framework(run: Run) -> str:
    return run.stack.name if run.stack else ""


def _shares_of(run: Run) -> frozenset[str]:
    """Keys of the shares that count for a run."""
    if run.cluster is None or run.setup is None:
        return frozenset()
    device, precision = run.cluster.device, run.setup.precision
    names = {"bf16", "attention", "memory", "bf16" if precision == "fp16" else precision}
    return frozenset(sustained_key(device.architecture, name) for name in names)


def _moves(dial: Dial, framework: str, keys: frozenset[str]) -> bool:
    return dial.name in keys if dial.owner == SUSTAINED else framework in dial.takers
