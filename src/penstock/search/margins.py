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
OVER_ONE, OVER_FEW = 0.4, 0.05
"""How much more it may be with one micro-batch, and with several but no more than there are pipeline ranks."""
OVER_BYTES, OVER_BYTES_UNEVEN = 0.06, 0.4
"""The same of memory, and how much more it may be, over the chunks, if stages differ in layers, or in those made
again: those that wait longest may be those of few layers."""


OVER_AGAIN = 0.08
"""How much more a score may be above the prediction if ranks differ in how many layers are made again, and there
are more micro-batches than ranks; with fewer, such scores say nothing."""


def at_least_s(grid: Grid, seconds: NDArray[np.float64], apart: bool = False) -> NDArray[np.float64]:
    """Return what predictions are at least, by their scores; ``apart``: all are of ranks that differ in how many layers
    are made again."""
    over = over_of(grid, grid.says("stage_layers") | grid.says("recompute_layers"), grid.columns["vocabulary"])
    differ = apart | _differ(grid)
    return np.where(differ & (grid.micros <= grid.pp), 0.0, seconds / (1 + over + OVER_AGAIN * differ))


def over_bytes(grid: Grid, apart: bool = False) -> NDArray[np.float64]:
    """Return by how much memory by scores may be above that of predictions; ``apart`` as above."""
    uneven = (grid.says("stage_layers") | _differ(grid) | apart) & (grid.chunks > 1)
    return np.asarray(OVER_BYTES + uneven * OVER_BYTES_UNEVEN / grid.chunks)


def over_of(grid: Grid, uneven: Any, vocabulary: Any) -> NDArray[np.float64]:
    """Return by how much scores may be above predictions, by whether stages are uneven or the vocabulary is split."""
    plain = np.array([OVER.get(name, OVER_ELSE) for name in grid.choices["schedule"]])[grid.columns["schedule"]]
    few = np.where(grid.micros == 1, OVER_ONE, OVER_FEW) * ((grid.micros <= grid.pp) & (grid.pp > 1))
    return np.asarray(np.where(vocabulary, OVER_ELSE, plain + OVER_UNEVEN * uneven) + few)


def _differ(grid: Grid) -> NDArray[np.bool_]:
    """Which rows have stages that differ in how many layers are made again."""
    differ = np.array([len(set(counts)) > 1 for counts in grid.choices["recompute_layers"]], dtype=bool)
    return np.asarray(differ[grid.columns["recompute_layers"]])
