"""What a fit prints: constants with how well they are known, and errors by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.calibrate.dials import Dial

Floats = NDArray[np.float64]


def rounded(x: Floats) -> list[float]:
    """Return values from their logarithms in two digits, as the tables hold them."""
    return [float(f"{value:.2g}") for value in np.exp(x)]


def dial_lines(dials: Sequence[Dial], values: Sequence[float], deviations: Floats, said: Floats) -> list[str]:
    """Return a table of constants: before, after, relative standard error, how much of it the runs say, and whether it
    is at a bound."""
    lines = ["", f"{'constant':34}{'before':>10}{'after':>10}{'error':>8}{'runs say':>10}"]
    for dial, value, deviation, share in zip(dials, values, deviations, said, strict=True):
        bound = "" if dial.low * 1.005 < value < dial.high * 0.995 else "  at the end of its range"
        figures = f"{dial.value:10.2g}{value:10.2g}{np.expm1(deviation):8.0%}{share:10.0%}"
        lines.append(f"{dial.owner + '.' + dial.name:34}{figures}{bound}")
    return lines


def error_lines(groups: Mapping[str, Sequence[int]], errors: Mapping[str, Floats]) -> list[str]:
    """Return a table of errors in per cent: median and 90th percentile of absolute ones, and the signed median.

    Args:
        groups: name -> its rows.
        errors: what was done -> logarithms of predicted over measured seconds, shape (rows,).
    """
    head = f"{'':60}{'runs':>5}" + "".join(f"{how:>20}" for how in errors)
    lines = ["", head, f"{'':65}" + f"{'median':>8}{'p90':>6}{'bias':>6}" * len(errors)]
    for name, one in figures(groups, errors).items():
        cells = (
            f"{100 * median:8.1f}{100 * p90:6.1f}{100 * bias:+6.1f}" for median, p90, bias in one["errors"].values()
        )
        lines.append(f"{name:60.60}{one['runs']:5}" + "".join(cells))
    return lines


def figures(groups: Mapping[str, Sequence[int]], errors: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Return of each group the number of its ``runs`` and their ``errors``: what was done -> median and 90th percentile
    of absolute ones, and the signed median, as shares; arguments as in ``error_lines``.

    >>> figures({"a": [0, 1, 2]}, {"fitted": np.log([0.9, 1.1, 1.2])})
    {'a': {'runs': 3, 'errors': {'fitted': [0.1, 0.18, 0.1]}}}
    """

    def three(off: Floats) -> list[float]:
        found = (np.median(abs(off)), np.quantile(abs(off), 0.9), np.median(off))
        return [round(float(each), 4) for each in found]

    return {
        name: {"runs": len(rows), "errors": {how: three(np.expm1(all_[list(rows)])) for how, all_ in errors.items()}}
        for name, rows in groups.items()
    }
