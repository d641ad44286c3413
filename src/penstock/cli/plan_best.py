"""What ``penstock plan`` says of its best beside the table: HFU, energy, weeks with failures, what would change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from penstock.cli.columns import print_listing
from penstock.cli.goodput_text import training
from penstock.cli.progress import Watcher
from penstock.predict.failures import Failures
from penstock.predict.goodput import goodput_of
from penstock.search.choice import Choice, Planned
from penstock.search.space import Space
from penstock.view.report_weeks import efficiency, weeks, what_if


def facts_of(found: Planned, space: Space, facts: dict[str, Any], asked: bool, watch: Watcher) -> dict[str, Any]:
    """Return the best over weeks, and if that was asked for what would change; ``facts`` are those of the plan."""
    if not found.choices:
        return {"goodput": None, "what_if": None}
    return {
        "goodput": _weeks(found.best, space, facts["asked"]["tokens"], facts["choices"][0]["predict"]),
        "what_if": [*_answers(found, space, watch)] if asked else None,
    }


def _weeks(best: Choice, space: Space, tokens: float | None, predict: str) -> dict[str, Any] | None:
    """As published failures would have it; ``None`` where no checkpoint would be reached."""
    devices = best.setup.devices
    try:
        over = goodput_of(best.seconds, best.checkpoint_bytes, devices, space.cluster, Failures())
    except ValueError:
        return None
    unbroken_s = None if tokens is None else tokens / best.setup.tokens * best.seconds
    whole = training(over, unbroken_s, devices, space.cluster)
    asked = "" if tokens is None else f" --tokens {tokens:g}"
    return asdict(over) | {"training": whole, "command": predict.replace("predict", "goodput", 1) + asked}


def _answers(found: Planned, space: Space, watch: Watcher) -> Iterator[dict[str, Any]]:
    from penstock.search.what_if import what_if as answers

    yield from map(asdict, answers(space, found.choices, found.headroom, lambda what: watch.tell(f"what if: {what}")))


def print_best(facts: dict[str, Any]) -> None:
    """Print lines below the command of the best."""
    print(f"  {efficiency(facts['choices'][0])}")
    if facts["goodput"] is not None:
        print(f"  {weeks(facts['goodput'])} (penstock goodput)")


def print_what_if(facts: dict[str, Any]) -> None:
    """Print what would change, if that was asked for."""
    if facts["what_if"] is not None:
        print()
        print_listing(what_if(facts["what_if"]))
