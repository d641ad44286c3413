"""What no setup can be faster than: the work of its devices, as if none ever waited for another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.predict.grid import Grid
from penstock.predict.micro import Rank
from penstock.predict.parts import make_parts


def work_s(grid: Grid, made: list[Rank], of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the device-seconds of a step in which all devices work, of each row of a grid, shape (rows,).

    These are the passes of all layers, of embedding and head, with messages inside of them that nothing hides. No step
    is shorter than these over the number of its devices. They are infinite where a split does not divide the model.

    Args:
        grid: the setups.
        made, of: their ranks, as ``ranks_of`` gives them.

    >>> from penstock.core.cluster import Cluster
    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.setup import Setup
    >>> from penstock.cost.stack import stack
    >>> from penstock.predict.score import ranks_of
    >>> grid = Grid.of(Setup(seq=4096, batch=64), tp=[1, 2], dp=[8, 4])
    >>> model, machines = read_architecture("llama-3-8b"), Cluster.read("dgx-h100:1")
    >>> found = work_s(grid, *ranks_of(model, machines, grid, stack("megatron-core")))
    >>> bool(found[0] < found[1])
    True
    """
    make_parts(made)
    each = np.array([*(rank.pass_s for rank in made), np.inf])
    return np.asarray(each[of] * grid.tp * grid.cp * grid.batch / grid.micro)
