"""The command ``penstock machines``: the catalogue of devices and nodes, and one of them, or a cluster, in detail."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from penstock.cli.columns import print_columns
from penstock.core.catalogue import catalogue, find
from penstock.core.cluster import Cluster, Level, Node
from penstock.core.curves import Curves
from penstock.core.device import Device
from penstock.core.node import BY_HAND
from penstock.units import human_bytes, human_s

Row = tuple[str, ...]
DEVICE_HEAD = ("device", "memory", "TB/s", "bf16", "fp8", "fp32", "units", "GHz", "L2", "W", "usual node")
NODE_HEAD = ("node", "devices", "inside", "GB/s", "network", "GB/s", "host", "$/h", "as of", "kW")
PATH_HEAD = ("ranks", "stride", "cross", "parts", "GB/s", "latency")


def machines(name: str = "", /, *, usd_per_hour: float | None = None, json: Path | None = None) -> None:
    """List the devices and nodes that Penstock knows, or show one of them, or a cluster, in detail.

    Rates are peaks of one direction: of a device inside of a node, of all adapters of a node in the network. Peaks of
    devices are dense, in TFLOP/s.

    Args:
        name: a device, a node, a cluster such as dgx-h100:64, or FILE.toml; all devices and nodes without it.
        usd_per_hour: rent of one node, in place of the catalogue's.
        json: write the facts as JSON.
    """
    from penstock.core.files import writable, write_whole

    if json is not None:
        writable(json)
    if usd_per_hour is not None and (not name or usd_per_hour <= 0):
        fix = "use a price above 0" if name else "name the node or cluster that it is for"
        raise ValueError(f"--usd-per-hour {usd_per_hour:g}: {fix}")
    facts = _all() if not name else _one(name, usd_per_hour)
    if json is not None:
        write_whole(json, json_format.dumps(facts, indent=1) + "\n")


def device_rows(devices: Iterable[Device]) -> list[Row]:
    """Return the devices as rows below ``DEVICE_HEAD``."""
    return [
        (
            one.name,
            human_bytes(one.memory_bytes),
            _tera(one.memory_bytes_per_s),
            *(_tera(one.matrix_flops.get(precision)) for precision in ("bf16", "fp8")),
            _tera(one.vector_flops),
            str(one.units),
            _giga(one.clock_hz),
            human_bytes(one.l2_bytes),
            f"{one.power_w:.4g}" if one.power_w else "",
            one.node,
        )
        for one in devices
    ]


def node_rows(nodes: Iterable[Node]) -> list[Row]:
    """Return the nodes as rows below ``NODE_HEAD``."""
    return [
        (
            one.name,
            f"{one.devices} {one.device.name}",
            ", ".join(link.kind for link in one.links),
            ", ".join(_giga(link.bytes_per_s) for link in one.links),
            f"{one.nics} {one.nic.kind}",
            _giga(one.nics * one.nic.bytes_per_s),
            human_bytes(one.host_bytes),
            f"{one.usd_per_hour:,.2f}" if one.usd_per_hour else "",
            one.price_date,
            f"{one.power_w / 1e3:.4g}" if one.power_w else "",
        )
        for one in nodes
    ]


def _all() -> dict[str, Any]:
    """Print both tables; give the facts of all."""
    known = catalogue()
    _table([DEVICE_HEAD, *device_rows(known.devices.values())])
    print()
    _table([NODE_HEAD, *node_rows(known.nodes.values())])
    return {
        "devices": [_facts(one) for one in known.devices.values()],
        "nodes": [_node_facts(one) for one in known.nodes.values()],
    }


def _one(name: str, usd_per_hour: float | None) -> dict[str, Any]:
    """Print one device, node or cluster; give its facts."""
    found = None if usd_per_hour else find(name)
    if isinstance(found, Device):
        _print_facts(_device_text(found))
        return _facts(found)
    cluster = priced(Cluster.read(name), usd_per_hour)
    for node, _ in cluster.groups:
        _print_facts(_node_text(node))
        print()
    if not isinstance(found, Node):
        _print_facts(_cluster_text(cluster))
        print()
    _table([PATH_HEAD, *_path_rows(cluster)])
    return _node_facts(found) if isinstance(found, Node) else _cluster_facts(cluster)


def _cluster_facts(cluster: Cluster) -> dict[str, Any]:
    paths = [
        {"size": size, "stride": stride, "levels": [_facts(level) for level in levels]}
        for size, stride, levels in _paths(cluster)
    ]
    return {
        "name": cluster.name,
        "nodes": cluster.nodes,
        "devices": cluster.devices,
        "usd_per_hour": cluster.usd_per_hour,
        "power_w": cluster.power_w,
        "groups": [{"nodes": count, "node": _node_facts(node)} for node, count in cluster.groups],
        "paths": paths,
    }


def priced(cluster: Cluster, usd_per_hour: float | None) -> Cluster:
    """Return the cluster with this rent for each of its nodes, if any is given."""
    if usd_per_hour is None:
        return cluster
    groups = [
        (replace(node, usd_per_hour=usd_per_hour, price_date=BY_HAND, price_source=""), count)
        for node, count in cluster.groups
    ]
    return replace(cluster, groups=tuple(groups))


def _device_text(one: Device) -> list[Row]:
    peaks = ", ".join(f"{precision} {_tera(flops)}" for precision, flops in one.matrix_flops.items())
    return [
        ("device", one.name),
        ("also", ", ".join(one.aliases)),
        ("from", f"{one.vendor}, {one.architecture}"),
        ("memory", f"{human_bytes(one.memory_bytes)} at {_tera(one.memory_bytes_per_s)} TB/s"),
        ("matrices", f"{peaks} TFLOP/s, dense"),
        ("vectors", f"fp32 {_tera(one.vector_flops)} TFLOP/s"),
        ("chip", f"{one.units} units at {_giga(one.clock_hz)} GHz, {human_bytes(one.l2_bytes)} L2"),
        ("power", f"{one.power_w:.4g} W" if one.power_w else "not public"),
        ("usual node", one.node),
        ("measured", _measured(one.curves)),
        *_origin(one),
    ]


def _node_text(one: Node) -> list[Row]:
    inside = [
        ("inside", f"{link.kind}, {link.devices} devices, {_giga(link.bytes_per_s)} GB/s each, {link.shape}")
        for link in one.links
    ]
    origin = ": ".join(filter(None, (one.price_date, one.price_source)))
    price = f"$ {one.usd_per_hour:,.2f} per hour ({origin})" if one.usd_per_hour else "none"
    host = f"{human_bytes(one.host_bytes)} at {_giga(one.host_bytes_per_s)} GB/s"
    return [
        ("node", one.name),
        ("also", ", ".join(one.aliases)),
        ("devices", f"{one.devices} {one.device.name}"),
        *inside,
        ("to the host", f"{one.host_link.kind}, {_giga(one.host_link.bytes_per_s)} GB/s per {_sharing(one)}"),
        ("host", host),
        ("disks", _disks(one)),
        ("network", f"{one.nics} {one.nic.kind} of {_giga(one.nic.bytes_per_s)} GB/s"),
        ("price", price),
        ("power", f"{one.power_w / 1e3:.4g} kW" if one.power_w else "not public"),
        ("measured", _measured(next((link.curves for link in one.links if link.curves), one.device.curves))),
        *_origin(one),
    ]


def _sharing(one: Node) -> str:
    """Whose the rate of a link to the host is."""
    return "device" if one.host_link.devices == 1 else f"{one.host_link.devices} devices"


def _disks(one: Node) -> str:
    """What local disks hold, where that is known, and their rates."""
    read, write = (_giga(rate) for rate in one.disk_rates)
    rates = f"{read} GB/s" if read == write else f"{read} GB/s reading, {write} writing"
    return f"{human_bytes(one.disk_bytes)} at {rates}" if one.disk_bytes else rates


def _measured(curves: Curves | None) -> str:
    """When something was measured, and how many sizes of each part."""
    if curves is None:
        return ""
    parts = ", ".join(f"{part} {len(table['seconds'])}" for part, table in curves.tables.items())
    return ": ".join(filter(None, (curves.about.get("date", ""), parts)))


def _cluster_text(one: Cluster) -> list[Row]:
    memory = sum(node.devices * count * node.device.memory_bytes for node, count in one.groups)
    return [
        ("cluster", one.name),
        ("nodes", f"{one.nodes:,}"),
        ("devices", f"{one.devices:,}"),
        ("memory", human_bytes(memory)),
        ("price", f"$ {one.usd_per_hour:,.2f} per hour" if one.usd_per_hour else "none"),
        ("power", f"{one.power_w / 1e3:,.4g} kW" if one.power_w else "not public"),
    ]


def _origin(one: Device | Node) -> list[Row]:
    return [("source", one.source), *(("derived", f"{name}: {how}") for name, how in one.derived.items())]


def _paths(cluster: Cluster) -> list[tuple[int, int, tuple[Level, ...]]]:
    """Size, stride and levels of groups as meshes have them: neighbours up to a node, one device of each node, all."""
    inside = cluster.groups[0][0].devices
    sizes = [size for size in (2, 4, 8, 16, 32, 64) if size < inside] + [inside]
    groups = dict.fromkeys([*((size, 1) for size in sizes), (cluster.nodes, inside), (cluster.devices, 1)])
    fit = [(size, stride) for size, stride in groups if size > 1 and (size - 1) * stride < cluster.devices]
    return [(size, stride, cluster.path(size, stride)) for size, stride in fit]


def _path_rows(cluster: Cluster) -> list[Row]:
    rows: list[Row] = []
    for size, stride, levels in _paths(cluster):
        for number, level in enumerate(levels):
            head = ("", "") if number else (str(size), str(stride))
            rate = _giga(level.bytes_per_s)
            rows.append((*head, level.kind, str(level.ranks), rate, human_s(level.latency_s)))
    return rows


def _facts(one: Device | Node | Level) -> dict[str, Any]:
    """All fields but the tables of what was measured."""
    return asdict(one, dict_factory=lambda fields: {name: value for name, value in fields if name != "curves"})


def _node_facts(one: Node) -> dict[str, Any]:
    return _facts(one) | {"device": one.device.name}


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.4g}"


def _tera(rate: float | None) -> str:
    return f"{rate / 1e12:.4g}" if rate is not None else ""


def _print_facts(rows: Iterable[Row]) -> None:
    for name, text in rows:
        if text:
            print(f"{name:<12} {text}")


def _table(rows: Sequence[Row]) -> None:
    print_columns(rows, left=range(len(rows[0])))
