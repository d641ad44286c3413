"""The noun ``Cluster``: nodes in a row, the network between them, and which links a group of ranks crosses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import inf
from pathlib import Path

from penstock.core.curves import Curves
from penstock.core.device import Device
from penstock.core.node import Link, Node

__all__ = ["Cluster", "Level", "Link", "Node", "Tier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A level of the network above the nodes: ``nodes`` neighbouring ones below it have 1/``oversubscription`` of
    their adapters' rate to others under the same tier, and ``extra_s`` more latency."""

    nodes: int
    oversubscription: float = 1.0
    extra_s: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < 1 or not 1 <= self.oversubscription < inf or not 0 <= self.extra_s < inf:
            raise ValueError(f"{self}: nodes and oversubscription must be 1 or more, extra_s not below 0")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of links that a group crosses, from the inside out.

    Each of ``ranks`` parts (devices at the innermost, else what the level before joins) sends and receives
    ``bytes_per_s``, per device of the part; the product over the levels is the size of the group where it is even.
    ``curves`` holds what was measured on such links, if anything was; ``share``: as that of a ``Link``.
    """

    ranks: int
    bytes_per_s: float
    latency_s: float
    kind: str = ""
    reduces: bool = False
    curves: Curves | None = field(default=None, hash=False, repr=False)
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Groups of equal nodes in a row, and the network between them; rank r is device r, counted through the nodes.

    Args:
        groups: pairs of a node and how many of it.
        tiers: of the network, from the inside out; none: every node reaches every other at the rate of its adapters.
        measured: measured bytes/s between nodes (or between devices, if it has as many rows), row sends, column
            receives; replaces the rate of the adapters where it is lower or higher.

    >>> cluster = Cluster.read("dgx-h100:4")
    >>> cluster.devices, cluster.usd_per_hour
    (32, 95.68)
    >>> [(level.ranks, level.kind) for level in cluster.path(16)]
    [(8, 'nvswitch'), (2, 'infiniband')]
    """

    name: str
    groups: tuple[tuple[Node, int], ...]
    tiers: tuple[Tier, ...] = ()
    measured: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.groups or min(count for _, count in self.groups) < 1:
            raise ValueError(f"cluster {self.name} has no nodes in one of its groups; use 1 or more")
        sizes = [tier.nodes for tier in self.tiers]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"tiers join {sizes} nodes; write the innermost first, each larger than the one before")
        if self.measured is None:
            return
        rows = len(self.measured)
        if rows not in (self.nodes, self.devices) or any(len(row) != rows for row in self.measured):
            raise ValueError(
                f"measured has {rows} rows of {sorted({len(row) for row in self.measured})} numbers; "
                f"give {self.nodes} x {self.nodes} (nodes) or {self.devices} x {self.devices} (devices)"
            )
        pairs = [(rate, i, j) for i, row in enumerate(self.measured) for j, rate in enumerate(row) if i != j]
        for rate, i, j in pairs:
            if not 0 < rate < inf:
                raise ValueError(
                    f"measured has a rate of 0 or below, or no number: {rate} from {i} to {j}; "
                    "only those of a node to itself may be 0"
                )

    @staticmethod
    def read(text: str | Path) -> Cluster:
        """Return the cluster of ``NODE:NODES``, ``DEVICE:DEVICES``, several joined by ``+``, of a TOML file, or one
        that comes with Penstock (``data/clusters``: ``measured-h100``, ``measured-h200``).

        A device stands for its usual node; its number counts devices, which fill the nodes evenly. ``4x8`` for a number
        means four hosts with eight devices each.

        Raises:
            ValueError: an unknown name, a number that cannot be, or a file that cannot be read.

        >>> Cluster.read("a100-80gb:16").nodes, Cluster.read("p4d:2+p5:1").devices
        (2, 24)
        """
        from penstock.core.catalogue import read_cluster

        return read_cluster(text)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(count for _, count in self.groups)

    @cached_property
    def devices(self) -> int:
        """Number of devices, and so of ranks."""
        return sum(node.devices * count for node, count in self.groups)

    @cached_property
    def uniform(self) -> bool:
        """Whether all nodes are equal."""
        return len({node for node, _ in self.groups}) == 1

    @property
    def usd_per_hour(self) -> float | None:
        """Rent of all nodes; ``None`` if one has no price."""
        return _total((node.usd_per_hour, count) for node, count in self.groups)

    @property
    def power_w(self) -> float | None:
        """Most that all nodes draw; ``None`` if it is not known of one."""
        return _total((node.power_w, count) for node, count in self.groups)

    @cached_property
    def _paths(self) -> dict[tuple[int, int, int, int | None, int, int], tuple[Level, ...]]:
        """Paths that were asked for before."""
        return {}

    def node_of(self, rank: int) -> Node:
        """Return the node that holds a rank.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < self.devices:
            raise ValueError(f"rank={rank} is not on {self.name}, whose ranks are 0 to {self.devices - 1}")
        ends = accumulate(node.devices * count for node, count in self.groups)
        return next(node for (node, _), end in zip(self.groups, ends, strict=True) if rank < end)

    def device_of(self, rank: int) -> Device:
        """Return the device of a rank; errors as those of ``node_of``."""
        return self.node_of(rank).device

    @cached_property
    def device(self) -> Device:
        """The device whose pace all keep where each does the same work: the slowest of them by products in BF16, or in
        what it has of 16 bits or more, with the memory of the smallest.

        >>> found = Cluster.read("p5:2+p4d:2").device
        >>> found.name, found.memory_bytes == Cluster.read("p4d:1").device.memory_bytes
        ('a100-40gb-sxm', True)
        """
        devices = [node.device for node, _ in self.groups]
        slowest = min(devices, key=_pace)
        least = min(device.memory_bytes for device in devices)
        return slowest if slowest.memory_bytes == least else replace(slowest, memory_bytes=least)

    def path(
        self, size: int, stride: int = 1, run: int = 1, skip: int = 0, *, first: int = 0, lanes: int | None = None
    ) -> tuple[Level, ...]:
        """Return the levels that the ranks ``first + i * stride`` for ``i < size`` cross; none if that is one rank.

        Args:
            size: ranks of the group.
            stride: from one of its ranks to the next: 1 for the innermost axis of a mesh, tp for the next, and so on.
            run, skip: behind each ``run`` ranks, so many are left out: those of other groups (see ``core.mesh.Row``).
            first: its first rank; matters only where nodes differ.
            lanes: devices of a node that send to other nodes at once and share its adapters; all of them, unless said.

        Where nodes or links differ along the group, the slowest sets the pace.

        Raises:
            ValueError: the group does not lie on the cluster, or ``lanes`` is not on one of its nodes.

        >>> [level.bytes_per_s for level in Cluster.read("p4d:2").path(2, stride=8)]
        [6250000000.0]
        """
        asked = (size, stride, first, lanes, run, skip)
        if asked not in self._paths:
            from penstock.core.topology import levels

            self._paths[asked] = levels(self, *asked)
        return self._paths[asked]

    def slowest(
        self, size: int, stride: int = 1, run: int = 1, skip: int = 0, *, devices: int = 0
    ) -> tuple[Level, ...]:
        """Return the levels of the slowest of the groups like that of ``path`` into which the first so many devices
        fall, all if none are named; they are alike but where nodes or measured rates differ, or some of them lie over
        the end of a node.

        >>> [level.kind for level in Cluster.read("dgx-h100:3").slowest(6)]
        ['nvswitch', 'infiniband']
        """
        asked = (size, stride, -1, devices or self.devices, run, skip)
        if asked not in self._paths:
            from penstock.core.topology import slowest

            if self.uniform and self.measured is None and self._in_step(size * stride, run, skip):
                self._paths[asked] = self.path(size, stride, run, skip)
            else:
                self._paths[asked] = slowest(self, size, stride, run, skip, devices or self.devices)
        return self._paths[asked]

    def _in_step(self, span: int, run: int, skip: int) -> bool:
        """Return whether groups that take so many devices, each ``run`` of them with ``skip`` between, all lie alike on
        equal nodes: whether nodes, and what joins devices in and above them, hold whole groups or are held by them."""
        node = self.groups[0][0]
        edges = {
            node.devices,
            *(link.devices for link in node.links),
            *(tier.nodes * node.devices for tier in self.tiers),
        }
        sizes = (min(run, span), run + skip, max(1, span // run) * (run + skip)) if skip else (span,)
        return not any(edge % size and size % edge for edge in edges for size in sizes)

    def hop(self, size: int, stride: int) -> tuple[Level, ...]:
        """Return the levels of the slowest message between neighbours of the ranks ``i * stride`` for ``i < size``.

        Raises:
            ValueError: there is one rank, or the group does not lie on the cluster.

        >>> [level.kind for level in Cluster.read("dgx-h100:4").hop(4, stride=4)]
        ['infiniband']
        """
        from penstock.core.topology import hop

        if size < 2:
            raise ValueError(f"size={size} has no neighbours; use 2 or more")
        return hop(self, size, stride)


def _total(each: Iterable[tuple[float | None, int]]) -> float | None:
    """Return the sum of figures times how often, or ``None`` if one is missing."""
    total = 0.0
    for figure, count in each:
        if figure is None:
            return None
        total += figure * count
    return total


def _pace(device: Device) -> float:
    """FLOP/s of products in BF16, or in what comes nearest."""
    flops = device.matrix_flops
    return next((flops[name] for name in ("bf16", "fp16") if name in flops), max(flops.values()))
