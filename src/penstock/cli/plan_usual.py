"""The plan of one cluster, which ``penstock plan`` makes unless another question is asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.cli import plan_best as best
from penstock.cli import plan_text as text
from penstock.cli.batches import chosen, print_tried, tried_facts
from penstock.cli.export import check_written, write_exports
from penstock.cli.json import write_facts
from penstock.cli.order import check_order, write_order
from penstock.cli.plan_ask import Question, more_facts, print_suggested, print_yours
from penstock.cli.progress import Watcher, note, watching
from penstock.cli.report import reported
from penstock.core.setup import Setup
from penstock.search.beside import neighbours, own
from penstock.search.choice import Choice, Planned
from penstock.search.improve import Change, changes_to
from penstock.search.numbers import like
from penstock.search.orders import orders
from penstock.search.planner import best_of
from penstock.search.space import Space


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What is wanted of a plan; fields are flags of ``penstock plan``, whose files can be written."""

    why: str | None
    top: int
    headroom: float
    what_if: bool
    solve: float | None
    order: Path | None
    json: list[Path] | None
    export: Sequence[str]
    pareto: bool
    report: list[Path]


def usual_answer(ask: Question, wanted: Usual) -> None:
    """Plan: print the best and why others lost, and write files.

    Raises:
        ValueError: something is wanted that cannot be, or the search was stopped before anything was known.
    """
    headroom = wanted.headroom
    check_order(ask.space, wanted.solve, wanted.order)
    with watching() as watch:
        ask, found = chosen(ask, wanted.top, headroom, watch)
        mine = ask.yours if wanted.why is None else own(ask.space, wanted.why)
        found = _found(ask, wanted, found, watch)
        facts, changes = _facts(ask, wanted, found, mine, watch)

    def show() -> None:
        if ask.suggested:
            print_suggested(ask.suggested, ask.space.base.seq)
        print_tried(ask)
        text.print_planned(found, facts)
        if ask.yours:
            print_yours(ask.yours, found.choices[0] if found.choices else None, changes, headroom)

    cannot = _written(ask.space, wanted.export, found.choices[0].setup) if found.choices else []
    write_facts(facts, wanted.json, show)
    check_written(cannot)


def _written(space: Space, targets: Sequence[str], setup: Setup) -> list[str]:
    """Write the best, and return why some frameworks cannot train so."""
    mine = like(space, setup)
    return write_exports(targets, mine.model, mine.cluster, setup, mine.stack)


def _facts(
    ask: Question, wanted: Usual, found: Planned, mine: Choice | None, watch: Watcher
) -> tuple[dict[str, Any], Sequence[Change]]:
    """All figures of a plan, and what to change of a user's own; files are written."""
    headroom, space = wanted.headroom, ask.space
    one = found.choices[0] if found.choices else None
    space = like(space, one.setup) if one else space
    rejected = [*neighbours(space, one, headroom)] if one else []
    changes = changes_to(space, ask.yours, one, headroom) if ask.yours and one else ()
    facts = text.facts_of(found, space, ask.asked, rejected, mine) | more_facts(ask, changes) | tried_facts(ask)
    facts |= best.facts_of(found, space, facts, wanted.what_if, watch)
    return reported(facts, space, found, wanted.report, wanted.pareto, watch), changes


def _found(ask: Question, wanted: Usual, found: Planned | None, watch: Watcher) -> Planned:
    """The plan, with the orders that are asked for."""
    space, headroom = ask.space, wanted.headroom
    if found is None:
        first = _show_first if sys.stderr.isatty() else None
        found = best_of(space, top=wanted.top, headroom=headroom, first=first, watch=watch)
    if found.stopped and not found.choices:
        raise ValueError("stopped before any strategy was found that fits; nothing is known yet")
    if wanted.solve is not None:
        found = replace(found, orders=orders(space, found.choices, headroom, wanted.solve))
        write_order(wanted.order, found)
    return found


def _show_first(choice: Choice) -> None:
    note(f"first answer: {choice.split}, {choice.seconds:.4g} s; looking on")
