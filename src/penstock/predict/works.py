"""What blocks and ends of a model are made of, and their work on a device; both are remembered."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from penstock.core.architecture import Architecture, Block
from penstock.core.device import Device
from penstock.cost.kept import of_these, rerun
from penstock.cost.model_operators import (
    embedding_operators,
    half_operators,
    halves,
    head_operators,
    operators,
    predictor_operators,
)
from penstock.cost.operators import Microbatch, Operator
from penstock.cost.passes import Timed, Work, timed, timed_each, work
from penstock.cost.rows import Rows, joined, rows_of

Asked = tuple[Block, Microbatch, Device, str, str, float]
"""What times of a block depend on: its micro-batch, the device, the low and the wide precision, and the crowd."""


block_operators = lru_cache(maxsize=4096)(operators)
"""What ``operators`` gives, remembered."""


@lru_cache(maxsize=4096)
def block_rows(block: Block, batch: Microbatch) -> Rows:
    """Return the columns of the operators of a block."""
    each = [_half_rows(block, index, seen) for index, seen in halves(block, batch)]
    return joined([*(forward for forward, _ in each), *(backward for _, backward in each[::-1])])


@lru_cache(maxsize=4096)
def _half_rows(block: Block, index: int, batch: Microbatch) -> tuple[Rows, Rows]:
    """Columns of the forwards and of the gradients of a half of a block."""
    forward, backward = half_operators(block, index, batch)
    return rows_of(forward), rows_of(backward)


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
    made = block_operators(block, batch)
    return work(
        block_rows(block, batch),
        rerun(made, of_these(made, recompute), batch.stops_early),
        block_timed(block, batch, device, low, wide, crowd),
    )


def block_timed(*asked: *Asked) -> Timed:
    """Return what the operators of a block take on a device, whichever run again."""
    kept = _kept(*asked)
    if not kept:
        kept.append(timed(block_rows(*asked[:2]), *asked[2:]))
    return kept[0]


@lru_cache(maxsize=4096)
def _kept(*asked: *Asked) -> list[Timed]:
    """Where what is known of a block is kept, as soon as it is."""
    return []


def time_blocks(each: Iterable[Asked]) -> None:
    """Find at once, and keep, what the operators of many blocks take, each on its device."""
    missing: dict[tuple[Device, str, str], list[Asked]] = {}
    for asked in dict.fromkeys(each):
        if not _kept(*asked):
            missing.setdefault(asked[2:5], []).append(asked)
    for on, some in missing.items():
        if len(some) == 1:
            block_timed(*some[0])
            continue
        found = timed_each([block_rows(*asked[:2]) for asked in some], *on, [asked[5] for asked in some])
        for asked, one in zip(some, found, strict=True):
            _kept(*asked).append(one)


@lru_cache(maxsize=1024)
def end_operators(model: Architecture, batch: Microbatch, end: str) -> tuple[Operator, ...]:
    """Return the operators of the ``embedding``, the ``head`` or the ``predictors``."""
    makers = {"embedding": embedding_operators, "head": head_operators, "predictors": predictor_operators}
    return makers[end](model, batch)


@lru_cache(maxsize=1024)
def end_work(model: Architecture, batch: Microbatch, end: str, device: Device, low: str, wide: str) -> Work:
    """Return the work of an end, with blocks of multi-token heads in the precision ``low``."""
    rows = rows_of(end_operators(model, batch, end))
    return work(rows, np.zeros(len(rows.kind), bool), timed(rows, device, low, wide))
