"""Numbers of nodes: as text gives them, and clusters of so many."""

from __future__ import annotations

from dataclasses import replace

from penstock.core.cluster import Cluster
from penstock.core.node import Node
from penstock.core.words import spans_of


def grown(cluster: Cluster, nodes: int) -> Cluster:
    """Return a cluster of so many of its nodes.

    Raises:
        ValueError: its nodes differ and it is not all of them, or links were measured of fewer nodes.

    >>> grown(Cluster.read("dgx-h100:4"), 16).devices
    128
    """
    if not cluster.uniform and nodes != cluster.nodes:
        raise ValueError(
            f"cluster={cluster.name} has nodes of several kinds, and all keep the pace of the slowest; ask for all of "
            f"its {cluster.nodes} nodes, or for numbers of one kind"
        )
    if not cluster.uniform:
        return cluster
    if cluster.measured is not None and nodes > cluster.nodes:
        raise ValueError(f"links of {cluster.name} were measured of {cluster.nodes} nodes; ask for no more than these")
    measured, node = cluster.measured, cluster.groups[0][0]
    if measured is not None:
        rows = nodes if len(measured) == cluster.nodes else nodes * node.devices
        measured = tuple(row[:rows] for row in measured[:rows])
    return replace(cluster, groups=((node, nodes),), measured=measured)


def kinds(cluster: Cluster) -> dict[str, Cluster]:
    """Return a cluster of each kind of node that a cluster has, by its name.

    >>> [*kinds(Cluster.read("p5:2+p4d:2"))]
    ['p5:2', 'p4d:2']
    """
    counts: dict[Node, int] = {}
    for node, count in cluster.groups:
        counts[node] = counts.get(node, 0) + count
    named = {f"{node.name}:{count}": ((node, count),) for node, count in counts.items()}
    return {name: replace(cluster, name=name, groups=groups, measured=None) for name, groups in named.items()}


def counted(text: str) -> list[int]:
    """Return numbers that text gives: ``8..64``, ``8/16/32``, or both.

    Raises:
        ValueError: something else.

    >>> counted("8/16..18")
    [8, 16, 17, 18]
    """
    spans = spans_of(text)
    if spans is None or any(low > high for low, high in spans):
        raise ValueError(f"{text!r} is no number of nodes; write 64, 8..64 or 8/16/32")
    return sorted({count for low, high in spans for count in range(low, high + 1)})
