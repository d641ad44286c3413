"""The charts of a report: memory of each rank, operators under a roofline, fronts of trade-offs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt

from penstock.units import DAY_S, human_bytes, human_s, human_si
from penstock.view.report_section import Facts
from penstock.view.roofline import COLOURS
from penstock.view.svg import (
    LEFT,
    WIDE,
    Dot,
    across,
    frame,
    line,
    marked,
    root,
    scatter,
    text,
    upwards,
)

HELD = {
    "weights": "#2f6fb7", "gradients": "#56b4e9", "optimizer": "#1aa3a3", "activations": "#e69f00", "loss": "#f0d442",
    "working": "#d9722e", "messages": "#8a9a3b", "reserve": "#9aa4b2", "context": "#7d5ba6",
}  # fmt: skip
"""What memory of a device holds, and its colour."""
BAR, GAP, HEAD = 15.0, 4.0, 20.0
ROOM = 12.0
"""How far the axis of FLOPs per byte goes beyond the last point, for names."""
NAMED = 5
"""Operators with a name in the roofline."""
LARGEST, LEAST = 13.0, 2.5
"""Radius of points in the roofline."""


def memory(ranks: Sequence[Facts], device_bytes: float) -> str:
    """A bar for each pipeline rank, by what the memory of a device of it holds, beside the device's own."""
    high = HEAD + len(ranks) * (BAR + GAP) + 6
    most = max(device_bytes, *(rank["total"] for rank in ranks))
    return root(_memory(ranks, device_bytes, most, high), "Memory of a device of each pipeline rank", high)


def _memory(ranks: Sequence[Facts], device_bytes: float, most: float, high: float) -> Iterator[str]:
    right = WIDE - 62

    def at(size: float) -> float:
        return LEFT + size / most * (right - LEFT)

    for r, held in enumerate(ranks):
        y, begin = HEAD + r * (BAR + GAP), 0.0
        yield text(LEFT - 6, y + 12, f"rank {r}", "end", "tick")
        for name, colour in HELD.items():
            if not held[name]:
                continue
            wide = at(begin + held[name]) - at(begin)
            words = f"rank {r}, {name}: {human_bytes(held[name])}"
            yield f'<rect x="{at(begin):.2f}" y="{y:.1f}" width="{wide:.2f}" height="{BAR}" fill="{colour}">'
            yield f"<title>{words}</title></rect>"
            begin += held[name]
        yield text(WIDE, y + 12, human_bytes(begin), "end", "tick")
    yield line([(at(device_bytes), HEAD - 4), (at(device_bytes), high - 2)], "limit")
    yield text(at(device_bytes), HEAD - 8, f"the device has {human_bytes(device_bytes)}", "end", "tick")


def roofline(found: Facts) -> str:
    """Operators by FLOPs per byte and rate, an area for their time, under the peaks and what lasts of them."""
    return root(_roofline(found), f"Roofline of {found['device']}")


def _roofline(found: Facts) -> Iterator[str]:
    slope, points = found["memory"], found["operators"]
    used = [one for one in found["products"] if one["lasting_flops_per_s"] is not None]
    peaks = [one["peak_flops_per_s"] for one in used]
    ridges = [peak / slope["peak_bytes_per_s"] for peak in peaks]
    reach = [*(p["flops_per_byte"] for p in points), *ridges]
    x = across("FLOPs per byte", [*reach, ROOM * max(reach)], _plain, log=True)
    y = upwards("FLOP/s of a device", [*(p["flops_per_s"] for p in points), *peaks], _si, log=True)
    yield from frame(x, y)
    for which, kind in (("peak", "roof"), ("lasting", "roof lasting")):
        tops = [one[f"{which}_flops_per_s"] for one in used]
        rate = slope[f"{which}_bytes_per_s"]
        start = max(x.low, y.low / rate)
        yield line([(x.at(start), y.at(start * rate)), (x.at(max(tops) / rate), y.at(max(tops)))], kind)
        for one, top in zip(used, tops, strict=True):
            yield line([(x.at(top / rate), y.at(top)), (x.end, y.at(top))], kind)
            if which == "peak":
                yield text(x.end, y.at(top) - 4, f"{one['name']}, {_si(top)}FLOP/s", "end", "tick")
    above = [(x.at(max(ridges)), y.at(peak) - 16, x.end, y.at(peak)) for peak in peaks]
    yield from marked([(x.at(dot.x), y.at(dot.y), dot) for dot in _operators(points)], above)


def _operators(points: Sequence[Facts]) -> list[Dot]:
    whole, largest = sum(p["seconds"] for p in points), max(p["seconds"] for p in points)
    return [
        Dot(
            p["flops_per_byte"], p["flops_per_s"], p["name"] if place < NAMED else "",
            f"{p['name']}: {human_s(p['seconds'])}, {p['seconds'] / whole:.1%} of all operators",
            colour=COLOURS[p["kind"]], radius=max(LEAST, LARGEST * sqrt(p["seconds"] / largest)),
        )
        for place, p in enumerate(points)
    ]  # fmt: skip


def letters(points: Sequence[Facts]) -> list[str]:
    """Names of points: A to Z, then A1.

    >>> letters([{}] * 28)[-3:]
    ['Z', 'A1', 'B1']
    """
    return [f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[place % 26]}{place // 26 or ''}" for place in range(len(points))]


def of_memory(points: Sequence[Facts]) -> str:
    """Step time over memory of a device."""
    dots = [
        Dot(p["needed_bytes"] / 2**30, p["seconds"], name, f"{name}: {_said(p)}, {p['split']}", p["front"])
        for name, p in zip(letters(points), points, strict=True)
    ]
    times = [dot.y for dot in dots]
    x = across("memory of a device, GiB", [dot.x for dot in dots], _plain)
    y = upwards("step time", times, human_s, log=_far(times))
    return scatter(dots, x, y, "Step time against memory of a device")


def of_devices(points: Sequence[Facts]) -> str:
    """Step time over devices."""
    dots = [
        Dot(p["devices"], p["seconds"], f"{p['devices']:,}", f"{_said(p)}, {p['split']}", p["front"]) for p in points
    ]
    x = across("devices", [dot.x for dot in dots], lambda value: f"{value:,.0f}", log=True, fixed=True)
    y = upwards("step time", [dot.y for dot in dots], human_s, log=True)
    return scatter(dots, x, y, "Step time against number of devices")


def of_cost(points: Sequence[Facts]) -> str:
    """Cost over time: of the training where it is known how long that is, else of a step."""
    name, word = cost_name(points)
    whole = points[0]["training_seconds"] is not None
    dots = [
        Dot(
            p["training_seconds"] / DAY_S if whole else p["seconds"], cost_of(p),
            f"{p['devices']:,}", f"{_said(p)}, {word(cost_of(p))}, {p['split']}", p["front"],
        )
        for p in points
    ]  # fmt: skip
    x = across("days" if whole else "step time, s", [dot.x for dot in dots], _plain, log=_far([dot.x for dot in dots]))
    y = upwards(name, [dot.y for dot in dots], _si)
    return scatter(dots, x, y, "Cost against time")


def cost_name(points: Sequence[Facts]) -> tuple[str, Callable[[float], str]]:
    """What the cost of points is, and how it is written."""
    of = "a step" if points[0]["training_seconds"] is None else "the training"
    if points[0]["usd_per_step"] is None:
        return f"device-hours of {of}", lambda value: f"{value:,.4g} device-hours"
    return f"$ of {of}", dollars


def dollars(usd: float) -> str:
    """An amount in words.

    >>> dollars(82_988_776.2), dollars(0.01234)
    ('$ 82,988,776', '$ 0.0123')
    """
    return f"$ {usd:,.0f}" if usd >= 100 else f"$ {usd:,.3g}"


def cost_of(point: Facts) -> float:
    """The rent of the training, or of a step where nobody said how long it is; device-hours where there is no rent."""
    known = "device_hours" if point["usd_per_step"] is None else "usd"
    of_training = point[f"training_{known}"]
    return float(point[f"{known}_per_step"] if of_training is None else of_training)


def _far(values: Sequence[float]) -> bool:
    """Whether values are so far apart that equal ratios should be."""
    return max(values) > 8 * min(values)


def _said(p: Facts) -> str:
    return f"{human_s(p['seconds'])}, {human_bytes(p['needed_bytes'])} of a device, {p['devices']:,} devices"


def _plain(value: float) -> str:
    return f"{value:,.10g}" if value >= 1 or value == 0 else f"{value:.2g}"


def _si(value: float) -> str:
    return human_si(value, figures=4)
