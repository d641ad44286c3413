"""Which links the ranks of a group cross, from the inside of a node to the top of the network, and at which rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.core.cluster import Cluster, Ids, Level, Node


def levels(cluster: Cluster, size: int, stride: int, first: int, lanes: int | None) -> tuple[Level, ...]:
    """Return the levels of a group; see ``Cluster.path``."""
    ranks = _ranks(cluster, size, stride, first)
    places = _Places(cluster, ranks, *cluster.where(ranks))
    found = [*places.inside(), *places.between(_lanes(cluster, places, lanes))]
    return tuple(level for level in found if level.ranks > 1)


def _ranks(cluster: Cluster, size: int, stride: int, first: int) -> Ids:
    last = first + (size - 1) * stride
    if size < 1 or stride < 1 or first < 0 or last >= cluster.devices:
        raise ValueError(
            f"a group of size={size}, stride={stride}, first={first} ends at rank {last}; "
            f"{cluster.name} has ranks 0 to {cluster.devices - 1}"
        )
    return first + stride * np.arange(size, dtype=np.int64)


def _lanes(cluster: Cluster, places: _Places, lanes: int | None) -> int | None:
    smallest = min(node.devices for node in places.touched)
    if lanes is not None and not 1 <= lanes <= smallest:
        raise ValueError(f"lanes={lanes} is not on a node of {cluster.name}; use 1 to {smallest}")
    return lanes


@dataclass(frozen=True)
class _Places:
    """Where the ranks of a group lie: the number of the node, and the place in it."""

    cluster: Cluster
    ranks: Ids
    nodes: Ids
    inner: Ids

    @property
    def touched(self) -> list[Node]:
        return self.cluster.nodes_at(np.unique(self.nodes).tolist())

    def inside(self) -> list[Level]:
        """The levels inside of nodes, the slowest of those that the group touches for each."""
        numbers, place = np.unique(self.nodes, return_inverse=True)
        nodes = self.cluster.nodes_at(numbers.tolist())
        found, below, inner = [], self.ranks, [1] * len(nodes)
        for depth in range(max(len(node.links) for node in nodes)):
            links = [node.links[depth] if depth < len(node.links) else None for node in nodes]
            sizes = [link.devices if link else node.devices for link, node in zip(links, nodes, strict=True)]
            own = self.nodes * self.cluster.devices + self.inner // np.array(sizes)[place]
            parts, ranks, mine = _most(own, below), _most(own, self.ranks), _most(below, self.ranks)
            there = [(link, under) for link, under in zip(links, inner, strict=True) if link]
            if parts > 1:
                rate = self._measured(own, below, inside=True)
                rate = rate or min(link.rate(ranks, mine, under) for link, under in there)
                slow = max((link for link, _ in there), key=lambda link: link.latency_s)
                found.append(Level(parts, rate, slow.latency_s, slow.kind, all(link.reduces for link, _ in there)))
            below, inner = own, sizes
        return found

    def between(self, lanes: int | None) -> list[Level]:
        """The levels of the network, one per tier that the group crosses, and one above the last."""
        nodes = self.touched
        slowest = min(node.nic_rate(lanes or node.devices) for node in nodes)
        latency_s = max(node.nic.latency_s for node in nodes)
        kind = max(nodes, key=lambda node: node.nic.latency_s).nic.kind
        found, below = [], self.nodes
        share = 1.0
        tiers = [(tier.nodes, tier) for tier in self.cluster.tiers if tier.nodes < self.cluster.nodes]
        for count, tier in [*tiers, (self.cluster.nodes, None)]:
            own = self.nodes // count
            measured = self._measured(own, below, inside=False, lanes=lanes)
            rate = slowest / share if measured is None else measured
            found.append(Level(_most(own, below), rate, latency_s, kind))
            below = own
            if tier is not None:
                share *= tier.oversubscription
                latency_s += tier.extra_s
        return found

    def _measured(self, own: Ids, below: Ids, *, inside: bool, lanes: int | None = None) -> float | None:
        """The slowest measured rate of a device between neighbours of the group that meet at a level first."""
        matrix = self.cluster.measured
        if matrix is None:
            return None
        by_node = len(matrix) == self.cluster.nodes
        if by_node and inside:
            return None
        here = (own[:-1] == own[1:]) & (below[:-1] != below[1:])
        if not here.any():
            return None
        keys = self.nodes if by_node else self.ranks
        rate: float = min(matrix[a][b] for a, b in zip(keys[:-1][here].tolist(), keys[1:][here].tolist(), strict=True))
        if not by_node:
            return rate
        return min(self._share(node, rate, lanes or node.devices) for node in self.touched)

    def _share(self, node: Node, rate: float, lanes: int) -> float:
        """What one of ``lanes`` has of the measured rate between whole nodes: no more than the adapters next to it."""
        return min(rate / lanes, node.nic_rate(1))


def _most(own: Ids, below: Ids) -> int:
    """The most parts of the level below that one part of a level holds."""
    pairs = np.unique(np.stack([own, below]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].max())
