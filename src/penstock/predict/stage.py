"""The noun ``Stage``: what a pipeline rank, or each of many, holds of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from penstock.core.architecture import Block


def most(values: Iterable[Any]) -> Any:
    """Return the largest of numbers, or of arrays place by place, that are not below 0; 0 for none."""
    return reduce(np.maximum, values, 0.0)


class Stage(NamedTuple):
    """How many there are of each block on a pipeline rank, whether it holds the embedding and the head, and how many of
    the blocks are first layers that are made again in another way (``Setup.recompute_layers``); arrays for many ranks
    at once."""

    blocks: Mapping[Block, Any]
    first: Any
    last: Any
    again: Mapping[Block, Any] = MappingProxyType({})

    @property
    def held(self) -> tuple[Mapping[Block, Any], Any, Any]:
        """Blocks and ends."""
        return self.blocks, self.first, self.last

    @property
    def rest(self) -> Mapping[Block, Any]:
        """Blocks that are no such first layers."""
        return {block: count - self.again[block] for block, count in self.blocks.items()} if self.again else self.blocks

    def largest(self, of: Callable[[Block], Any]) -> Any:
        """Return the most that one of its blocks has of something."""
        return most(of(block) * (count > 0) for block, count in self.blocks.items())
