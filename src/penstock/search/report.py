"""What a report of a plan holds beside the ranking: the strategy opened up, and what that stands on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from penstock.core.curves import Curves
from penstock.core.timeline import Timeline
from penstock.cost.origins import of_framework
from penstock.predict.explain import Explanation, explain
from penstock.predict.figure import Figure
from penstock.predict.roofline import Ceiling, Roofline
from penstock.search.choice import Choice
from penstock.search.in_words import question, strategy
from penstock.search.pareto import Pareto, Point
from penstock.search.space import Space

PACKAGES = ("penstock", "numpy", "numba")
"""Whose versions a report names."""
Facts = dict[str, Any]


def report_of(space: Space, one: Choice, tokens: float | None, headroom: float) -> tuple[Facts, Timeline]:
    """Return a strategy opened up by names for JSON, in SI units and shares, and the timeline of its pipeline.

    Args:
        space: what it was chosen from.
        one: the strategy.
        tokens: of the whole training, if that was asked.
        headroom: share of a device's memory that had to stay free.
    """
    found = explain(space.model, space.cluster, one.setup, space.stack)
    step = found.prediction
    facts = {
        "question": question(space, tokens, headroom),
        "strategy": strategy(one.setup),
        "fits": step.fits,
        "tokens_per_s": step.tokens_per_s,
        "memory_by_rank_bytes": [asdict(room) | {"total": room.total, "needed": room.needed} for room in step.rooms],
        "time": _tree(found.time),
        "roofline": _roofline(found.roofline),
        "assumptions": _assumptions(space, found, one),
    }
    return facts, step.timeline


def _tree(figure: Figure) -> Facts:
    """Seconds with what they are the sum of, the largest first."""
    below = [_tree(part) for part in sorted(figure.parts, key=lambda part: -part.value)]
    return {"name": figure.name, "seconds": figure.value, "how": figure.how} | ({"parts": below} if below else {})


def _roofline(found: Roofline) -> Facts:
    def ceiling(one: Ceiling, unit: str) -> Facts:
        return {"name": one.name, f"peak_{unit}": one.peak, f"lasting_{unit}": one.lasting}

    return {
        "device": found.device.name,
        "memory": ceiling(found.memory, "bytes_per_s"),
        "products": [ceiling(one, "flops_per_s") for one in found.flops],
        "operators": [
            {
                "name": point.name, "kind": point.kind, "flops_per_byte": point.flops_per_byte,
                "flops_per_s": point.flops_per_s, "seconds": point.seconds,
            }
            for point in sorted(found.points, key=lambda point: -point.seconds)
        ],
    }  # fmt: skip


def _assumptions(space: Space, found: Explanation, one: Choice) -> Facts:
    seconds = found.time.touched()
    sizes = max(found.memory, key=lambda figure: figure.value).touched()
    stack, devices = space.stack, dict.fromkeys(node.device for node, _ in space.cluster.groups)
    return {
        "guessed": list(found.prediction.guessed),
        "constants": [asdict(each) | {"part_s": seconds.get(each, 0.0), "part_bytes": sizes.get(each, 0.0)}
                      for each in dict.fromkeys((*seconds, *sizes))],
        "framework": {"name": stack.name, "source": stack.source, "constants": [*map(asdict, of_framework(stack))]},
        "devices": [{"name": each.name, "source": each.source} for each in devices],
        "measured": _measured(space),
        "nodes": [
            {
                "name": node.name, "count": count, "devices": node.devices, "usd_per_hour": node.usd_per_hour,
                "price_date": node.price_date, "price_source": node.price_source,
            }
            for node, count in space.cluster.groups
        ],
        "score_error": one.score_s / one.seconds - 1,
        "made": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }  # fmt: skip


def _measured(space: Space) -> list[Facts]:
    """Date, device and versions of all that a cluster file measured."""
    found: list[Curves | None] = []
    for node, _ in space.cluster.groups:
        found += [node.device.curves, *(link.curves for link in (*node.links, node.nic, node.host_link))]
    return [{"what": name, **about} for name, about in {one.name: one.about for one in found if one}.items()]


def pareto_facts(found: Pareto, tokens: float | None) -> Facts:
    """Return trade-offs by names for JSON; ``front`` says which points no other beats."""

    def points(some: Iterable[Point], front: Iterable[bool]) -> list[Facts]:
        return [_point(one, tokens) | {"front": on} for one, on in zip(some, front, strict=True)]

    return {
        "time_memory": points(found.memory, found.memory_front),
        "time_devices": points(found.devices, found.devices_front),
        "time_cost": points(found.devices, found.cost_front),
        "refused": [{"devices": devices, "reason": why} for devices, why in found.refused],
    }


def _point(one: Point, tokens: float | None) -> Facts:
    choice = one.choice
    steps = None if tokens is None else tokens / choice.setup.tokens
    usd = one.usd_per_step
    return {
        "split": choice.split,
        "nodes": one.nodes,
        "devices": one.devices,
        "seconds": choice.seconds,
        "seconds_interval": [choice.low_s, choice.high_s],
        "tokens_per_s_per_device": choice.tokens_per_s_per_device,
        "mfu": choice.mfu,
        "needed_bytes": choice.needed_bytes,
        "device_hours_per_step": one.device_hours,
        "usd_per_step": usd,
        "training_seconds": None if steps is None else steps * choice.seconds,
        "training_device_hours": None if steps is None else steps * one.device_hours,
        "training_usd": None if steps is None or usd is None else steps * usd,
    }
