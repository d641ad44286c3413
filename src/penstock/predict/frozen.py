"""What weights that stay as they are cost beside their products, where they are kept in fewer bits than these read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.cost.kernels import memory_bound
from penstock.cost.passes import Work

if TYPE_CHECKING:
    from penstock.predict.micro import Rank


def quantised(rank: Any) -> bool:
    """Return whether the frozen weights of a rank, or of many, are kept in fewer bits than products read."""
    return bool(rank.setup.adapter) and rank.setup.frozen_bytes < rank.width_bytes


def widened_s(rank: Rank, done: Work) -> float:
    """Return the seconds in which one pass of a block makes its matrices wide, at the rate of single kernels: each is
    read as it is kept, and written as its product reads it (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
    if not quantised(rank):
        return 0.0
    moved = done.weights * (rank.setup.frozen_bytes + rank.width_bytes)
    return float(memory_bound(rank.device, moved, kernels=max(1.0, done.launches[2])).seconds)
