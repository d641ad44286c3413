"""Least squares that bend to a few wild figures: Levenberg and Marquardt's, within bounds, drawn to usual values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NOISE = 0.06
"""Of a measured time, in logarithms: errors up to it count by their square, beyond it less and less more."""
FARTHEST = 0.7
"""That a turn may move a logarithm."""
TRIES = 8
"""Ever shorter steps of a turn, before it is over."""


@dataclass(frozen=True, eq=False)
class Target:
    """What a sum of squares is made of, beside the errors themselves.

    Args:
        weight: of each error, shape (rows,).
        usual, give: to where each variable is drawn, and how far it may go, one standard deviation, shape (variables,).
        low, high: bounds of each.
        kin: of each, the variable that it is drawn to in place of what is usual; -1: none. Empty: none at all.
    """

    weight: Floats
    usual: Floats
    give: Floats
    low: Floats
    high: Floats
    kin: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @cached_property
    def pulled(self) -> Floats:
        """What each variable is less that which it is drawn to, as a matrix: of itself, and of its kin."""
        found = np.eye(len(self.usual))
        for variable, other in enumerate(self.kin):
            if other >= 0:
                found[variable, other] = -1.0
        return found

    def pulls(self, x: Floats) -> Floats:
        """Return how far each variable is from that, in its standard deviations."""
        usual = self.usual if not len(self.kin) else np.where(self.kin >= 0, 0.0, self.usual)
        return np.asarray((self.pulled @ x - usual) / self.give)

    def cost(self, x: Floats, errors: Floats) -> float:
        """Return sum w 2 (sqrt(1 + (e / NOISE)^2) - 1) + sum ((x - usual) / give)^2."""
        bent = 2 * (np.sqrt(1 + (errors / NOISE) ** 2) - 1)
        return float(self.weight @ bent + (self.pulls(x) ** 2).sum())

    def slope(self, x: Floats, errors: Floats, jacobian: Floats) -> tuple[Floats, Floats]:
        """Return half the gradient of the cost, and half the second ones, as Gauss and Newton have it."""
        firm = self.weight / np.sqrt(1 + (errors / NOISE) ** 2) / NOISE**2
        drawn = self.pulled / self.give[:, None]
        second = (jacobian.T * firm) @ jacobian + drawn.T @ drawn
        return jacobian.T @ (firm * errors) + drawn.T @ self.pulls(x), second

    def step(self, x: Floats, slope: tuple[Floats, Floats], damping: float) -> Floats:
        """Return where a damped step leads; variables that press against a bound stay there."""
        first, second = slope
        free = ~(((x <= self.low) & (first > 0)) | ((x >= self.high) & (first < 0)))
        found = x.copy()
        if free.any():
            inner = second[np.ix_(free, free)]
            inner = inner + damping * np.diag(np.diag(inner))
            found[free] -= np.clip(np.linalg.solve(inner, first[free]), -FARTHEST, FARTHEST)
        return np.clip(found, self.low, self.high)

    def deviations(self, x: Floats, errors: Floats, jacobian: Floats) -> Floats:
        """Return the standard error of each variable in logarithms, by the matrix of second derivatives."""
        _, second = self.slope(x, errors, jacobian)
        return np.asarray(np.sqrt(np.diag(np.linalg.inv(second))))


@dataclass(frozen=True, eq=False)
class Found:
    """Where a fit ended: variables, errors there, and their derivatives, shape (rows, variables)."""

    x: Floats
    errors: Floats
    jacobian: Floats


def least(
    target: Target,
    start: Floats,
    errors_at: Callable[[Floats], Floats],
    jacobian_at: Callable[[Floats, Floats], Floats],
    turns: int = 12,
    told: Callable[[int, float], None] = lambda turn, cost: None,
) -> Found:
    """Return where the cost is least.

    Args:
        target: weights, bounds and what is usual.
        start: variables to begin with, shape (variables,).
        errors_at: errors as a function of the variables.
        jacobian_at: their derivatives as a function of the variables and the errors there.
        turns: at most so many; fewer if one gains less than a thousandth.
        told: called with each turn and its cost.
    """
    x = np.clip(start, target.low, target.high)
    errors, damping = errors_at(x), 1e-2
    cost = target.cost(x, errors)
    for turn in range(turns):
        slope, before = target.slope(x, errors, jacobian_at(x, errors)), cost
        for _ in range(TRIES):
            tried = target.step(x, slope, damping)
            there = errors_at(tried)
            if (then := target.cost(tried, there)) < cost:
                x, errors, cost, damping = tried, there, then, damping / 3
                break
            damping *= 4
        told(turn, cost)
        if before - cost < 1e-3 * before:
            break
    return Found(x, errors, jacobian_at(x, errors))


DAMPINGS = (1e-6, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Of ever shorter steps; the last ones go down by any derivatives that are right where the fit ended."""


def again(target: Target, found: Found, errors_at: Callable[[Floats], Floats], turns: int = 5) -> Floats:
    """Return where the cost of a target much like the one that was fitted is least, with the derivatives as they were
    there: a chord method, at the price of a few evaluations for each of ``turns`` and no derivatives."""
    x, errors = found.x, found.errors
    for _ in range(turns):
        for damping in DAMPINGS:
            tried = target.step(x, target.slope(x, errors, found.jacobian), damping)
            there = errors_at(tried)
            if target.cost(tried, there) < target.cost(x, errors):
                break
        else:
            return x
        x, errors = tried, there
    return x
