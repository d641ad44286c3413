"""How far closed forms may be above predictions, and so what predictions are at least by their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.predict import Grid

OVER = {"gpipe": 0.01, "1f1b": 0.01, "interleaved": 0.04, "interleaved-zb": 0.04, "zb-h1": 0.08, "zb-h2": 0.08}
OVER_ELSE = 0.15
"""By how much a score may be above the prediction, relative, by schedule; tests/search/test_strategies.py holds it."""
OVER_UNEVEN = 0.005
"""How much more it may be if stages differ in layers; where the vocabulary is split, it is ``OVER_ELSE``."""
OVER_BYTES, OVER_BYTES_UNEVEN = 0.06, 0.4
"""The same of memory, and how much more it may be, over the chunks, if stages differ in layers: those that wait longest
may be those of few layers."""


def at_least_s(grid: Grid, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what predictions are at least, by their scores."""
    return np.asarray(seconds / (1 + over_of(grid, _uneven(grid), grid.columns["vocabulary"])))


def over_bytes(grid: Grid) -> NDArray[np.float64]:
    """Return by how much memory by scores may be above that of predictions."""
    uneven = _uneven(grid) & (grid.chunks > 1)
    return np.asarray(OVER_BYTES + uneven * OVER_BYTES_UNEVEN / grid.chunks)


def over_of(grid: Grid, uneven: Any, vocabulary: Any) -> NDArray[np.float64]:
    """Return by how much scores may be above predictions, by whether stages are uneven or the vocabulary is split."""
    plain = np.array([OVER.get(name, OVER_ELSE) for name in grid.choices["schedule"]])[grid.columns["schedule"]]
    return np.where(vocabulary, OVER_ELSE, plain + OVER_UNEVEN * uneven)


def _uneven(grid: Grid) -> NDArray[np.bool_]:
    """Which rows say how many layers each stage has."""
    said = np.array([bool(layers) for layers in grid.choices["stage_layers"]], dtype=bool)
    return np.asarray(said[grid.columns["stage_layers"]])
