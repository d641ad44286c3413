"""What ``penstock plan`` prints and writes: strategies by names for scripts, and as a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from penstock.cli.columns import print_listing
from penstock.cli.order import print_orders
from penstock.cli.plan_ask import predict_words
from penstock.cli.plan_best import print_best, print_what_if
from penstock.cli.predict_text import usd_of
from penstock.cli.report import print_trades
from penstock.predict.energy import JOULES_PER_KWH, joules
from penstock.search.choice import Choice, Numbers, Planned
from penstock.search.misses import too_much
from penstock.search.numbers import of_best
from penstock.search.space import Space
from penstock.view.report_numbers import by_numbers, notes
from penstock.view.report_parts import beside, proof, ranking


def facts_of(
    found: Planned, space: Space, asked: dict[str, Any], rejected: list[str], mine: Choice | None
) -> dict[str, Any]:
    """Return all figures by the names that scripts read, in SI units and shares; ``None`` for what is not known."""

    def choice(one: Choice | None) -> dict[str, Any] | None:
        return None if one is None else choice_facts(one, space, asked)

    return {
        "asked": asked,
        "devices": space.devices,
        "device": space.cluster.device.name,
        "mixed": not space.cluster.uniform,
        "considered": found.considered,
        "impossible": found.impossible,
        "too_large": found.too_large,
        "too_slow": found.too_slow,
        "scored": found.scored,
        "predicted": found.predicted,
        "proven": found.proven,
        "stopped": found.stopped,
        "headroom": found.headroom,
        "search_seconds": found.seconds,
        "choices": [choice(one) for one in found.choices],
        "orders": [
            {
                "split": one.choice.split,
                "seconds": one.choice.seconds,
                "named_seconds": one.named_s,
                "bound_seconds": one.bound_s,
                "gain": one.gain,
                "memory_bytes": one.choice.needed_bytes,
                "plan": one.plan.name,
            }
            for one in found.orders
        ],
        "numbers": [numbers_facts(one, space, asked) for one in of_best(found)],
        "rejected": rejected,
        "why": choice(mine),
        "nearest": choice(found.nearest),
        "changes": list(found.changes),
    }


def choice_facts(one: Choice, space: Space, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a choice by the names that scripts read."""
    steps = None if asked["tokens"] is None else asked["tokens"] / one.setup.tokens
    per_step = usd_of(space.cluster, one.setup.devices, one.seconds)
    energy = joules(space.cluster, one.setup.devices, one.seconds)
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
        "host_bytes": one.host_bytes,
        "host_memory_bytes": one.host_memory_bytes,
        "disk_bytes": one.disk_bytes,
        "disk_room_bytes": one.disk_room_bytes,
        "headroom": one.headroom,
        "usd_per_step": per_step,
        "joules_per_step": energy,
        "training_seconds": None if steps is None else steps * one.seconds,
        "training_usd": None if steps is None or per_step is None else steps * per_step,
        "training_kwh": None if steps is None or energy is None else steps * energy / JOULES_PER_KWH,
        "predict": predict_words(one, space, asked),
    }


def numbers_facts(one: Numbers, space: Space, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the best in a precision by the names that scripts read."""
    return {
        "precision": one.precision,
        "optimizer": one.optimizer,
        "gradient_equal": one.gradient_equal,
        "published": [{"results": words, "source": source} for words, source in one.gaps],
        "choice": None if one.choice is None else choice_facts(one.choice, space, asked),
    }


def print_planned(found: Planned, facts: dict[str, Any]) -> None:
    """Print a plan for people."""
    print(_counts(facts))
    if facts["mixed"]:
        print(f"all devices do the same work, so they keep the pace of the slowest, {facts['device']}")
    if found.nearest is not None:
        _print_none(found, found.nearest)
    else:
        print()
        print_listing(ranking(facts))
        print(f"\nthe best\n  {facts['choices'][0]['predict']}")
        print_best(facts)
        print_numbers(facts["numbers"])
        print_orders(found)
        print("\nwhy not")
        for line in facts["rejected"]:
            print(f"  {line}")
        print_what_if(facts)
    if facts["why"] is not None:
        print()
        print_listing(beside(facts["why"], facts["choices"][0] if found.choices else facts["why"]))
    print_trades(facts)


def print_numbers(numbers: list[dict[str, Any]]) -> None:
    """Print the best in each precision, and what is known of its results."""
    if len(numbers) > 1:
        print()
        print_listing(by_numbers(numbers))
    if lines := notes(numbers):
        print()
    for line in lines:
        print(line)


def _counts(facts: dict[str, Any]) -> str:
    ending = f", {facts['predicted']:,} predicted; {proof(facts)}" if facts["choices"] else ""
    slow = f"{facts['too_slow']:,} are too slow, " if facts["too_slow"] else ""
    return (
        f"{facts['considered']:,} strategies in {facts['search_seconds']:.1f} s: {facts['impossible']:,} do not "
        f"divide the model, {facts['too_large']:,} need too much memory, {slow}{facts['scored']:,} scored{ending}"
    )


def _print_none(found: Planned, one: Choice) -> None:
    print(f"\nnothing fits: {one.split} needs least, {too_much(one, found.headroom)}")
    print("what would fit" if found.changes else "no single change would fit")
    for change in found.changes:
        print(f"  {change}")
