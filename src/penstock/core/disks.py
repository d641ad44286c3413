"""What of offloaded state lies on disks of nodes in place of host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DISKS: Mapping[str, tuple[str, ...]] = {
    "none": (), "optimizer": ("optimizer_offload",), "weights": ("weight_offload",),
    "all": ("optimizer_offload", "weight_offload"),
}  # fmt: skip
"""Of ``Setup.disk``: the fields whose shares lie there."""


def placed(disk: str, shares: Mapping[str, Any]) -> bool:
    """Return whether of all that a disk is asked for something is offloaded.

    >>> placed("all", {"optimizer_offload": 1.0, "weight_offload": 0.0})
    False
    """
    return all(shares[name] for name in DISKS[disk])


def check_disk(setup: Any) -> None:
    """Do nothing where a setup offloads what it asks disks for.

    Raises:
        ValueError: it does not.
    """
    idle = [name for name in DISKS[setup.disk] if not getattr(setup, name)]
    if idle:
        none, use = ("=0, ".join(idle), "=1, ".join(idle))
        raise ValueError(f"disk={setup.disk} with {none}=0 puts nothing there; use {use}=1, or disk=none")
