"""A choice beside others: why neighbours of the best lost, and what a user's own choice takes part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from penstock.core.disks import DISKS, idle
from penstock.core.filling import filling
from penstock.core.setup import Setup
from penstock.predict import predict
from penstock.schedules import SCHEDULES
from penstock.search.choice import Choice
from penstock.search.meshes import nearest_axis
from penstock.search.space import Space
from penstock.search.switches import flipped
from penstock.search.wishes import COLUMNS, EMPTY, RECOMPUTE, layers_text, wishes
from penstock.units import human_bytes, human_s

PLAIN: dict[str, Any] = {
    "shards": 0,
    "vocabulary": 0,
    "stage_layers": (),
    "recompute_layers": (),
    "offload": 0.0,
    "optimizer_offload": 0.0,
    "weight_offload": 0.0,
    "disk": "none",
}
"""What variants are variants of."""


def own(space: Space, given: str) -> Choice:
    """Return a user's own choice, ``dp`` taking what is left of the devices; what is searched is else as the framework
    has it, and the rest as in the space.

    Raises:
        ValueError: it cannot be, or a field has several values.
    """
    said = wishes(given)
    for name, values in said.items():
        if len(values) > 1:
            raise ValueError(f"{name} has {len(values)} values; a choice has one of each")
    rest = {each.name: getattr(space.base, each.name) for each in fields(Setup) if each.name not in COLUMNS}
    usual = rest | {"recompute": space.stack.recompute}
    setup = filling(space.devices, **usual | {name: values[0] for name, values in said.items()})
    return Choice.of(setup, predict(space.model, space.cluster, setup, space.stack))


def neighbours(space: Space, best: Choice, headroom: float) -> Iterator[str]:
    """Give the reason why each neighbour of the best lost, in one line; fields that are fixed have none."""
    for change in _steps(space, best.setup):
        if space.fixed.keys() & change.keys():
            continue
        said = ", ".join(f"{name}={_said(name, value)}" for name, value in change.items())
        try:
            setup = changed(space, best.setup, change)
            other = Choice.of(setup, predict(space.model, space.cluster, setup, space.stack))
        except ValueError as error:
            yield f"{said} cannot be: {error}"
            continue
        yield f"{said}{_place(space, setup, change)} {reason(best, other, headroom)}"


def _steps(space: Space, setup: Setup) -> Iterator[dict[str, Any]]:
    """One field at a time, to its next values."""
    # ``dp`` takes what another axis leaves
    axes = [name for name in ("tp", "pp", "cp") if space.stack.splits(name) and space.stack.splits("dp")]
    for name in (*axes, "micro", *(("ep",) if setup.ep > 1 else ())):
        value = getattr(setup, name)
        yield from ({name: other} for other in (value // 2, value * 2) if other >= 1)
    if setup.pp > 1:
        yield from (
            {"schedule": name} | ({"chunks": 2} if SCHEDULES[name].chunks else {})
            for name in space.schedules
            if name != setup.schedule
        )
    yield from ({"recompute": name} for name in space.values("recompute", RECOMPUTE) if name != setup.recompute)
    stages = space.zero_stages(setup.pp) if setup.replicas > 1 and not setup.weight_offload else ()
    yield from ({"zero": stage} for stage in stages if stage != setup.zero)
    if setup.tp > 1 and (setup.sp or "sp" not in space.stack.lacks):
        yield {"sp": not setup.sp}
    for way in space.context_ways(setup.tp, setup.cp):
        named = dict(zip(("cp_heads", "cp_inner"), way, strict=True))
        if other := {name: value for name, value in named.items() if value != getattr(setup, name)}:
            yield other
    yield from flipped(space, setup)
    yield from ({"order": order} for order in space.stack.orders if order != setup.order and setup.pp > 1)
    yield from ({name: plain} for name, plain in PLAIN.items() if getattr(setup, name) != plain)


def _said(name: str, value: Any) -> str:
    if name in EMPTY:
        return layers_text(value) if value else EMPTY[name]
    return str(int(value) if isinstance(value, bool) else value)


def changed(space: Space, setup: Setup, change: Mapping[str, Any]) -> Setup:
    """Return the setup with a change, on all devices.

    Raises:
        ValueError: it cannot be.
    """
    more = dict(change)
    if more.get("pp") == 1:
        more |= {"schedule": "1f1b", "chunks": 1}
    if "schedule" in more:
        more.setdefault("chunks", 1)
    if more.keys() & {"pp", "chunks", "schedule"}:
        more["stage_layers"] = ()
    cut_anew = bool(more.keys() & {"pp", "chunks", "schedule", "stage_layers"}) and len(setup.recompute_layers) != 1
    if cut_anew or more.get("recompute") in ("full", setup.recompute_first):
        more.setdefault("recompute_layers", ())
    if more.keys() & {"tp", "cp", "pp"}:
        cp, inner = more.get("cp", setup.cp), setup.cp_inner
        more |= {"shards": 0, "cp_heads": setup.cp_heads and cp > 1}
        more |= {"cp_inner": inner if inner < cp and cp % max(1, inner) == 0 else 0}
    if not more.get("sp", setup.sp):
        more.setdefault("tp_overlap", "own")
    if idle(setup.disk, {name: more.get(name, getattr(setup, name)) for name in DISKS[setup.disk]}):
        more.setdefault("disk", "none")
    size = 1
    for name in ("tp", "cp", "pp"):
        size *= more.get(name, getattr(setup, name))
    if space.devices % size:
        raise ValueError(f"it takes a multiple of {size} devices")
    more["dp"] = space.devices // size
    single = more.get("pp", setup.pp) > 1 and more.get("chunks", setup.chunks) == 1
    if single or more.get("recompute", setup.recompute) == "full" or _micros(setup, more) == 1:
        more.setdefault("ep_overlap", "own")
    return replace(setup, **more)


def _micros(setup: Setup, more: Mapping[str, Any]) -> int:
    """Micro-batches of a setup with a change."""
    return int(setup.batch // more["dp"] // more.get("micro", setup.micro))


def _place(space: Space, setup: Setup, change: Mapping[str, Any]) -> str:
    if "order" in change:
        return f", {nearest_axis(setup, space.node_devices)}:"
    return " leaves the node:" if change.get("tp", 1) > space.node_devices else ":"


def reason(best: Choice, other: Choice, headroom: float) -> str:
    """Return how another choice differs from the best: the memory it lacks, or its time and the part that grew most."""
    if other.headroom < headroom:
        free = f" less {headroom:.0%} of headroom" if other.headroom >= 0 else ""
        return f"needs {human_bytes(other.needed_bytes)} of {human_bytes(other.memory_bytes)}{free}"
    if other.host_bytes > other.host_memory_bytes:
        return f"needs {human_bytes(other.host_bytes)} of {human_bytes(other.host_memory_bytes)} in host memory"
    if other.disk_bytes > other.disk_room_bytes:
        return f"needs {human_bytes(other.disk_bytes)} of {human_bytes(other.disk_room_bytes)} on disks"
    more = {name: other.parts.get(name, 0) - best.parts.get(name, 0) for name in {**best.parts, **other.parts}}
    name, most_s = max(sorted(more.items()), key=lambda part: part[1])
    slower = round(other.seconds / best.seconds - 1, 3)
    why = f", {name} +{human_s(most_s)}" if most_s > 0.001 * best.seconds else ""
    return f"{f'{slower:+.1%}' if slower else 'no difference in'} step time{why}"
