"""The nouns ``Link``, ``Node`` and ``Cluster``: what joins devices, and which links a group of ranks crosses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from penstock.core.device import Device
from penstock.core.tables import check_fields, check_positive

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins devices, or one network adapter.

    Args:
        kind: a key of ``data/links.toml``.
        devices: how many neighbouring devices it joins; 1 for an adapter.
        bytes_per_s: peak of one device (or one adapter) in one direction, over all its links together.
        latency_s: time of an empty message.
        shape: ``switch``: any two have the whole rate; ``mesh``: it is split evenly over all others; ``torus``: over
            ``axes``, of which a group that is not everything uses one.
        reduces: whether the switch can add up what passes through it.
    """

    kind: str
    devices: int = 1
    bytes_per_s: float
    latency_s: float
    shape: Literal["switch", "mesh", "torus"] = "switch"
    axes: int = 1
    reduces: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "devices", "bytes_per_s", "latency_s", "axes")

    def rate(self, ranks: int, own: int = 1, inner: int = 1) -> float:
        """Return bytes/s in one direction that each of ``ranks`` devices that talk among themselves has on this link.

        Args:
            ranks: devices that talk, ``own`` of them behind one's own inner link, which joins ``inner`` devices.

        >>> Link(kind="xgmi", devices=8, bytes_per_s=448e9, latency_s=1e-6, shape="mesh").rate(4)
        192000000000.0
        """
        if self.shape == "mesh":
            return self.bytes_per_s * (ranks - own) / (self.devices - inner)
        return self.bytes_per_s / (self.axes if ranks < self.devices else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Devices that one fabric joins, with their hosts: a box, or a whole rack where a switch spans it.

    Args:
        links: inside, from the innermost to the one that joins all devices; empty for a single device.
        host_link: one device and its host's memory.
        host_bytes: memory of all its hosts.
        host_bytes_per_s: of that memory, all channels.
        disk_bytes_per_s: of its local disks, reading.
        nics: adapters for traffic between nodes (of all hosts); storage has its own.
        nic: one of them.
        hosts: operating systems in it.
        usd_per_hour: rent of the whole node; ``None`` where nobody rents it.
        price_date: year and month of the price.
        power_w: most that the whole node draws.
        derived: facts that stand nowhere, by field, and how they were got.
    """

    name: str
    device: Device
    devices: int
    links: tuple[Link, ...]
    host_link: Link
    host_bytes: int
    host_bytes_per_s: float
    disk_bytes_per_s: float
    nics: int
    nic: Link
    hosts: int = 1
    usd_per_hour: float | None = None
    price_date: str = ""
    price_source: str = ""
    power_w: float | None = None
    source: str
    derived: Mapping[str, str] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_positive(self, "devices", "host_bytes", "host_bytes_per_s", "disk_bytes_per_s", "nics", "hosts")
        check_positive(self, "usd_per_hour", "power_w")
        check_fields(self, "derived")
        joined = [link.devices for link in self.links]
        if joined != sorted(set(joined)) or (joined or [1])[-1] != self.devices or 1 in joined:
            raise ValueError(f"links join {joined} devices; write the innermost first and {self.devices} last")
        if self.usd_per_hour is not None and not self.price_date:
            raise ValueError(f"usd_per_hour={self.usd_per_hour:g} has no price_date; say of which month it is")

    def nic_rate(self, lanes: int) -> float:
        """Return bytes/s in one direction of each of ``lanes`` devices that send to other nodes at once.

        A device has the adapters next to it (``nics`` over ``devices``, at least one); where there are fewer adapters
        than lanes, the lanes share them.
        """
        nearest = max(1, self.nics // self.devices)
        return self.nic.bytes_per_s * min(nearest, self.nics / lanes)

    def part(self, devices: int) -> Node:
        """Return this node with only ``devices`` of its devices in use, and the adapters next to them.

        Everything else stays, the rent too.
        """
        nics = max(1, self.nics * devices // self.devices)
        inner = tuple(link for link in self.links if link.devices < devices)
        last = next((link for link in self.links if link.devices >= devices), None)
        if last is None or devices == 1:
            return replace(self, devices=devices, nics=nics, links=())
        below = inner[-1].devices if inner else 1
        share = (devices - below) / (last.devices - below) if last.shape == "mesh" else 1.0
        outer = replace(last, devices=devices, bytes_per_s=last.bytes_per_s * share)
        return replace(self, devices=devices, nics=nics, links=(*inner, outer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A level of the network above the nodes: ``nodes`` neighbouring ones below it have 1/``oversubscription`` of
    their adapters' rate to others under the same tier, and ``extra_s`` more latency."""

    nodes: int
    oversubscription: float = 1.0
    extra_s: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.oversubscription < 1 or self.extra_s < 0:
            raise ValueError(f"{self}: nodes and oversubscription must be 1 or more, extra_s not below 0")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of links that a group crosses, from the inside out.

    Each of ``ranks`` parts (devices at the innermost, else what the level before joins) sends and receives
    ``bytes_per_s``, per device of the part; the product over the levels is the size of the group where it is even.
    """

    ranks: int
    bytes_per_s: float
    latency_s: float
    kind: str = ""
    reduces: bool = False


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
        if any(rate <= 0 for i, row in enumerate(self.measured) for j, rate in enumerate(row) if i != j):
            raise ValueError("measured has a rate of 0 or below; only those of a node to itself may be 0")

    @staticmethod
    def read(text: str | Path) -> Cluster:
        """Return the cluster of ``NODE:NODES``, ``DEVICE:DEVICES``, several joined by ``+``, or of a TOML file.

        A device stands for its usual node; its number counts devices, which fill the nodes evenly.

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

    @property
    def devices(self) -> int:
        """Number of devices, and so of ranks."""
        return sum(node.devices * count for node, count in self.groups)

    @property
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
    def _paths(self) -> dict[tuple[int, int, int, int | None], tuple[Level, ...]]:
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

    def path(self, size: int, stride: int = 1, *, first: int = 0, lanes: int | None = None) -> tuple[Level, ...]:
        """Return the levels that the ranks ``first + i * stride`` for ``i < size`` cross; none if that is one rank.

        Args:
            size: ranks of the group.
            stride: from one of its ranks to the next: 1 for the innermost axis of a mesh, tp for the next, and so on.
            first: its first rank; matters only where nodes differ.
            lanes: devices of a node that send to other nodes at once and share its adapters; all of them, unless said.

        Where nodes or links differ along the group, the slowest sets the pace.

        Raises:
            ValueError: the group does not lie on the cluster, or ``lanes`` is not on one of its nodes.

        >>> [level.bytes_per_s for level in Cluster.read("p4d:2").path(2, stride=8)]
        [6250000000.0]
        """
        asked = (size, stride, first, lanes)
        if asked not in self._paths:
            from penstock.core.topology import levels

            self._paths[asked] = levels(self, *asked)
        return self._paths[asked]


def _total(each: Iterable[tuple[float | None, int]]) -> float | None:
    """Return the sum of figures times how often, or ``None`` if one is missing."""
    total = 0.0
    for figure, count in each:
        if figure is None:
            return None
        total += figure * count
    return total
