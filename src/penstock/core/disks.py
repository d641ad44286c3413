"""What of offloaded state lies on disks of nodes in place of host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DISKS: Mapping[str, tuple[str, ...]] = {
    "none": (), "optimizer": ("optimizer_offload",), "weights": ("weight_offload",),
    "all": ("optimizer_offload", "weight_offload"),
}  # fmt: skip
"""Of ``Setup.disk``: the fields whose shares lie there."""


def idle(disk: str, shares: Mapping[str, Any]) -> list[str]:
    """Return the fields of what disks are asked for of which no share is offloaded.

    >>> idle("all", {"optimizer_offload": 1.0, "weight_offload": 0.0})
    ['weight_offload']
    """
    return [name for name in DISKS[disk] if not shares[name]]


def check_disk(setup: Any) -> None:
    """Do nothing where a setup offloads what it asks disks for.

    Raises:
        ValueError: it does not.
    """
    if names := idle(setup.disk, {name: getattr(setup, name) for name in DISKS[setup.disk]}):
        none, use = "=0, ".join(names), "=1, ".join(names)
        raise ValueError(f"disk={setup.disk} with {none}=0 puts nothing there; use {use}=1, or disk=none")
