"""The batch of ``penstock plan`` where several may be chosen: what the best is with each, and which is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from penstock.cli.columns import print_columns
from penstock.cli.plan_ask import Question, beyond, count
from penstock.cli.progress import Watcher
from penstock.search.choice import Choice, Planned
from penstock.search.planner import best_of
from penstock.search.space import Space
from penstock.units import human_s


def chosen(ask: Question, top: int, headroom: float, watch: Watcher) -> tuple[Question, Planned | None]:
    """Return the question with the batch whose best strategy has the most tokens per second; of equal ones, and where
    nothing fits, the first that is tried; and its plan, where several were tried."""
    if not ask.others:
        return ask, None
    tried: list[tuple[Space, Planned]] = []
    for space in (ask.space, *ask.others):
        tried.append((space, best_of(space, top=top, headroom=headroom, watch=watch)))
        if tried[-1][1].stopped:
            break
    fitting = [(space, found) for space, found in tried if found.choices] or tried[:1]
    space, found = max(fitting, key=lambda one: one[1].best.tokens_per_s_per_device if one[1].choices else 0.0)
    choices = tuple(found.best for _, found in fitting if found.choices)
    asked = ask.asked | {"batch": space.base.batch}
    found = replace(found, stopped=watch.stopped, proven=found.proven and not watch.stopped)
    return replace(ask, space=space, asked=asked, others=(), tried=choices), found


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
