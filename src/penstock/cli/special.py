"""Flags of ``penstock plan`` for jobs of a special kind, and what answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.cli.plan_ask import Question
    from penstock.search.space import Space


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Special:
    """A job of a special kind, planned in place of the usual one."""

    tune: str | None = None
    """Ways to fine-tune, set side by side: all, or some of full,lora,qlora."""
    adapter_rank: int | None = None
    """Rank of the adapters of lora and qlora [default: 16]."""
    sites: str | None = None
    """Sites with slow links between them: how many the cluster has, or groups for one each."""
    between: str | None = None
    """Rate of each site's link to the others, for example 10Gb/s or 1.25GB/s [default: the cluster's network]."""
    delay: float | None = None
    """Latency of a message between sites, in seconds [default: the cluster's network]."""
    local: str | None = None
    """Local updates to try: some of diloco,streaming-diloco,co2 [default: all]."""
    every: int | None = None
    """Inner steps between two outer steps [default: the published number]."""
    lengths: str | None = None
    """Lengths of sequences, FILE.csv with length,count, or wikipedia or squad: padded, packed, grouped."""


NOT_SPECIAL = Special()


def special_of(given: Special) -> str:
    """Return which kind of job is asked for: the name of a flag, or ``""`` for the usual one.

    Raises:
        ValueError: several are, or a flag has nothing to belong to.
    """
    kinds = {"tune": given.tune, "sites": given.sites, "lengths": given.lengths}
    asked = [name for name, value in kinds.items() if value is not None]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} are two questions; ask one at a time")
    owners = {"adapter_rank": "tune"} | dict.fromkeys(("between", "delay", "local", "every"), "sites")
    for name, owner in owners.items():
        if getattr(given, name) is not None and owner not in asked:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --{owner}; give that too")
    return asked[0] if asked else ""


def only_usual(given: Special, ask: Question, flags: Mapping[str, Any]) -> None:
    """Do nothing, unless a flag is given that a job of a special kind has no answer to, or its batch was suggested
    or is open.

    Raises:
        ValueError: that is so.
    """
    kind = special_of(given)
    for name, value in flags.items():
        if value:
            raise ValueError(f"--{name} does not go with --{kind}; plan what it prints with --fix first")
    if ask.suggested is not None:
        raise ValueError(f"--batch is missing; say how many sequences a step has, for --{kind}")
    if ask.span:
        raise ValueError(f"--batch {ask.span}: --{kind} is for one; give one number, as --batch {ask.space.base.batch}")


def special_answer(
    given: Special, space: Space, asked: dict[str, Any], *, top: int, headroom: float, json: list[Path] | None
) -> None:
    """Answer a question of a special kind: print it, or its figures as JSON, or write these to a file beside it."""
    from penstock.cli.json import write_facts
    from penstock.cli.lengths import lengths_answer
    from penstock.cli.progress import watching
    from penstock.cli.sites import sites_answer
    from penstock.cli.tune import tuning_answer
    from penstock.search.numbers import of_one

    answers = {"tune": tuning_answer, "sites": sites_answer, "lengths": lengths_answer}
    with watching() as watch:

        def tell(what: str) -> bool:
            return watch.tell(f"looking at {what}")

        facts, show = answers[special_of(given)](given, of_one(space), asked, top=top, headroom=headroom, tell=tell)
    write_facts(facts, json, show)
