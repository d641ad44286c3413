"""Whether weights that stay as they are are kept in fewer bits than their products read."""

from __future__ import annotations

from typing import Any


def quantised(rank: Any) -> bool:
    """Return whether the frozen weights of a rank, or of many, are kept in fewer bits than products read."""
    return bool(rank.setup.adapter) and rank.setup.frozen_bytes < rank.width_bytes
