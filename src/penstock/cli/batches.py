"""The batch of ``penstock plan`` where several may be chosen: what the best is with each, and which is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from penstock.cli.columns import print_columns
from penstock.cli.plan_ask import Question, beyond, count
from penstock.cli.progress import watching
from penstock.search.choice import Choice
from penstock.search.planner import best_of
from penstock.units import human_s


def chosen(ask: Question, headroom: float) -> Question:
    """Return the question with the batch whose best strategy has the most tokens per second; of equal ones, and where
    nothing fits, the first that is tried."""
    if not ask.others:
        return ask
    tried: list[tuple[Choice, int]] = []
    spaces = (ask.space, *ask.others)
    with watching() as watch:
        for place, space in enumerate(spaces):
            found = best_of(space, top=1, headroom=headroom, watch=watch)
            tried += [(one, place) for one in found.choices]
            if found.stopped:
                break
    best = max(tried, key=lambda one: one[0].tokens_per_s_per_device, default=None)
    space = spaces[best[1]] if best else ask.space
    choices = tuple(one for one, _ in tried)
    return replace(ask, space=space, asked=ask.asked | {"batch": space.base.batch}, others=(), tried=choices)


def tried_facts(ask: Question) -> dict[str, Any]:
    """Return what was tried by the names that scripts read."""
    rows = [
        {
            "batch": one.setup.batch,
            "tokens_per_step": one.setup.tokens,
            "split": one.split,
            "seconds": one.seconds,
            "tokens_per_s_per_device": one.tokens_per_s_per_device,
            "taken": one.setup.batch == ask.space.base.batch,
        }
        for one in ask.tried
    ]
    return {"batches": rows}


def print_tried(ask: Question) -> None:
    """Print the batches that were tried, if several might be chosen."""
    if not ask.span:
        return
    taken = ask.space.base.batch
    why = "the most tokens per second" if ask.tried else f"what suits {ask.space.devices:,} devices"
    print(f"batch {taken:,} of {ask.span}: {why}")
    if ask.tried:
        print_columns([*_rows(ask.tried)], left=(4,))
    if ask.laws is not None and (said := beyond(ask.laws, taken * ask.space.base.seq)):
        print(f"  {said}")
    print()


def _rows(tried: Sequence[Choice]) -> Iterator[tuple[str, ...]]:
    yield ("  batch", "tokens a step", "step time", "tokens/s", "split")
    for one in tried:
        rate = f"{one.tokens_per_s_per_device:,.0f}"
        yield (f"  {one.setup.batch:,}", count(one.setup.tokens), human_s(one.seconds), rate, one.split)
