"""Why nothing fits: the strategy that needs least, and the smallest changes with which one would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.core.cluster import Cluster
from penstock.predict import predict, scores
from penstock.predict.host import overfull
from penstock.search.choice import Choice
from penstock.search.numbers import several
from penstock.search.space import Space
from penstock.search.switches import off
from penstock.search.wishes import Wishes
from penstock.units import human_bytes

FRUGAL: Wishes = {"micro": (1,), "recompute": ("full",), "schedule": ("1f1b",)}
"""What strategies have that need least."""
MOST_TIMES = 64
"""How many times the nodes are tried at most."""


def least(space: Space) -> tuple[float, Any]:
    """Return what the strategy with least memory needs of a device, in bytes, and its setup, before others one that
    its hosts have room for; ``inf`` if there is none."""
    space = off(space)
    best = _least(frugal(space))
    if frugal(space) != space:
        best = _least(space, best[:2])
    full_host, needed, setup = best
    return (np.inf if full_host else needed), setup


def _least(space: Space, known: tuple[bool, float] = (True, np.inf)) -> tuple[bool, float, Any]:
    """The same with whether hosts have no room for it; what needs more than is ``known`` of another is left out."""
    best: tuple[bool, float, Any] = (True, np.inf, None)
    for share in space.shares():
        if not len(grid := space.grid(share)):
            continue
        full_host, most = min(known, best[:2])
        most = np.inf if full_host else most
        found = scores(space.model, space.cluster, grid, space.stack, most, bytes_alone=True)
        full = overfull(space.cluster.node_of(0), space.devices, found.host_bytes, found.disk_bytes)
        row = int(np.lexsort((found.needed_bytes, full))[0])
        if (one := (bool(full[row]), float(found.needed_bytes[row]))) < best[:2]:
            best = (*one, grid.setup(row))
    return best


def nearest(space: Space) -> Choice | None:
    """Return the strategy that needs least memory."""
    _, setup = least(space)
    return None if setup is None else Choice.of(setup, predict(space.model, space.cluster, setup, space.stack))


def too_much(one: Choice, headroom: float) -> str:
    """Return by how much a strategy does not fit, in words, or that it fits."""
    over, places = one.needed_bytes - (1 - headroom) * one.memory_bytes, _places(one)
    needed = f"{human_bytes(one.needed_bytes)} of {human_bytes(one.memory_bytes)}"
    if over > 0:
        return f"{needed}, {human_bytes(over)} too much with {headroom:.0%} of headroom"
    for place, (there, room) in places.items():
        if there > room:
            return f"{human_bytes(there)} of {human_bytes(room)} {place}, {human_bytes(there - room)} too much"
    return f"{needed}, and fits"


def fits(one: Choice, headroom: float) -> bool:
    """Return whether there is room for a strategy, on devices, in host memory and on disks."""
    return one.headroom >= headroom and all(there <= room for there, room in _places(one).values())


def _places(one: Choice) -> dict[str, tuple[float, float]]:
    """What a strategy has off its devices, and the room there."""
    return {
        "in host memory": (one.host_bytes, one.host_memory_bytes), "on disks": (one.disk_bytes, one.disk_room_bytes)
    }  # fmt: skip


def refusal(space: Space) -> str:
    """Return why none of the strategies can be, by the first of them."""
    grid = next(grid for share in space.shares() if len(grid := space.grid(share)))
    try:
        predict(space.model, space.cluster, grid.setup(0), space.stack)
    except ValueError as error:
        return f"none of the strategies can be; the first: {error}"
    return f"no strategy divides {space.model.name} over {space.devices} devices; fix or exclude less"


def changes(space: Space, headroom: float) -> tuple[str, ...]:
    """Return the smallest change of each kind with which a strategy fits, in words."""
    found = []
    for text, other, free in _others(space, headroom):
        needed, _ = least(frugal(other))
        memory_bytes = other.cluster.device.memory_bytes
        if needed <= (1 - free) * memory_bytes:
            found.append(f"{text} ({human_bytes(needed)} of {human_bytes(memory_bytes)})")
    return (*found, *_more_nodes(space, headroom))


def frugal(space: Space) -> Space:
    """Return the part of the space in which strategies need least: small micro-batches, made again, 1F1B, as far as
    they can be."""
    return replace(space, usual=space.usual | FRUGAL)


def _others(space: Space, headroom: float) -> Iterator[tuple[str, Space, float]]:
    """Changes to try: what they are, what is left to choose from then, and the headroom."""
    for name in space.fixed.keys() - several(space.fixed).keys():
        rest = {key: values for key, values in space.fixed.items() if key != name}
        yield f"leave {name} free", replace(space, fixed=rest), headroom
    if headroom > 0:
        yield "headroom=0", space, 0.0
    if space.base.optimizer_offload < 1 and 1.0 in space.stack.optimizer_offloads:
        base = replace(space.base, optimizer_offload=1.0)
        yield "optimizer_offload=1: the optimizer's state in host memory", replace(space, base=base), headroom
    if space.base.weight_offload < 1 and 1.0 in space.stack.weight_offloads:
        base = replace(space.base, optimizer_offload=1.0, weight_offload=1.0)
        yield "optimizer_offload=1, weight_offload=1: weights in host memory too", replace(space, base=base), headroom
    if space.base.disk != "all" and "all" in space.stack.disks and space.cluster.node_of(0).disk_bytes:
        base = replace(space.base, optimizer_offload=1.0, weight_offload=1.0, disk="all")
        yield "optimizer_offload=1, weight_offload=1, disk=all: both on disks", replace(space, base=base), headroom


def _more_nodes(space: Space, headroom: float) -> tuple[str, ...]:
    """The fewest nodes with which one fits, twice as many at a time."""
    times = 2
    while times <= MOST_TIMES:
        cluster = grown(space.cluster, times)
        needed, _ = least(frugal(replace(space, cluster=cluster)))
        if needed <= (1 - headroom) * cluster.device.memory_bytes:
            return (f"{cluster.devices:,} devices in place of {space.devices:,}",)
        times *= 2
    return ()


def grown(cluster: Cluster, times: int) -> Cluster:
    """Return a cluster with so many times the nodes.

    >>> grown(Cluster.read("dgx-h100:2"), 4).devices
    64
    """
    groups = tuple((node, count * times) for node, count in cluster.groups)
    return replace(cluster, name=f"{times} times {cluster.name}", groups=groups, measured=None)
