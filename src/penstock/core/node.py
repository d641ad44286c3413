"""The nouns ``Link`` and ``Node``: devices that one fabric joins, with their hosts and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from penstock.core.curves import Curves
from penstock.core.device import Device
from penstock.core.tables import check_fields, check_positive

BY_HAND = "given by hand"
"""The date of a price that a user gives without one."""


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
        curves: what was measured between ranks that it joins, if a cluster file says so.
        share: of its rate that long messages reach; 0: as on links inside of nodes, by the constants of collectives.
    """

    kind: str
    devices: int = 1
    bytes_per_s: float
    latency_s: float
    shape: Literal["switch", "mesh", "torus"] = "switch"
    axes: int = 1
    reduces: bool = False
    curves: Curves | None = field(default=None, hash=False, repr=False)
    share: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "devices", "bytes_per_s", "latency_s", "axes")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share:g} of the rate of a {self.kind} link must be from 0 to 1")

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
        host_link: one device and its host's memory; its ``devices`` share that rate.
        host_bytes: memory of all its hosts.
        host_bytes_per_s: of that memory, all channels.
        disk_bytes_per_s: of its local disks, reading.
        disk_write_bytes_per_s: of these, writing; 0: as reading.
        disk_bytes: what they hold; 0: there are none, or nobody said.
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
    disk_write_bytes_per_s: float = 0.0
    disk_bytes: int = 0
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
        for name in ("disk_write_bytes_per_s", "disk_bytes"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name):g} must be 0 or more")
        check_fields(self, "derived")
        joined = [link.devices for link in self.links]
        if joined != sorted(set(joined)) or (joined or [1])[-1] != self.devices or 1 in joined:
            raise ValueError(f"links join {joined} devices; write the innermost first and {self.devices} last")
        if self.usd_per_hour is not None and not self.price_date:
            raise ValueError(f"usd_per_hour={self.usd_per_hour:g} has no price_date; say of which month it is")

    @property
    def disk_rates(self) -> tuple[float, float]:
        """Bytes/s of its disks, reading and writing."""
        return self.disk_bytes_per_s, self.disk_write_bytes_per_s or self.disk_bytes_per_s

    @property
    def host_rate(self) -> float:
        """Bytes/s in one direction between a device and its host while all devices of the node copy."""
        return self.host_link.bytes_per_s / min(self.host_link.devices, self.devices)

    def nic_rate(self, lanes: int) -> float:
        """Return bytes/s in one direction of each of ``lanes`` devices that send to other nodes at once.

        A device has the adapters next to it (``nics`` over ``devices``, at least one); where there are fewer adapters
        than lanes, the lanes share them.
        """
        nearest = max(1, self.nics // self.devices)
        return self.nic.bytes_per_s * min(nearest, self.nics / lanes)

    def part(self, devices: int) -> Node:
        """Return this node with only ``devices`` of its devices in use: the hosts that they need, with all that these
        have and cost, and the adapters next to the devices.

        Raises:
            ValueError: it has fewer devices, or none are wanted.
        """
        if not 1 <= devices <= self.devices:
            raise ValueError(f"{self.name} has {self.devices} devices, not {devices}; use 1 to {self.devices}")
        hosts = -(-devices * self.hosts // self.devices)
        share = hosts / self.hosts
        return replace(
            self,
            devices=devices,
            hosts=hosts,
            links=self._links_of(devices),
            nics=max(1, self.nics * devices // self.devices),
            host_bytes=round(self.host_bytes * share),
            host_bytes_per_s=self.host_bytes_per_s * share,
            disk_bytes_per_s=self.disk_bytes_per_s * share,
            disk_write_bytes_per_s=self.disk_write_bytes_per_s * share,
            disk_bytes=round(self.disk_bytes * share),
            usd_per_hour=self.usd_per_hour and self.usd_per_hour * share,
            power_w=self.power_w and self.power_w * share,
        )

    def _links_of(self, devices: int) -> tuple[Link, ...]:
        """The links among so many neighbouring devices; a mesh loses those to the others."""
        if devices == 1:
            return ()
        inner = tuple(link for link in self.links if link.devices < devices)
        last = next(link for link in self.links if link.devices >= devices)
        below = inner[-1].devices if inner else 1
        rate = last.rate(devices, below, below) if last.shape == "mesh" else last.bytes_per_s
        return (*inner, replace(last, devices=devices, bytes_per_s=rate))
