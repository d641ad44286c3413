"""What launching kernels takes of the host, one by one or in recorded graphs of parts of a block."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.cost.kept import of_these, rerun
from penstock.cost.operators import Microbatch
from penstock.cost.passes import Rows, Work, launched
from penstock.cost.stack import Stack
from penstock.predict.works import block_rows

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Floats = NDArray[np.float64]
WHOLE = "block"
PARTS = {
    WHOLE: ("",),
    "attention": ("attention",),
    "router": ("mlp_norm", "experts.router", "experts.choice"),
    "mlp": ("mlp",),
}
"""Parts of a block that a framework may record (``Stack.graphed``), the whole one first, and how the names of their
operators begin."""


def launching(setup: Setup, stack: Stack, routed: bool = False) -> tuple[str, ...]:
    """Return the fields of a stack that say how long launches take; ``routed``: of a block with experts."""
    one_by_one = routed and stack.expert_s and WHOLE not in stack.graphed
    eager = () if setup.graphs else ("launch_s", "expert_s") if one_by_one else ("launch_s",)
    return (*eager, *(("graph_launch_s",) if setup.graphs or stack.graphed else ()))


def recorded(rows: Rows, graphed: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return which operators run in graphs, where these parts of a block are recorded."""
    starts = tuple(start for part in graphed for start in PARTS[part])
    return np.array([name.startswith(starts) for name in rows.names], bool)


@lru_cache(maxsize=4096)
def _in_graphs(
    block: Block, batch: Microbatch, recompute: str | tuple[str, ...], graphed: tuple[str, ...], low: str, wide: str
) -> Floats:
    """Kernels of a forward, of a backward and of what runs again that graphs start."""
    made, rows = block_rows(block, batch)
    mine = launched(rows, low, wide) * recorded(rows, graphed)
    again = rerun(made, of_these(made, recompute))
    return np.array([mine[rows.phase == 0].sum(), mine[rows.phase > 0].sum(), mine[again].sum()])


def host_s(rank: Rank, done: Work, block: Block | None) -> tuple[float, float, float]:
    """Return seconds in which the host launches a part: its forward, its backward, and what runs again; sums over the
    tensor-parallel group take it as long as operators.

    In a recorded graph products of single experts take nothing beside the operator that starts them, and of a whole
    step nobody counts tokens.
    """
    (f, i, w, again), graphed = done.launches, rank.stack.graphed
    ways, sums, whole = [0, 1, 0], rank.summed(block)[1] if block is not None else 0, again == f
    found = np.array([f + sums, i + w + sums, again + sums * whole]) * np.array(rank.launches_s)[ways]
    if not rank.setup.graphs and WHOLE not in graphed:
        f, i, w, again = done.experts
        found += np.array([f, i + w, again]) * np.array(rank.experts_s)[ways]
    if block is not None and isinstance(block.mlp, Experts) and not rank.setup.graphs:
        found += np.array([1.0, 1.0, whole]) * rank.counts_s
    if block is not None and graphed and not rank.setup.graphs:
        saved_s = np.array(rank.launches_s) - np.array(rank.recorded_s)
        bits = rank.bits_in(block), rank.wide
        found -= _in_graphs(block, rank.batch_of(block), rank.again, graphed, *bits) * saved_s[ways]
    return float(found[0]), float(found[1]), float(found[2])
