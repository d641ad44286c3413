"""What a report says of trade-offs: tables and charts of step time against memory, devices and cost."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.units import DAY_S, human_bytes, human_s
from penstock.view import charts
from penstock.view.report_section import Facts, Listing, Section


def trades(pareto: Facts) -> list[Listing]:
    """Tables of the trade-offs: those that no other beats have a star."""
    found = []
    if pareto["time_memory"]:
        points = pareto["time_memory"]
        rows = [
            (name, human_s(p["seconds"]), human_bytes(p["needed_bytes"]), _star(p), p["split"])
            for name, p in zip(charts.letters(points), points, strict=True)
        ]
        head = ("", "step time", "memory", "front", "split")
        found.append(Listing(title="Time against memory of a device", head=head, rows=rows, left=(0, 4)))
    if pareto["time_devices"]:
        found.append(_devices(pareto["time_devices"], pareto["time_cost"]))
    return found


def _devices(points: Sequence[Facts], by_cost: Sequence[Facts]) -> Listing:
    name, word = charts.cost_name(points)
    whole = points[0]["training_seconds"] is not None
    rows = [
        (
            f"{p['devices']:,}", human_s(p["seconds"]),
            *([f"{p['training_seconds'] / DAY_S:,.1f}"] if whole else []),
            f"{p['tokens_per_s_per_device']:,.0f}", f"{p['mfu']:.1%}", human_bytes(p["needed_bytes"]),
            word(charts.cost_of(p)), _star(p), _star(c), p["split"],
        )
        for p, c in zip(points, by_cost, strict=True)
    ]  # fmt: skip
    head = (
        "devices", "step time", *(["days"] if whole else []), "tokens/s", "MFU", "memory", name, "front",
        "front of cost", "split",
    )  # fmt: skip
    return Listing(title="Time against devices and cost", head=head, rows=rows, left=(0, len(head) - 1))


def _star(point: Facts) -> str:
    return "*" if point["front"] else ""


def refused(pareto: Facts) -> list[str]:
    """Numbers of devices with which nothing is, and why."""
    return [f"{_devices_text(one['devices'])}: {one['reason']}" for one in pareto["refused"]]


def _devices_text(devices: int) -> str:
    return "one device" if devices == 1 else f"{devices:,} devices"


def section(pareto: Facts) -> Section:
    """The part of the report."""
    shown = {}
    if pareto["time_memory"]:
        shown["Step time against memory of a device"] = charts.of_memory(pareto["time_memory"])
    if pareto["time_devices"]:
        shown["Step time against number of devices"] = charts.of_devices(pareto["time_devices"])
        shown["Cost against time, by number of devices"] = charts.of_cost(pareto["time_cost"])
    line = "No other strategy beats one on the front (on the line in charts, with a star in tables) in both figures."
    return Section(
        name="trades", title="Trade-offs", lines=[line], heading="Not possible", items=refused(pareto), figures=shown,
        tables=trades(pareto),
    )  # fmt: skip
