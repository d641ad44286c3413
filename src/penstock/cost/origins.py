"""The noun ``Constant``: a number of the model with its range, meaning and source; how to find those that count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from penstock.core.arguments import arguments
from penstock.core.device import Device
from penstock.core.recipes import Recipe
from penstock.cost.constants import table
from penstock.cost.kernels import memory_bound
from penstock.cost.stack import Stack, stack, stacks, tables

Value = float | str | bool
"""Of a constant."""
UNKNOWN = ("guess", "estimate", "not measured")
"""Words in the source of what nobody measured."""
KEPT_APART = ("name", "kernels", "source", "aliases")
"""Fields of a stack that are no constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A number that a figure was made with.

    ``name`` says where it stands: ``matmul.tail`` in ``data/constants.toml``, ``levels.matmul.hopper bf16`` likewise,
    ``megatron-core.moves`` in ``data/frameworks.toml``, ``h100-80gb-sxm.bf16`` in ``data/devices``. ``range``: within
    which a fit looks for it. ``error``: relative, ``None`` where none is known. ``guessed``: nobody measured it.
    """

    name: str
    value: Value
    meaning: str
    source: str
    range: str = ""
    error: float | None = None
    guessed: bool = False


def shown(value: Value) -> str:
    """Return the value of a constant in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.6g}"


def constant(part: str, name: str) -> Constant:
    """Return a constant of the time model, for example ``matmul`` and ``tail``."""
    facts = table()[part][name]
    return Constant(name=f"{part}.{name}", guessed=_unknown(facts["source"]), **facts)


def parts() -> Iterator[str]:
    """Give the parts of the time model that have constants with a meaning each."""
    return (part for part in table() if part not in ("about", "levels"))


def level(part: str, key: str) -> Constant:
    """Return a level, for example ``matmul`` and ``hopper bf16``."""
    facts, about = table()["levels"][part][key], table()["about"][part]
    shapes = f", {facts['shapes']} shapes" if "shapes" in facts else ""
    return Constant(
        name=f"levels.{part}.{key}",
        value=facts["level"],
        meaning=about["meaning"],
        range=about["range"],
        source=facts["source"] + shapes,
        error=facts["error"],
        guessed=_unknown(facts["source"]),
    )


def level_of(words: str, value: float, error: float) -> Constant:
    """Return the level that a ``Time`` names, which is that of a curve where no table has it."""
    part, _, key = words.partition(" ")
    if key in table()["levels"].get(part, {}):
        return level(part, key)
    meaning = "share of the bound that shapes measured on this machine reach; others by how near they are"
    return Constant(name=words, value=value, meaning=meaning, source="the cluster file", error=error)


def of_stack(framework: Stack, name: str) -> Constant:
    """Return a field of a framework, with the table that sets it."""
    facts = tables()["ranges"][name]
    shipped = framework.name in (*tables(), "default")
    owner, source = _set_by(framework.name, name) if shipped else (framework.name, framework.source)
    value = getattr(framework, name)
    return Constant(
        name=f"{owner}.{name}",
        value=", ".join(map(str, value)) if isinstance(value, tuple) else value,
        meaning=_meanings()[name],
        range=facts["range"],
        source=source,
        guessed=_unknown(source),
    )


def of_device(device: Device, what: str) -> Constant:
    """Return a fact of a device's datasheet: a field, or the peak of products in a precision."""
    peaks = device.matrix_flops
    value = peaks[what] if what in peaks else getattr(device, what)
    meaning = f"peak FLOP/s of products in {what}" if what in peaks else arguments(Device)[what]
    how = device.derived.get(what)
    return Constant(name=f"{device.name}.{what}", value=value, meaning=meaning, source=how or device.source)


def of_memory(device: Device) -> list[Constant]:
    """Return what ``memory_bound`` is made with."""
    time = memory_bound(device, 1.0)
    own = level_of(time.level_of, time.level, time.error)
    floor = [constant("memory", "latency_s")] if own.name.startswith("levels.") else []  # a curve has one of its own
    return [of_device(device, "memory_bytes_per_s"), own, *floor]


def of_framework(framework: Stack) -> Iterator[Constant]:
    """Give all fields of a framework."""
    return (of_stack(framework, field.name) for field in fields(Stack) if field.name not in KEPT_APART)


def of_recipe(recipe: Recipe, architecture: str, what: str) -> Constant:
    """Return what a recipe does on an architecture, ``casts`` or ``rate``, as ``Recipe`` has it."""
    rates = what == "rate"
    meaning = "rate of products over that with one scale a tensor" if rates else "time of casts over that of fits"
    source = recipe.rates_source if rates else recipe.source
    value = recipe.rate(architecture) if rates else recipe.casts(architecture)
    return Constant(name=f"{recipe.name}.{what}", value=value, meaning=meaning, source=source, guessed=_unknown(source))


def of_frameworks() -> Iterator[Constant]:
    """Give the defaults of all frameworks, and what each sets."""
    yield from of_framework(Stack(name="default"))
    for framework in stacks():
        own = of_framework(stack(framework))
        yield from (each for each in own if each.name.startswith(f"{framework}."))


def _set_by(framework: str, name: str) -> tuple[str, str]:
    """Which table sets a field, and its source."""
    own: dict[str, Any] = tables().get(framework, {})
    if name in own:
        return framework, own.get("source", "")
    if "like" in own:
        return _set_by(own["like"], name)
    return "default", tables()["ranges"][name]["source"]


@cache
def _meanings() -> dict[str, str]:
    return arguments(Stack)


def _unknown(source: str) -> bool:
    return any(word in source for word in UNKNOWN)
