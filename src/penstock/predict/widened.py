"""A model whose first and last blocks keep their products in 16 bits, as a setup asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from penstock.core.architecture import Architecture, Block
from penstock.core.parts import Experts


def as_asked(model: Architecture, setup: Any) -> Architecture:
    """Return the model with ``wide`` blocks at its ends, as many as a setup, or the base of a grid, says.

    Raises:
        ValueError: there are fewer blocks.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.setup import Setup
    >>> found = as_asked(read_architecture("llama-3-8b"), Setup(seq=8, batch=1, precision="mxfp8", wide_last=4))
    >>> [block.wide for block in found.blocks[-6:]], len(found.kinds())
    ([False, False, True, True, True, True], 2)
    """
    first, last = setup.wide_first, setup.wide_last
    return _widened(model, first, last) if first or last else model


@lru_cache(maxsize=256)
def _widened(model: Architecture, first: int, last: int) -> Architecture:
    count = len(model.blocks)
    if first + last > count:
        raise ValueError(f"wide_first={first} and wide_last={last} are more than the {count} blocks of {model.name}")
    wide = [*range(first), *range(count - last, count)]
    blocks = [replace(block, wide=place in wide) for place, block in enumerate(model.blocks)]
    return replace(model, blocks=tuple(blocks))


@lru_cache(maxsize=256)
def low_shares(model: Architecture) -> tuple[float, float]:
    """Return which shares of all parameters but experts, and of experts, are in blocks that are not ``wide``.

    >>> from penstock.core.config import gpt
    >>> [round(share, 2) for share in low_shares(gpt(layers=12, hidden=768, heads=12, vocab=50257))]
    [0.52, 0.0]
    """
    experts = {block: _experts(block) * count for block, count in model.kinds().items()}
    dense = {block: block.parameters * count - experts[block] for block, count in model.kinds().items()}
    others = model.parameters - sum(dense.values()) - sum(experts.values())
    return _low(dense) / (sum(dense.values()) + others), _low(experts) / max(1, sum(experts.values()))


def _experts(block: Block) -> int:
    return block.mlp.experts * block.mlp.expert.parameters if isinstance(block.mlp, Experts) else 0


def _low(counts: Mapping[Block, int]) -> int:
    return sum(count for block, count in counts.items() if not block.wide)
