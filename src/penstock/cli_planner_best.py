"""What ``penstock plan`` says of its best beside the table: HFU, energy, weeks with failures, what would change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from penstock.cli_columns import print_columns
from penstock.cli_goodput_text import training
from penstock.predict.energy import JOULES_PER_KWH
from penstock.predict.failures import Failures
from penstock.predict.goodput import goodput_of
from penstock.search.choice import Choice, Planned
from penstock.search.space import Space
from penstock.units import human_s

DAY_S = 86_400.0
BILLION = 1e9
HEAD = ("what if", "step time", "tokens/s", "the best then")


def facts_of(
    found: Planned, space: Space, tokens: float | None, facts: dict[str, Any], asked: bool, shown: bool
) -> dict[str, Any]:
    """Return the best over weeks, and if that was asked for what would change; ``shown``: what is looked at is said."""
    if not found.choices:
        return {"goodput": None, "what_if": None}
    return {
        "goodput": _weeks(found.best, space, tokens, facts["choices"][0]["predict"]),
        "what_if": [*_answers(found, space, shown)] if asked else None,
    }


def _weeks(best: Choice, space: Space, tokens: float | None, predict: str) -> dict[str, Any] | None:
    """As published failures would have it; ``None`` where no checkpoint would be reached."""
    devices = best.setup.devices
    try:
        over = goodput_of(best.seconds, best.checkpoint_bytes, devices, space.cluster, Failures())
    except ValueError:
        return None
    unbroken_s = None if tokens is None else tokens / best.setup.tokens * best.seconds
    whole = None if unbroken_s is None else training(over, unbroken_s, devices, space.cluster)
    asked = "" if tokens is None else f" --tokens {tokens:g}"
    return asdict(over) | {"training": whole, "command": predict.replace("predict", "goodput", 1) + asked}


def _answers(found: Planned, space: Space, shown: bool) -> Iterator[dict[str, Any]]:
    from penstock.search.what_if import what_if

    for answer in what_if(space, found.choices, found.headroom):
        if shown:
            print(f"what if: {answer.what}", file=sys.stderr)
        yield asdict(answer)


def print_best(facts: dict[str, Any]) -> None:
    """Print lines below the command of the best."""
    best, over = facts["choices"][0], facts["goodput"]
    tokens = best["setup"]["seq"] * best["setup"]["batch"]
    energy = best["joules_per_step"]
    if energy is not None:
        whole = "" if best["training_kwh"] is None else f", {best['training_kwh']:,.0f} kWh in all"
        energy = f", {energy / JOULES_PER_KWH / tokens * BILLION:,.4g} kWh per billion tokens{whole}"
    print(f"  HFU {best['hfu']:.1%}{energy or ''}")
    if over is not None:
        whole = over["training"]
        days = "" if whole is None else f", {whole['seconds'] / DAY_S:,.1f} days"
        every = f"checkpoints every {human_s(over['every_s'])}"
        print(f"  with failures as published {over['share']:.1%} of the time trains{days}, {every} (penstock goodput)")


def print_what_if(facts: dict[str, Any]) -> None:
    """Print what would change, if that was asked for."""
    if facts["what_if"] is None:
        return
    print()
    print_columns([HEAD, *map(_row, facts["what_if"])], left=(0, 3))


def _row(answer: dict[str, Any]) -> tuple[str, ...]:
    now_s, now = answer["now_s"], answer["now_tokens_per_s"]
    split = ("", "")
    if answer["seconds"] is not None:
        split = (f"{answer['seconds'] / now_s - 1:+.1%}", f"{answer['tokens_per_s'] / now - 1:+.1%}")
    if answer["same"]:
        return (answer["what"], *split, "the same")
    best = "" if not answer["best"] else f"{answer['best_tokens_per_s'] / now - 1:+.1%} tokens/s: {answer['best']}"
    why = f"this split: {answer['why']}" if best and answer["why"] else answer["why"]
    return (answer["what"], *split, "; ".join(filter(None, (best, why))))
