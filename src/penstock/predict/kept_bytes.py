"""What a block keeps of a micro-batch between its forward and its backward: on its device, and on its host."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from penstock.core.architecture import Block
from penstock.core.words import suggest
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept, of_these, rerun
from penstock.cost.operators import ADAPTER, Microbatch, Operator, adapted
from penstock.predict.works import block_operators

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Again = str | tuple[str, ...]
STAYS = ("attention.core",)
"""Operators made again whose results stay, because that is what makes them worth it; those of others go too."""


class BlockBytes(NamedTuple):
    """Of one block and micro-batch: what it keeps, what its backward makes or fetches again, the most beyond both that
    is alive in its backward, and what waits on its host meanwhile."""

    kept: float
    again: float
    more: float
    away: float


@lru_cache(maxsize=65536)
def block_bytes(block: Block, batch: Microbatch, again: Again, offload: float | tuple[str, ...] = 0.0) -> BlockBytes:
    """Return what a block holds of a micro-batch on its device, and on its host.

    Args:
        block, batch: which block, of which micro-batch.
        again: what is made again, as in ``Setup.recompute``.
        offload: what waits in host memory, as in ``Setup.offload``.
    """
    made = block_operators(block, batch)
    names = of_these(made, again)
    stays = stays_of(made, names)
    held = sum(on_device(stays, offload).values())
    if names == "none" or rerun(made, names).any():
        begun, most = _all_kept(block, batch)
    else:
        begun, most = sum(stays.values()), backward_bytes(made, stays)
    return BlockBytes(held, begun - held, most - begun, sum(stays.values()) - held)


@lru_cache(maxsize=4096)
def _all_kept(block: Block, batch: Microbatch) -> tuple[float, float]:
    """Bytes of all that gradients need, and the most that is alive in a backward which begins with it."""
    made = block_operators(block, batch)
    saved = kept(made)
    return sum(saved.values()), backward_bytes(made, saved)


def check_names(rank: Rank) -> None:
    """Do nothing where all operators, storages and matrices that a user names in a setup are of some block; published
    runs name those of several models.

    Raises:
        ValueError: one is of none.
    """
    setup = rank.setup
    made = [op for block in rank.model.kinds() for op in block_operators(block, rank.batch_of(block))]
    rerun(made, setup.recompute)
    known = kept(made)
    for name in setup.offload if isinstance(setup.offload, tuple) else ():
        if name not in known:
            raise ValueError(f"offload={name}: blocks keep nothing of that name; {suggest(name, known)}")
    matrices = {op.name for op in made if op.kind.endswith("matmul") and ADAPTER not in op.name}
    for name in setup.adapter_on:
        if not any(adapted(one, (name,)) for one in matrices):
            raise ValueError(f"adapter_on={name}: blocks have no matrix of that name; {suggest(name, matrices)}")


def stays_of(made: Sequence[Operator], names: Again) -> dict[str, float]:
    """What is kept beside what ``names`` make again."""
    if isinstance(names, str):
        return kept(made, names)
    return kept(made, tuple(set(names) & set(STAYS)), tuple(name for name in names if name not in STAYS))


def on_device(stays: dict[str, float], offload: float | tuple[str, ...]) -> dict[str, float]:
    """Return what is left of some storages while the others wait on the host; ``offload`` as in ``Setup``."""
    if isinstance(offload, tuple):
        return {name: size for name, size in stays.items() if name not in offload}
    return {name: size * (1 - offload) for name, size in stays.items()}
