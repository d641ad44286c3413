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
from penstock.cost.passes import Work, launched
from penstock.cost.rows import Rows
from penstock.cost.stack import Stack
from penstock.predict.works import block_operators, block_rows

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Three = tuple[float, float, float]
"""Of a forward, of a backward, and of what runs again."""
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
) -> Three:
    """Kernels of a forward, of a backward and of what runs again that graphs start."""
    made, rows = block_operators(block, batch), block_rows(block, batch)
    mine = launched(rows, low, wide) * recorded(rows, graphed)
    again = rerun(made, of_these(made, recompute), batch.stops_early)
    return float(mine[rows.phase == 0].sum()), float(mine[rows.phase > 0].sum()), float(mine[again].sum())


def host_s(rank: Rank, done: Work, block: Block | None) -> Three:
    """Return seconds in which the host launches a part: its forward, its backward, and what runs again; sums over the
    tensor-parallel group take it as long as operators.

    In a recorded graph products of single experts take nothing beside the operator that starts them, and of a whole
    step nobody counts tokens.
    """
    (f, i, w, again), graphed = done.launches, rank.stack.graphed
    sums, whole = rank.summed(block)[1] if block is not None else 0, again == f
    found = _each((f + sums, i + w + sums, again + sums * whole), rank.launches_s)
    if rank.setup.graphs:
        return found
    if WHOLE not in graphed and any(done.experts):
        f, i, w, again = done.experts
        found = _plus(found, _each((f, i + w, again), rank.experts_s))
    if block is not None and isinstance(block.mlp, Experts):
        found = _plus(found, (rank.counts_s, rank.counts_s, whole * rank.counts_s))
    if block is not None and graphed:
        forward_s, backward_s = (graph - alone for graph, alone in zip(rank.recorded_s, rank.launches_s, strict=True))
        bits = rank.bits_in(block), rank.wide
        there = _in_graphs(block, rank.batch_of(block), rank.again, graphed, *bits)
        found = _plus(found, _each(there, (forward_s, backward_s)))
    return found


def _each(counts: Three, launch_s: tuple[float, ...]) -> Three:
    """Seconds of so many launches of a forward, of a backward, and of what runs again, as a forward does."""
    return counts[0] * launch_s[0], counts[1] * launch_s[1], counts[2] * launch_s[0]


def _plus(some: Three, more: Three) -> Three:
    return some[0] + more[0], some[1] + more[1], some[2] + more[2]
