"""Devices and nodes by name: those that come with Penstock, and those that a cluster file adds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from penstock.core.cluster import Cluster, Link, Node, Tier
from penstock.core.curves import Curves
from penstock.core.device import Device, plain
from penstock.core.node import BY_HAND
from penstock.core.tables import Table, check_keys, made, merged, read_toml
from penstock.core.words import nearest, suggest

Named = TypeVar("Named", bound=Device | Node)
_OWN = frozenset({"aliases", "source", "derived", "usd_per_hour", "price_date", "price_source", "curves"})
"""Keys that a table never takes over from the one it is like."""
BESIDE = frozenset(("hbm2", "hbm2e", "hbm3", "hbm3e", "oam", "gpu", "gpus", "accelerator", "tensor", "core", "module"))
"""Words in names of devices that do not tell one from another."""
_NAMED = re.compile(r"(?P<name>[^:+]+)(?::(?P<count>[^:+x]*)(?:x(?P<each>[^:+]*))?)?")
_TIMES = re.compile(r"(?P<before>\d+) ?[x*] ?(?P<name>.+)|(?P<other>.+?) ?[x*] ?(?P<behind>\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Catalogue:
    """Devices and nodes by their catalogue names, and the tables that they were made of, for others like them."""

    devices: Mapping[str, Device]
    nodes: Mapping[str, Node]
    tables: Mapping[str, Mapping[str, Table]]

    def device(self, name: str) -> Device:
        """Return the device with this name or alias, or that of the node which is called so.

        Raises:
            ValueError: there is none; the nearest name is given.
        """
        found = _find(name, self.devices)
        if found is None and (node := _find(name, self.nodes)) is not None:
            return node.device
        if found is None:
            raise ValueError(f"device={name!r} is unknown; {_near(name, self.devices)}")
        return found

    def node(self, name: str) -> Node:
        """Return the node with this name or alias; errors as those of ``device``."""
        found = _find(name, self.nodes)
        if found is None:
            raise ValueError(f"node={name!r} is unknown; {_near(name, self.nodes)}")
        return found


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """Return what comes with Penstock; read once."""
    shelves: dict[str, dict[str, Table]] = {"devices": {}, "nodes": {}}
    for shelf, tables in shelves.items():
        folder = resources.files("penstock") / "data" / shelf
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            for name, table in read_toml(file).items():
                if name in tables:
                    raise ValueError(f"{file}: {name} is there twice")
                tables[name] = table
    return _made(Catalogue({}, {}, {}), shelves["devices"], shelves["nodes"], "")


@lru_cache(maxsize=1)
def link_kinds() -> Mapping[str, Table]:
    """Return the facts of each kind of link, with their source."""
    return read_toml(resources.files("penstock") / "data" / "links.toml")


def find(name: str) -> Device | Node | None:
    """Return the node, else the device, of the catalogue with this name or alias; ``None`` if there is none."""
    known = catalogue()
    return _find(name, known.nodes) or _find(name, known.devices)


def read_cluster(text: str | Path) -> Cluster:
    """Return the cluster that text or a file names; see ``Cluster.read``."""
    written = str(text)
    if isinstance(text, Path) or written.endswith(".toml"):
        return _from_file(Path(written).expanduser())
    with resources.as_file(resources.files("penstock") / "data" / "clusters" / f"{plain(written)}.toml") as shipped:
        if shipped.is_file():
            return _from_file(shipped)
    groups = tuple(_group(part, written) for part in written.split("+"))
    return Cluster(name=written, groups=groups)


def _group(part: str, whole: str) -> tuple[Node, int]:
    """One ``NODE:NODES``, ``DEVICE:DEVICES``, or with ``HOSTSxDEVICES`` of each."""
    known = catalogue()
    found = _NAMED.fullmatch(part.strip())
    if found is None:
        ways = "NODE:NODES, DEVICE:DEVICES, NAME:HOSTSxDEVICES or FILE.toml"
        raise ValueError(f"cluster={whole!r} is not read; write {ways}")
    name = found["name"].strip()
    named = _find(name, known.nodes)
    usual = named or _usual(name, known, whole)
    count, each = _count(found["count"], part), _count(found["each"], part)
    if each is not None:
        node = named or _with_hosts_of(each, count or 1, usual, known)
        return _filled(node if node.devices == each * node.hosts else node.part(each), (count or 1) * each, part)
    if named is not None:
        return named, count or 1
    return _filled(usual, count, part)


def _usual(name: str, known: Catalogue, whole: str) -> Node:
    """Return the usual node of a device."""
    device = _find(name, known.devices)
    if device is None:
        times = _TIMES.fullmatch(name)
        meant = (times["name"] or times["other"], times["before"] or times["behind"]) if times else ("", "")
        near = f"did you mean {':'.join(meant)!r}?" if find(meant[0]) else _near(name, {**known.devices, **known.nodes})
        raise ValueError(f"cluster={whole!r}: {name!r} is no node or device; {near}")
    return known.node(device.node)


def _count(text: str | None, part: str) -> int | None:
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"cluster={part!r}: {text!r} is no number of nodes or devices; use 1 or more")
    return int(text)


def _with_hosts_of(devices: int, hosts: int, usual: Node, known: Catalogue) -> Node:
    """Return the usual node if its hosts have so many devices, else another with them if there is one.

    On a single host a switch makes a part of the usual node as good as any.
    """
    if hosts == 1 and devices < usual.devices and usual.links[-1].shape == "switch":
        return usual
    same = [node for node in known.nodes.values() if node.device is usual.device]
    return next((node for node in (usual, *same) if node.devices == devices * node.hosts), usual)


def _filled(node: Node, devices: int | None, part: str) -> tuple[Node, int]:
    """Return the nodes that a number of devices fill evenly, each at least half full unless there is only one."""
    if devices is None:
        return node, 1
    if devices <= node.devices:
        return node.part(devices), 1
    for count in range(-(-devices // node.devices), 2 * devices // node.devices + 1):
        if devices % count == 0:
            return node.part(devices // count), count
    near = devices // node.devices * node.devices
    raise ValueError(
        f"cluster={part!r}: {devices} devices do not fill nodes of {node.devices} ({node.name}) evenly; "
        f"use {near} or {near + node.devices}"
    )


def _from_file(path: Path) -> Cluster:
    """Read a cluster file; every error names it."""
    try:
        return _from_tables(path, read_toml(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _from_tables(path: Path, given: Mapping[str, Any]) -> Cluster:
    """Read ``name``, ``measured``, ``[devices.NAME]``, ``[nodes.NAME]``, ``[curves.NAME]``, ``[[groups]]`` and
    ``[[tiers]]``."""
    check_keys("the file", given, ("name", "devices", "nodes", "curves", "groups", "tiers", "measured"))
    curves = {name: Curves.read(name, table) for name, table in _shelf(given, "curves").items()}
    devices, nodes = (_with_curves(_shelf(given, key), curves) for key in ("devices", "nodes"))
    for name in curves:
        if name not in devices and name not in nodes:
            raise ValueError(f"[curves.{name}] is of nothing in this file; {suggest(name, [*devices, *nodes])}")
    known = _made(catalogue(), devices, nodes, str(path))
    groups = tuple(_file_group(known, table, str(path)) for table in _rows(given, "groups"))
    if not groups:
        raise ValueError("there are no [[groups]]; write one with node = NAME and nodes = NUMBER")
    facts = {
        "name": given.get("name", path.stem),
        "groups": groups,
        "tiers": tuple(made(Tier, "[[tiers]]", table) for table in _rows(given, "tiers")),
        "measured": given.get("measured"),
    }
    return made(Cluster, "the file", facts)


def _shelf(given: Table, key: str) -> Mapping[str, Table]:
    """Return the tables below ``key`` by name."""
    found = given.get(key, {})
    if not isinstance(found, Mapping) or not all(isinstance(table, Mapping) for table in found.values()):
        raise ValueError(f"{key}={found!r} must hold tables; write [{key}.NAME] and the facts below")
    return found


def _with_curves(shelf: Mapping[str, Table], curves: Mapping[str, Curves]) -> Mapping[str, Table]:
    """Return the tables with what was measured of those that have the name of curves."""
    for name, table in shelf.items():
        if "curves" in table:
            raise ValueError(f"{name} has a key 'curves'; write what was measured in [curves.{name}]")
    return {name: {**table, "curves": curves[name]} if name in curves else table for name, table in shelf.items()}


def _rows(given: Table, key: str) -> list[Any]:
    found = given.get(key, [])
    if not isinstance(found, list):
        raise ValueError(f"{key}={found!r} must be a list of tables; write [[{key}]] and its keys below")
    return found


def _file_group(known: Catalogue, table: Table, file: str) -> tuple[Node, int]:
    check_keys("[[groups]]", table, ("node", "nodes", "usd_per_hour", "price_date"))
    if not isinstance(table.get("node"), str):
        raise ValueError("[[groups]] lacks node; write node = NAME of a node, and nodes = how many")
    node, count = known.node(table["node"]), table.get("nodes", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"[[groups]]: nodes={count!r} must be a whole number above 0")
    price = table.get("usd_per_hour")
    if price is None:
        return node, count
    if isinstance(price, bool) or not isinstance(price, int | float):
        raise ValueError(f"[[groups]]: usd_per_hour={price!r} must be a number")
    date = str(table.get("price_date", BY_HAND))
    return replace(node, usd_per_hour=float(price), price_date=date, price_source=file), count


def _made(known: Catalogue, devices: Mapping[str, Any], nodes: Mapping[str, Any], source: str) -> Catalogue:
    """Return ``known`` with more devices and nodes; ``source`` is that of those which name none."""
    tables = {
        "devices": {**known.tables.get("devices", {}), **devices},
        "nodes": {**known.tables.get("nodes", {}), **nodes},
    }
    defaults = {"source": source} if source else {}
    all_devices = dict(known.devices)
    for name in devices:
        table = defaults | merged(name, tables["devices"], _OWN)
        all_devices[name] = made(Device, f"device {name}", {"name": name} | table)
    grown = Catalogue(all_devices, known.nodes, tables)
    all_nodes = dict(known.nodes)
    for name in nodes:
        table = defaults | merged(name, tables["nodes"], _OWN)
        all_nodes[name] = _node(grown, name, table, f"node {name}")
    return Catalogue(all_devices, all_nodes, tables)


def _node(known: Catalogue, name: str, table: dict[str, Any], where: str) -> Node:
    """Return the node of a table, with its device and links in place of what names them."""
    facts = {"name": name} | table
    curves = facts.pop("curves", None)
    if "device" in facts:
        facts["device"] = known.device(str(facts["device"]))
    for key in ("host_link", "nic"):
        if key in facts:
            facts[key] = _link(facts[key], f"{where}: {key}")
    if isinstance(facts.get("links"), list):
        links = tuple(_link(link, f"{where}: links") for link in facts["links"])
        facts["links"] = tuple(replace(link, curves=curves) for link in links) if curves is not None else links
    return made(Node, where, facts)


def _link(table: Table, where: str) -> Link:
    """Return the link of a table, with what its kind says."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}={table!r} must be a table; write {{ kind = NAME, bytes_per_s = NUMBER }}")
    kind = str(table.get("kind"))
    if kind not in link_kinds():
        raise ValueError(f"{where}: kind={kind!r} is unknown; {suggest(kind, link_kinds())}")
    facts = {key: value for key, value in link_kinds()[kind].items() if key != "source"}
    return made(Link, where, facts | dict(table))


def _find(name: str, shelf: Mapping[str, Named]) -> Named | None:
    """Return what is called ``name``, whatever the order of its words."""
    if plain(name) in shelf:
        return shelf[plain(name)]
    wanted = _words(plain(name))
    for words in dict.fromkeys((wanted, wanted - BESIDE)):
        for one in shelf.values():
            if any(words == _words(known) for known in (one.name, *one.aliases)):
                return one
    return None


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    """The words of a plain name; every generation of a socket is the same word, a series and its number are two."""
    return frozenset(re.sub(r"^sxm\d$", "sxm", word) for word in re.sub(r"\brtx(?=\d)", "rtx-", name).split("-"))


def _near(name: str, shelf: Mapping[str, Device] | Mapping[str, Node] | Mapping[str, Device | Node]) -> str:
    """The end of an error line: the nearest name or alias, if one is alike."""
    near = nearest(plain(name), [known for one in shelf.values() for known in (one.name, *one.aliases)])
    return f"did you mean {near!r}?" if near else "penstock machines lists all"
