"""The noun ``Sites``: parts of a cluster with slow links between them, and their shares of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from penstock.core.cluster import Cluster
from penstock.core.node import Node
from penstock.core.words import divisors
from penstock.predict.outer import Uplink

GROUPS = "groups"
"""In the place of a number of sites: each group of the cluster is one."""


@dataclass(frozen=True)
class Sites:
    """Clusters, and the link from each to the others."""

    clusters: tuple[Cluster, ...]
    uplink: Uplink

    @property
    def alike(self) -> bool:
        """Whether all have the same nodes, and as many."""
        return len({cluster.groups for cluster in self.clusters}) == 1

    @property
    def devices(self) -> int:
        """Of all sites."""
        return sum(cluster.devices for cluster in self.clusters)

    @property
    def usd_per_hour(self) -> float | None:
        """Rent of all sites; ``None`` if one has no price."""
        each = [cluster.usd_per_hour for cluster in self.clusters]
        known = [one for one in each if one is not None]
        return sum(known) if len(known) == len(each) else None


def sites_of(
    cluster: Cluster, how: str | int = GROUPS, *, bytes_per_s: float | None = None, latency_s: float | None = None
) -> Sites:
    """Return the sites of a cluster.

    Args:
        cluster: all nodes, those of a site next to each other.
        how: how many sites, of equally many nodes; or ``groups``: each group of the cluster is one.
        bytes_per_s: of each site's link to the others, in one direction; left out, what the cluster has at the top of
            its network, of all devices of the smallest site.
        latency_s: of a message between sites; left out, likewise.

    Raises:
        ValueError: it cannot be divided so, or a rate or a latency cannot be.

    >>> found = sites_of(Cluster.read("dgx-h100:4"), 2, bytes_per_s=1.25e9)
    >>> [each.devices for each in found.clusters], found.uplink.latency_s
    ([16, 16], 3e-06)
    """
    parts = _groups(cluster) if str(how) == GROUPS else _even(cluster, how)
    top = cluster.path(cluster.devices)[-1]
    rate = top.bytes_per_s * min(part.devices for part in parts) if bytes_per_s is None else bytes_per_s
    late_s = top.latency_s if latency_s is None else latency_s
    if not 0 < rate < np.inf or not 0 <= late_s < np.inf:
        raise ValueError(f"a link of {rate:g} bytes/s with a latency of {late_s:g} s cannot be; give more than 0")
    return Sites(parts, Uplink(sites=len(parts), bytes_per_s=rate, latency_s=late_s))


def _groups(cluster: Cluster) -> tuple[Cluster, ...]:
    if len(cluster.groups) == 1:
        raise ValueError(f"{cluster.name} has one group of nodes; say how many sites it has, for example --sites 2")
    starts = np.cumsum([0, *(count for _, count in cluster.groups)]).tolist()
    return tuple(
        _part(cluster, node, first, count) for (node, count), first in zip(cluster.groups, starts, strict=False)
    )


def _part(cluster: Cluster, node: Node, first: int, count: int) -> Cluster:
    """The nodes of a site, from the ``first`` of the cluster on, with what was measured between them."""
    matrix, measured = cluster.measured, None
    if matrix is not None:
        each = len(matrix) // cluster.nodes
        span = slice(first * each, (first + count) * each)
        measured = tuple(row[span] for row in matrix[span])
    return replace(cluster, name=f"{node.name}:{count}", groups=((node, count),), measured=measured)


def _even(cluster: Cluster, how: str | int) -> tuple[Cluster, ...]:
    if not str(how).isdecimal() or int(how) < 2:
        raise ValueError(f"--sites {how}: give 2 or more, or {GROUPS}")
    count = int(how)
    if cluster.nodes % count:
        near = divisors(cluster.nodes, near=count)
        raise ValueError(f"{count} sites do not divide the {cluster.nodes} nodes of {cluster.name}; use {near}")
    nodes = [node for node, many in cluster.groups for _ in range(many)]
    each = cluster.nodes // count
    parts = [nodes[first : first + each] for first in range(0, cluster.nodes, each)]
    if any(len(set(part)) > 1 for part in parts):
        raise ValueError(f"a site of {cluster.name} would have nodes of several kinds; use --sites {GROUPS}")
    return tuple(_part(cluster, part[0], place * each, each) for place, part in enumerate(parts))


def shares_of(batch: int, speeds: list[float]) -> list[int]:
    """Return the sequences of each site, all multiples of a power of two so that they can be split, so that the last is
    done first: each next part goes to the site that would be done with it first.

    Raises:
        ValueError: there are fewer sequences than sites.

    >>> shares_of(128, [1.0, 1.0]), shares_of(128, [3.0, 1.1])
    ([64, 64], [96, 32])
    """
    if batch < len(speeds):
        raise ValueError(f"batch={batch} is too small for {len(speeds)} sites; use {len(speeds)} or more")
    if len(set(speeds)) == 1 and batch % len(speeds) == 0:
        return [batch // len(speeds)] * len(speeds)
    grain = 1
    while batch % (2 * grain) == 0 and batch // (2 * grain) >= 8 * len(speeds):
        grain *= 2
    found = [1] * len(speeds)
    for _ in range(batch // grain - len(speeds)):
        found[min(range(len(speeds)), key=lambda site: (found[site] + 1) / speeds[site])] += 1
    return [one * grain for one in found]
