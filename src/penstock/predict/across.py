"""A pipeline whose first ranks are on one site and the next on others: its step over slow links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.node import Node
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.engine import simulate
from penstock.lower import add_sends
from penstock.predict.memory import rooms
from penstock.predict.outer import Uplink
from penstock.predict.prediction import Room
from penstock.predict.step import Step

Floats = NDArray[np.float64]
AHEAD = 4
"""Computes between the posting of a receive and its use, so that links do not wait for ranks."""
LIKE = 1.01
"""Sites whose speeds differ by less have equal stages."""


@dataclass(frozen=True, eq=False)
class Across:
    """A step of a pipeline over sites.

    ``seconds``: of it. ``message_s``: of all ranks of a stage over a link between sites. ``rooms``: memory of a device
    of each pipeline rank, of ``memory_bytes`` there.
    """

    setup: Setup
    seconds: float
    message_s: float
    rooms: tuple[Room, ...]
    memory_bytes: tuple[float, ...]

    @property
    def fullest(self) -> tuple[Room, float]:
        """Memory of the device with the least share left, and how much it has."""
        return max(zip(self.rooms, self.memory_bytes, strict=True), key=lambda one: one[0].needed / one[1])

    @property
    def headroom(self) -> float:
        """Least share of a device's memory that is left."""
        room, memory_bytes = self.fullest
        return 1 - room.needed / memory_bytes


def across(model: Architecture, clusters: Sequence[Cluster], uplink: Uplink, setup: Setup, stack: Stack) -> Across:
    """Return the step of a pipeline whose ranks are dealt to sites in a row, equally many to each.

    Each rank's work takes the time of its own site's devices. Messages between sites leave through the site's link one
    after another, each with its latency; where a site sends both ways, they share it. Those inside are as in
    ``predict``. Stages on slower devices get fewer layers.

    Args:
        model, setup, stack: as ``predict`` takes them; ``pp`` is a multiple of the number of sites.
        clusters: the sites, each with enough nodes for its share of the setup.
        uplink: the link of each site.

    Raises:
        ValueError: the setup cannot be.
    """
    each = setup.pp // len(clusters)
    site_of = np.arange(setup.pp) // each
    steps = _steps(model, clusters, setup, stack)
    if (levelled := _levelled(model, steps, setup, site_of)) != setup:
        setup, steps = levelled, _steps(model, clusters, levelled, stack)
    first = steps[0]
    rank_of = np.array(first.plan.placement.rank_of)
    column = site_of[rank_of]
    op_s = np.stack([step.op_s for step in steps])[column, :, np.arange(len(column))].T
    after_s = np.array([step.after_s for step in steps])[site_of, np.arange(setup.pp)]
    sharing = 2 if len(clusters) > 2 or setup.chunks > 1 else 1
    size_bytes = sharing * first.rank.boundary_bytes * setup.devices / setup.pp
    message_s = size_bytes / uplink.bytes_per_s + uplink.latency_s
    apart = site_of[:, None] != site_of[None, :]
    costs = replace(first.costs, seconds=op_s, hop_s=np.where(apart, message_s, first.costs.hop_s))
    timeline = simulate(add_sends(first.plan, ahead=AHEAD, in_flight=max(2, setup.pp)), costs)
    found = [rooms(step.rank, step.of_ranks, timeline.peak_bytes.tolist()) for step in steps]
    return Across(
        setup=setup,
        seconds=float((timeline.last_s + after_s).max()),
        message_s=message_s,
        rooms=tuple(found[site][r] for r, site in enumerate(site_of.tolist())),
        memory_bytes=tuple(float(clusters[site].device.memory_bytes) for site in site_of.tolist()),
    )


def _steps(model: Architecture, clusters: Sequence[Cluster], setup: Setup, stack: Stack) -> list[Step]:
    """The whole setup on nodes of each site; one step for sites of the same nodes."""
    found: dict[Node, Step] = {}
    for cluster in clusters:
        node, _ = cluster.groups[0]
        if node not in found:
            whole = replace(cluster, groups=((node, -(-setup.devices // node.devices)),), measured=None)
            found[node] = Step(model, whole, setup, stack)
    return [found[cluster.groups[0][0]] for cluster in clusters]


def _levelled(model: Architecture, steps: Sequence[Step], setup: Setup, site_of: NDArray[np.int64]) -> Setup:
    """The setup with layers of each stage as its site is fast; as it is where all are equally fast."""
    speeds = np.array([1 / float(step.op_s.sum()) for step in steps])
    if speeds.max() / speeds.min() < LIKE:
        return setup
    weights = speeds[site_of[np.array(steps[0].plan.placement.rank_of)]]
    return replace(setup, stage_layers=_rounded(model.layers * weights / weights.sum(), model.layers))


def _rounded(shares: Floats, total: int) -> tuple[int, ...]:
    """Whole numbers near shares, that add up to the total."""
    found = np.floor(shares).astype(int)
    for place in np.argsort(found - shares, kind="stable")[: total - int(found.sum())]:
        found[place] += 1
    return tuple(found.tolist())
