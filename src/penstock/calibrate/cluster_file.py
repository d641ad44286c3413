"""The second half of ``penstock calibrate``: from measured rows to a cluster file with curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.calibrate.measure import Row
from penstock.core.catalogue import catalogue, find
from penstock.core.curves import COLUMNS
from penstock.core.device import Device, plain
from penstock.units import human_s

OF_NODE = ("transfer", "collective", "disk")
"""Parts that belong to a node; the others are of a device."""
_ARCHITECTURES = {7: "volta", 8: "ampere", 9: "hopper", 10: "blackwell", 12: "blackwell"}
_ABOUT = ("date", "device", "ranks", "threads", "torch", "cuda", "cudnn", "nccl", "driver_version", "power_limit")
_LINK_BYTES = 1 << 20
"""Messages from this size on show the rate of a link, the smallest its latency."""


def cluster_file(rows: Sequence[Row], name: str) -> str:
    """Return the text of a cluster file: this machine's device and node, one group of it, and what was measured.

    A GPU that the catalogue knows keeps its datasheet, and its curves stand beside that; of all others, peaks are the
    best that was measured.

    Args:
        rows: as ``measure`` gives them.
        name: of the cluster; the device and the node get names like it.

    Raises:
        ValueError: there are no facts of the machine, or neither products nor memory were measured.
    """
    about = next((row for row in rows if row["part"] == "facts"), None)
    if about is None:
        raise ValueError("the rows do not say which machine was measured; take those of a whole calibration")
    found = {part: [row for row in rows if row["part"] == part and "seconds" in row] for part in COLUMNS}
    device, node = f"{plain(name)}-device", f"{plain(name)}-node"
    named = find(str(about["device"])) if about["type"] == "cuda" else None
    known = named if isinstance(named, Device) else None
    source = f"measured {about['date']} by penstock calibrate"
    lines = [
        f"# {about['device']} as penstock calibrate measured it on {about['date']}.",
        "",
        f"name = {_toml(name)}",
        "",
    ]
    facts = _known_device(known, about) if known else _new_device(about, found)
    lines += _table(f"devices.{device}", facts | {"source": source})
    lines += _table(f"nodes.{node}", _node(known, about, found, device) | {"source": source})
    lines += ["[[groups]]", f"node = {_toml(node)}", ""]
    told = {key: str(about[key]) for key in _ABOUT if about.get(key)}
    for owner, parts in ((device, [part for part in COLUMNS if part not in OF_NODE]), (node, OF_NODE)):
        failed = [_failure(row) for row in rows if row["part"] in parts and "failed" in row]
        lines += _table(f"curves.{owner}", {"about": told, "failed": failed})
        for part in parts:
            lines += _rows(f"curves.{owner}.{part}", part, found[part])
    return "\n".join(lines).rstrip() + "\n"


def _known_device(known: Device, about: Row) -> dict[str, Any]:
    return {"like": known.name, "memory_bytes": int(about["memory_bytes"])}


def _new_device(about: Row, found: Mapping[str, list[Row]]) -> dict[str, Any]:
    """A device of which no datasheet is at hand."""
    peaks = _peaks([*found["matmul"], *found["sustained"]])
    rates = [row["moved_bytes"] / row["seconds"] for row in found["memory"] if row["kind"] in ("copy", "add")]
    if not peaks or not rates:
        raise ValueError("neither products nor memory were measured; calibrate without --parts, or with more --seconds")
    cuda = about["type"] == "cuda"
    sharers = 1 if cuda else int(about["ranks"])
    clock_hz = float(about["clock_khz"]) * 1e3 if "clock_khz" in about else float(about.get("clock_hz", 1e9))
    measured = "the best that was measured"
    return {
        "vendor": "NVIDIA" if cuda else str(about["device"]).split()[0],
        "architecture": _ARCHITECTURES.get(int(str(about["capability"]).split(".")[0]), "unknown") if cuda else "cpu",
        "memory_bytes": int(about["memory_bytes"]) // sharers,
        "memory_bytes_per_s": max(rates),
        "matrix_flops": peaks,
        "vector_flops": peaks.get("fp32", max(peaks.values())),
        "units": int(about["units" if cuda else "threads"]),
        "clock_hz": clock_hz,
        "l2_bytes": int(about["cache_bytes"]) // sharers,
        "derived": dict.fromkeys(("memory_bytes_per_s", "matrix_flops", "vector_flops"), measured),
    }


def _peaks(rows: Iterable[Row]) -> dict[str, float]:
    """Most FLOP/s of products, by precision."""
    peaks: dict[str, float] = {}
    for row in rows:
        flops_per_s = 2 * row["batch"] * row["m"] * row["n"] * row["k"] / row["seconds"]
        peaks[row["precision"]] = max(peaks.get(row["precision"], 0.0), flops_per_s)
    return peaks


def _node(known: Device | None, about: Row, found: Mapping[str, list[Row]], device: str) -> dict[str, Any]:
    """The node: as the usual one of a known device, with what was measured in its place."""
    ranks = int(about["ranks"])
    facts: dict[str, Any] = {"device": device, "devices": ranks, "links": _links(known, ranks, found["collective"])}
    facts["host_bytes"] = int(about["host_memory_bytes"])
    if found["disk"]:
        written = max(row["bytes"] / row["seconds"] for row in found["disk"])
        facts |= {"disk_bytes_per_s": written, "disk_write_bytes_per_s": written, "disk_bytes": 0}
    if known:
        usual = catalogue().node(known.node)
        facts = {"like": known.node} | facts | {"nics": max(1, usual.nics * ranks // usual.devices)}
        if usual.power_w:
            facts["power_w"] = usual.power_w * ranks / usual.devices
    else:
        facts |= {"nics": 1, "nic": {"kind": "ethernet", "bytes_per_s": 1.25e9}}
        facts["derived"] = {"nics": "not measured: one adapter", "nic": "not measured: 10 Gbit/s"}
        if not found["disk"]:
            facts["disk_bytes_per_s"] = 1e9
            facts["derived"]["disk_bytes_per_s"] = "not measured: 1 GB/s"
        rate = max(row["moved_bytes"] / row["seconds"] for row in found["memory"])
        facts["host_bytes_per_s"] = rate * ranks
        facts["host_link"] = {"kind": "memory", "bytes_per_s": rate}
    moved = [row for row in found["transfer"] if row["way"] != "both"]
    if moved:
        slow_s = min(row["seconds"] for row in moved)
        facts["host_link"] = {"kind": "pcie", "bytes_per_s": _rate(moved), "latency_s": slow_s}
    if ranks > 1 and not _sends(found["collective"]):
        facts["derived"] = facts.get("derived", {}) | {"links": "not measured: 1 GB/s"}
    return facts


def _links(known: Device | None, ranks: int, collectives: Sequence[Row]) -> list[dict[str, Any]]:
    """What joins the ranks: one link with the rate and the latency of messages."""
    if ranks == 1:
        return []
    sends, kind = _sends(collectives), "nvswitch" if known else "memory"
    if not sends:
        return [{"kind": kind, "devices": ranks, "bytes_per_s": 1e9}]
    latency_s = min(row["seconds"] for row in sends)
    return [{"kind": kind, "devices": ranks, "bytes_per_s": _rate(sends), "latency_s": latency_s}]


def _sends(collectives: Sequence[Row]) -> list[Row]:
    return [row for row in collectives if row["kind"] == "send"]


def _rate(rows: Sequence[Row]) -> float:
    """Best bytes per second of large messages, of any where there are none."""
    large = [row for row in rows if row["bytes"] >= _LINK_BYTES] or rows
    return float(max(row["bytes"] / row["seconds"] for row in large))


def _failure(row: Row) -> str:
    """What was not measured, and why, in one line."""
    facts = [f"{key}={value}" for key, value in row.items() if key not in ("part", "failed")]
    return f"{row['part']} {' '.join(facts)}".strip() + f": {row['failed']}"


def _rows(head: str, part: str, rows: Sequence[Row]) -> list[str]:
    """A table of ``Curves.read``, one row on a line."""
    if not rows:
        return []
    columns = [name for name in COLUMNS[part] if name != "spread" or all("spread" in row for row in rows)]
    lines = [f"  [{', '.join(_toml(_short(row[name])) for name in columns)}]," for row in rows]
    return [f"[{head}]", f"columns = {_toml(columns)}", "rows = [", *lines, "]", ""]


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _table(head: str, facts: Mapping[str, Any]) -> list[str]:
    return [f"[{head}]", *(f"{key} = {_toml(value)}" for key, value in facts.items()), ""]


def _toml(value: object) -> str:
    """A value as TOML writes it; JSON's strings and TOML's are the same for what stands here."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(of)}" for key, of in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(f"{value:.7g}"))
    return json.dumps(value)


def summary(rows: Sequence[Row]) -> str:
    """Return what was measured in a few lines, for people."""
    lines = []
    for part in COLUMNS:
        own = [row for row in rows if row["part"] == part and "seconds" in row]
        failed = [row for row in rows if row["part"] == part and "failed" in row]
        if own or failed:
            text = f"{part:<11}{len(own):>4} measured" + (f", {_best(part, own)}" if own else "")
            lines.append(text + (f"; {len(failed)} not" if failed else ""))
    return "\n".join(lines)


def _best(part: str, rows: Iterable[Row]) -> str:
    """The best of a part: a rate, or the shortest time."""
    if part in ("matmul", "sustained"):
        return "up to " + ", ".join(f"{flops / 1e12:.3g} TFLOP/s in {name}" for name, flops in _peaks(rows).items())
    if part in ("memory", "transfer", "disk"):
        moved = "moved_bytes" if part == "memory" else "bytes"
        return f"up to {max(row[moved] / row['seconds'] for row in rows) / 1e9:.3g} GB/s"
    return f"from {human_s(min(row['seconds'] for row in rows))}"
