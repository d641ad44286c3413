"""What of a training waits off its devices: the shares that are asked for, and those that follow where nothing fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from penstock.core.disks import idle
from penstock.core.setup import Setup

if TYPE_CHECKING:
    from penstock.search.space import Space

NAMES = ("optimizer_offload", "weight_offload", "disk", "offload")


def bases(space: Space) -> list[list[Setup]]:
    """Return the base of strategies for each share of activations, of the optimizer and of weights that waits in host
    memory, or on disks, if shares are asked for; and then, one by one, those that follow where nothing fits."""
    asked, later = _waiting(space, "optimizer_offload", space.stack.optimizer_offloads)
    weights, more = _waiting(space, "weight_offload", space.stack.weight_offloads)
    hosts = [(asked, weights), *(([share], weights) for share in sorted(later))]
    hosts += [([max((*asked, *later, share))], [share]) for share in sorted(more) if space.free("optimizer_offload")]
    here, there = _waiting(space, "disk", space.stack.disks if space.cluster.node_of(0).disk_bytes else ())
    groups = [(*host, disks) for disks in (here, *([disk] for disk in there)) for host in hosts]
    kept = space.values("offload", (space.base.offload,))
    found = [[dict(zip(NAMES, one, strict=True)) for one in product(*group, kept)] for group in groups]
    some = [[replace(space.base, **one) for one in each if not idle(one["disk"], one)] for each in found]
    return [each for each in some if each]


def _waiting(space: Space, name: str, tried: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Values that are asked for, and those that follow."""
    asked = space.values(name, (getattr(space.base, name),))
    return asked, [value for value in space.values(name, tried) if value not in asked]
