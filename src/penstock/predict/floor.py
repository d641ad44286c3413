"""What no setup can be faster than: the work of its devices, as if none ever waited for another."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.cost.stack import Stack
from penstock.predict.grid import Grid
from penstock.predict.micro import Rank
from penstock.predict.score import ranks_of
from penstock.predict.widened import as_asked


def work_s(model: Architecture, cluster: Cluster, grid: Grid, stack: Stack) -> NDArray[np.float64]:
    """Return the device-seconds of a step in which all devices work, of each row of a grid, shape (rows,).

    These are the passes of all layers, of embedding and head, with messages inside of them that nothing hides. No step
    is shorter than these over the number of its devices. They are infinite where a split does not divide the model.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.setup import Setup
    >>> from penstock.cost.stack import stack
    >>> grid = Grid.of(Setup(seq=4096, batch=64), tp=[1, 2], dp=[8, 4])
    >>> found = work_s(read_architecture("llama-3-8b"), Cluster.read("dgx-h100:1"), grid, stack("megatron-core"))
    >>> bool(found[0] < found[1])
    True
    """
    made, of = ranks_of(as_asked(model, grid.base), cluster, grid, stack)
    each = np.array([*(_pass_s(rank) for rank in made), np.inf])
    return np.asarray(each[of] * grid.tp * grid.cp * grid.batch / grid.micro)


def _pass_s(rank: Rank) -> float:
    """Seconds of a micro-batch through the whole model."""
    blocks = Counter(rank.model.blocks)
    return sum(part.all_s * (1 if isinstance(name, str) else blocks[name]) for name, part in rank.parts.items())
