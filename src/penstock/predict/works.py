"""What blocks and ends of a model are made of, and their work on a device; both are remembered."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from penstock.core.architecture import Architecture, Block
from penstock.core.device import Device
from penstock.cost.kept import of_these, rerun
from penstock.cost.model_operators import embedding_operators, head_operators, operators, predictor_operators
from penstock.cost.operators import Microbatch, Operator
from penstock.cost.passes import Rows, Timed, Work, rows_of, timed, work


@lru_cache(maxsize=4096)
def block_rows(block: Block, batch: Microbatch) -> tuple[tuple[Operator, ...], Rows]:
    """Return the operators of a block and their columns."""
    made = operators(block, batch)
    return made, rows_of(made)


@lru_cache(maxsize=32768)
def block_work(
    block: Block,
    batch: Microbatch,
    recompute: str | tuple[str, ...],
    device: Device,
    low: str,
    wide: str,
    crowd: float,
) -> Work:
    """Return the work of a block on a device."""
    made, rows = block_rows(block, batch)
    return work(
        rows,
        rerun(made, of_these(made, recompute), batch.stops_early),
        block_timed(block, batch, device, low, wide, crowd),
    )


@lru_cache(maxsize=4096)
def block_timed(block: Block, batch: Microbatch, device: Device, low: str, wide: str, crowd: float) -> Timed:
    """Return what the operators of a block take on a device, whichever run again."""
    return timed(block_rows(block, batch)[1], device, low, wide, crowd)


@lru_cache(maxsize=1024)
def end_rows(model: Architecture, batch: Microbatch, end: str) -> tuple[tuple[Operator, ...], Rows]:
    """Return the operators of the ``embedding``, the ``head`` or the ``predictors``, and their columns."""
    makers = {"embedding": embedding_operators, "head": head_operators, "predictors": predictor_operators}
    made = makers[end](model, batch)
    return made, rows_of(made)


@lru_cache(maxsize=1024)
def end_work(model: Architecture, batch: Microbatch, end: str, device: Device, low: str, wide: str) -> Work:
    """Return the work of an end, with blocks of multi-token heads in the precision ``low``."""
    _, rows = end_rows(model, batch, end)
    return work(rows, np.zeros(len(rows.kind), bool), timed(rows, device, low, wide))
