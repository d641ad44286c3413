"""What ``penstock plan`` prints and writes: strategies by names for scripts, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from penstock.cli_columns import print_columns
from penstock.cli_planner_best import print_best, print_what_if
from penstock.cli_predict_text import usd_of
from penstock.predict.energy import JOULES_PER_KWH, joules
from penstock.search.choice import Choice, Planned, flags_of
from penstock.search.space import Space
from penstock.units import human_bytes, human_s

DAY_S = 86_400.0


def facts_of(
    found: Planned, space: Space, asked: dict[str, Any], rejected: list[str], mine: Choice | None
) -> dict[str, Any]:
    """Return all figures by the names that scripts read, in SI units and shares; ``None`` for what is not known."""

    def choice(one: Choice | None) -> dict[str, Any] | None:
        return None if one is None else _choice(one, space, asked)

    return {
        "asked": asked,
        "devices": space.devices,
        "device": space.cluster.device_of(0).name,
        "considered": found.considered,
        "impossible": found.impossible,
        "too_large": found.too_large,
        "scored": found.scored,
        "predicted": found.predicted,
        "proven": found.proven,
        "headroom": found.headroom,
        "search_seconds": found.seconds,
        "choices": [choice(one) for one in found.choices],
        "rejected": rejected,
        "why": choice(mine),
        "nearest": choice(found.nearest),
        "changes": list(found.changes),
    }


def _choice(one: Choice, space: Space, asked: dict[str, Any]) -> dict[str, Any]:
    steps = None if asked["tokens"] is None else asked["tokens"] / one.setup.tokens
    per_step = usd_of(space.cluster, one.setup.devices, one.seconds)
    energy = joules(space.cluster, one.setup.devices, one.seconds)
    words = f"--model {asked['model']} --cluster {asked['cluster']} --framework {asked['framework']}"
    return {
        "split": one.split,
        "setup": asdict(one.setup),
        "seconds": one.seconds,
        "seconds_interval": [one.low_s, one.high_s],
        "tokens_per_s_per_device": one.tokens_per_s_per_device,
        "mfu": one.mfu,
        "hfu": one.hfu,
        "bubble": one.bubble,
        "messages_s": one.messages_s,
        "parts_s": dict(one.parts),
        "memory_bytes": asdict(one.peak) | {"total": one.peak.total, "needed": one.needed_bytes},
        "device_memory_bytes": one.memory_bytes,
        "headroom": one.headroom,
        "usd_per_step": per_step,
        "joules_per_step": energy,
        "training_seconds": None if steps is None else steps * one.seconds,
        "training_usd": None if steps is None or per_step is None else steps * per_step,
        "training_kwh": None if steps is None or energy is None else steps * energy / JOULES_PER_KWH,
        "predict": f"penstock predict {words} {flags_of(one.setup, space.stack.usual)}",
    }


def print_planned(found: Planned, facts: dict[str, Any], rejected: list[str], mine: Choice | None) -> None:
    """Print a plan for people."""
    print(_counts(facts))
    if found.nearest is not None:
        _print_none(found, found.nearest)
    else:
        print()
        rows = [*_table(found, facts)]
        print_columns(rows, left=(len(rows[0]) - 1,))
        print(f"\nthe best\n  {facts['choices'][0]['predict']}")
        print_best(facts)
        print("\nwhy not")
        for line in rejected:
            print(f"  {line}")
        print_what_if(facts)
    if mine is not None:
        print()
        print_columns(_beside(mine, found.choices[0] if found.choices else None))


def _counts(facts: dict[str, Any]) -> str:
    how = "none can be faster" if facts["proven"] else "others may be as fast"
    ending = f", {facts['predicted']:,} predicted; {how}" if facts["choices"] else ""
    return (
        f"{facts['considered']:,} strategies in {facts['search_seconds']:.1f} s: {facts['impossible']:,} do not "
        f"divide the model, {facts['too_large']:,} need too much memory, {facts['scored']:,} scored{ending}"
    )


def _table(found: Planned, facts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    whole = facts["asked"]["tokens"] is not None
    head = ("", "step time", "interval", "tokens/s", "MFU", "bubble", "messages", "memory", "left")
    yield (*head, *(("days", "cost") if whole else ()), "split")
    for place, (one, said) in enumerate(zip(found.choices, facts["choices"], strict=True), 1):
        row = (
            str(place), human_s(one.seconds), f"{human_s(one.low_s)} to {human_s(one.high_s)}",
            f"{one.tokens_per_s_per_device:,.0f}", f"{one.mfu:.1%}", f"{one.bubble:.1%}", human_s(one.messages_s),
            human_bytes(one.needed_bytes), f"{one.headroom:.0%}",
        )  # fmt: skip
        usd = said["training_usd"]
        more = (f"{said['training_seconds'] / DAY_S:,.1f}", "" if usd is None else f"$ {usd:,.0f}") if whole else ()
        yield (*row, *more, one.split)


def _print_none(found: Planned, one: Choice) -> None:
    room = (1 - found.headroom) * one.memory_bytes
    print(
        f"\nnothing fits: {one.split} needs least, {human_bytes(one.needed_bytes)} of {human_bytes(one.memory_bytes)}, "
        f"{human_bytes(one.needed_bytes - room)} too much with {found.headroom:.0%} of headroom"
    )
    print("what would fit" if found.changes else "no single change would fit")
    for change in found.changes:
        print(f"  {change}")


def _beside(mine: Choice, best: Choice | None) -> Iterable[tuple[str, ...]]:
    """A user's own choice beside the best, part by part."""
    other = best or mine
    yield ("", "yours", "best", "difference")
    either = {**mine.parts, **other.parts}
    names = sorted(either, key=lambda name: -abs(mine.parts.get(name, 0) - other.parts.get(name, 0)))
    rows = [
        ("step time", mine.seconds, other.seconds),
        *((n, mine.parts.get(n, 0), other.parts.get(n, 0)) for n in names),
    ]
    yield from ((name, human_s(a), human_s(b), f"{'+' if a >= b else ''}{human_s(a - b)}") for name, a, b in rows)
    a, b = mine.needed_bytes, other.needed_bytes
    yield ("memory", human_bytes(a), human_bytes(b), f"{'+' if a >= b else ''}{human_bytes(a - b)}")
    yield ("fits", "yes" if mine.headroom >= 0 else "no", "yes" if other.headroom >= 0 else "no", "")
