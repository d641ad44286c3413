"""Which links the ranks of a group cross, from the inside of a node to the top of the network, and at which rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm

import numpy as np
import numpy.typing as npt

from penstock.core.cluster import Cluster, Level, Node

Ids = npt.NDArray[np.int64]


def levels(
    cluster: Cluster, size: int, stride: int, first: int, lanes: int | None, run: int, skip: int
) -> tuple[Level, ...]:
    """Return the levels of a group; see ``Cluster.path``."""
    places = _places(cluster, _ranks(cluster, size, stride, first, run, skip))
    smallest = min(node.devices for node in places.kinds)
    if lanes is not None and not 1 <= lanes <= smallest:
        raise ValueError(f"lanes={lanes} is not on a node of {cluster.name}; use 1 to {smallest}")
    found = [*places.inside(), *places.between(lanes)]
    return tuple(level for level in found if level.ranks > 1)


def _ranks(cluster: Cluster, size: int, stride: int, first: int, run: int, skip: int) -> Ids:
    last = (size - 1) * stride
    last += first + last // max(1, run) * skip
    if min(size, stride, run) < 1 or min(first, skip) < 0 or last >= cluster.devices:
        gaps = f", run={run}, skip={skip}" if (run, skip) != (1, 0) else ""
        raise ValueError(
            f"a group of size={size}, stride={stride}, first={first}{gaps} ends at rank {last}; "
            f"{cluster.name} has ranks 0 to {cluster.devices - 1}"
        )
    found = stride * np.arange(size, dtype=np.int64)
    return first + found + found // run * skip


def slowest(cluster: Cluster, size: int, stride: int, run: int, skip: int, devices: int) -> tuple[Level, ...]:
    """Return the levels of the slowest group; see ``Cluster.slowest``."""
    times = 1 + skip // run
    inner = np.arange(stride)
    beside = (inner + inner // run * skip)[:, None] + run * np.arange(times)
    whole = size * stride * times
    firsts = (beside.ravel()[:, None] + whole * np.arange(max(1, devices // whole))).ravel()
    unit = lcm(*(tier.nodes for tier in cluster.tiers))
    repeats = cluster.uniform and cluster.measured is None
    if repeats:  # groups lie alike that are whole tiers apart: of those the first
        firsts = firsts[np.sort(_first_of(firsts, unit * cluster.node_of(0).devices))]
    by_node = cluster.measured is None or len(cluster.measured) == cluster.nodes
    ranks = firsts[:, None] + _ranks(cluster, size, stride, 0, run, skip)
    keys = _places(cluster, ranks.ravel()).nodes.reshape(ranks.shape) if by_node else ranks
    _, some = np.unique(keys, axis=0, return_index=True)
    if repeats:
        _, alike = np.unique(keys[some] - keys[some, :1] // unit * unit, axis=0, return_index=True)
        some = some[np.sort(alike)]
    paths = dict.fromkeys(cluster.path(size, stride, run, skip, first=first) for first in firsts[some].tolist())
    return max(paths, key=_slow)


def _first_of(firsts: Ids, period: int) -> Ids:
    """Where the least of the numbers is that differ by whole periods, of each."""
    order = np.argsort(firsts, kind="stable")
    return order[np.unique(firsts[order] % period, return_index=True)[1]]


def _slow(levels: tuple[Level, ...]) -> tuple[float, float]:
    """How slow the slowest of some levels is."""
    return max(((1 / level.bytes_per_s, level.latency_s) for level in levels), default=(0.0, 0.0))


def hop(cluster: Cluster, size: int, stride: int) -> tuple[Level, ...]:
    """Return the levels of the slowest message between neighbours of a group; see ``Cluster.hop``."""
    each: Iterable[int] = range(size - 1)
    if cluster.uniform and cluster.measured is None:
        node = cluster.node_of(0)
        edges = [*(link.devices for link in node.links), *(tier.nodes * node.devices for tier in cluster.tiers)]
        each = sorted({0, *((edge - 1) // stride for edge in edges)} & {*each})
    paths = {cluster.path(2, stride, first=place * stride): None for place in each}
    return max(paths, key=_slow)


@dataclass(frozen=True)
class _Places:
    """Where the ranks of a group lie, in order: the kind of node, its number, and the place in it.

    Every number of a part below (of a level: its own) never falls along the ranks, so parts are runs.
    """

    cluster: Cluster
    kinds: list[Node]
    ranks: Ids
    kind: Ids
    nodes: Ids
    inner: Ids

    def inside(self) -> list[Level]:
        """The levels inside of nodes, the slowest of those that the group touches for each."""
        found, below, inner = [], self.ranks, [1] * len(self.kinds)
        for depth in range(max(len(node.links) for node in self.kinds)):
            links = [node.links[depth] if depth < len(node.links) else None for node in self.kinds]
            sizes = [link.devices if link else node.devices for link, node in zip(links, self.kinds, strict=True)]
            own = self.nodes * self.cluster.devices + self.inner // np.array(sizes)[self.kind]
            parts = _most(own, below)
            if parts > 1:
                ranks, mine = _most(own, self.ranks), _most(below, self.ranks)
                there = [(link, under) for link, under in zip(links, inner, strict=True) if link]
                rate = self._measured(own, below)
                rate = rate or min(link.rate(ranks, mine, under) for link, under in there)
                slow = max((link for link, _ in there), key=lambda link: link.latency_s)
                reduces = all(link.reduces for link, _ in there)
                found.append(Level(parts, rate, slow.latency_s, slow.kind, reduces, slow.curves))
            below, inner = own, sizes
        return found

    def between(self, lanes: int | None) -> list[Level]:
        """The levels of the network: one below each tier that does not span the cluster, and one above."""
        slowest = min(node.nic_rate(lanes or node.devices) for node in self.kinds)
        nic = max((node.nic for node in self.kinds), key=lambda nic: nic.latency_s)
        found, below, share, latency_s = [], self.nodes, 1.0, nic.latency_s
        tiers = [tier for tier in self.cluster.tiers if tier.nodes < self.cluster.nodes]
        for tier in [*tiers, None]:
            own = self.nodes // (tier.nodes if tier else self.cluster.nodes)
            rate = self._between_nodes(own, below, lanes) or slowest / share
            found.append(Level(_most(own, below), rate, latency_s, nic.kind, share=nic.share))
            below = own
            if tier is not None:
                share *= tier.oversubscription
                latency_s += tier.extra_s
        return found

    def _between_nodes(self, own: Ids, below: Ids, lanes: int | None) -> float | None:
        """What one lane has of a measured rate: if that is of whole nodes, no more than the adapters next to it."""
        matrix = self.cluster.measured
        rate = self._slowest(own, below, self.nodes)
        if matrix is None or rate is None:
            return None
        if len(matrix) != self.cluster.nodes:
            return self._measured(own, below)
        return min(min(rate / (lanes or node.devices), node.nic_rate(1)) for node in self.kinds)

    def _measured(self, own: Ids, below: Ids) -> float | None:
        """The slowest measured rate between devices that meet at a level first."""
        matrix = self.cluster.measured
        return None if matrix is None or len(matrix) != self.cluster.devices else self._slowest(own, below, self.ranks)

    def _slowest(self, own: Ids, below: Ids, keys: Ids) -> float | None:
        """The slowest measured rate between neighbours of the group that lie in one part, but not in one below."""
        matrix = self.cluster.measured
        here = (own[:-1] == own[1:]) & (below[:-1] != below[1:])
        if matrix is None or not here.any():
            return None
        pairs = zip(keys[:-1][here].tolist(), keys[1:][here].tolist(), strict=True)
        slowest: float = min(matrix[a][b] for a, b in pairs)
        return slowest


def _places(cluster: Cluster, ranks: Ids) -> _Places:
    if len(cluster.groups) == 1:
        node, _ = cluster.groups[0]
        return _Places(cluster, [node], ranks, np.zeros_like(ranks), *np.divmod(ranks, node.devices))
    sizes = np.array([node.devices for node, _ in cluster.groups])
    counts = np.array([count for _, count in cluster.groups])
    ends = np.cumsum(sizes * counts)
    group = np.searchsorted(ends, ranks, "right")
    within = ranks - (ends - sizes * counts)[group]
    nodes = (np.cumsum(counts) - counts)[group] + within // sizes[group]
    touched, kind = np.unique(group, return_inverse=True)
    kinds = [cluster.groups[number][0] for number in touched.tolist()]
    return _Places(cluster, kinds, ranks, kind, nodes, within % sizes[group])


def _most(own: Ids, below: Ids) -> int:
    """The most parts of the level below that one part of a level holds; both in runs."""
    of_parts = np.concatenate([own[:1], own[1:][below[1:] != below[:-1]]])
    edges = np.concatenate([[-1], np.flatnonzero(of_parts[1:] != of_parts[:-1]), [len(of_parts) - 1]])
    return int((edges[1:] - edges[:-1]).max())
