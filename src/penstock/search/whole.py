"""Times and bytes as whole numbers, for solvers that know no others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_DENOMINATOR = 1_000_000
COARSE, FINE = 2.0**-30, 2.0**-42
"""The least unit that all values may be multiples of, and the unit where they have none: shares of the whole."""
DUST = 1e-3
"""Of a unit: what sums of floats may be off where the unit is coarse."""
STRAY = 2
"""Units: what they may be off where it is fine."""


@dataclass(frozen=True)
class Scale:
    """A unit.

    Args:
        unit: in the unit of the values.
        exact: whether the values are multiples of it; else they count as the multiple below.
    """

    unit: float
    exact: bool

    def down(self, values: Any) -> NDArray[np.int64]:
        """The largest multiples that do not exceed values, or sums of values, of any shape."""
        found = np.floor(np.asarray(values) / self.unit + DUST * self.exact)
        return np.asarray(found if self.exact else np.maximum(0, found - STRAY), dtype=np.int64)


def scale_of(values: Iterable[float], most: float) -> Scale:
    """The largest unit that all values are multiples of; one far below ``most`` if there is none.

    Args:
        values: not negative.
        most: the largest sum of values that matters.

    Example:
        >>> scale_of([1.5, 0.25, 1.0], 100.0)
        Scale(unit=0.25, exact=True)
        >>> scale_of([1.0, 3.14159265358979], 16.0).exact
        False
    """
    common = Fraction(0)
    for value in {float(value) for value in values if value > 0}:
        near = Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
        if abs(float(near) - value) > 4 * math.ulp(value):
            return Scale(most * FINE, False)
        common = Fraction(
            math.gcd(common.numerator * near.denominator, near.numerator * common.denominator),
            common.denominator * near.denominator,
        )
    unit = float(common)
    return Scale(unit, True) if unit >= most * COARSE else Scale(most * FINE, False)
