"""What ``penstock plan --lengths`` prints and writes: ways to put sequences of many lengths on ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.cli.columns import print_columns, training
from penstock.cli.progress import early
from penstock.core.lengths import Lengths
from penstock.search.choice import split_of
from penstock.search.lengthwise import LengthPlan, LengthsPlanned, length_plans
from penstock.search.space import Space
from penstock.units import human_s
from penstock.view.columns import training_cells

if TYPE_CHECKING:
    from penstock.cli.special import Special
    from penstock.search.finals import Tell


def lengths_answer(
    given: Special, space: Space, asked: dict[str, Any], *, top: int, headroom: float, tell: Tell
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the figures of ways to put sequences on ranks by names for scripts, and what prints them for people."""
    found = length_plans(space, Lengths.read(str(given.lengths)), headroom=headroom, tell=tell)
    facts = {
        "asked": asked | {"lengths": given.lengths},
        "stopped": found.stopped,
        "devices": space.devices,
        "device": space.cluster.device.name,
        "headroom": headroom,
        "source": found.lengths.source,
        "mean_tokens": found.lengths.mean,
        "longest_tokens": found.lengths.longest,
        "cut_share": found.cut_share,
        "batches": found.batches,
        "tokens_per_step": found.tokens,
        "ways": [_facts(one, space, asked) for one in found.plans[:top]],
    }
    return facts, partial(_print, found, facts)


def _facts(one: LengthPlan, space: Space, asked: dict[str, Any]) -> dict[str, Any]:
    seconds, usd = training(asked["tokens"], one.tokens_per_s, space.cluster.usd_per_hour)
    return {
        "name": one.name,
        "setup": asdict(one.setup),
        "seconds": one.seconds,
        "bound_seconds": one.bound_s,
        "tokens_per_s": one.tokens_per_s,
        "tokens_per_s_per_device": one.tokens_per_s / space.devices,
        "padding": one.padding,
        "busy": one.busy,
        "micros": one.micros,
        "degrees": {str(degree): share for degree, share in one.degrees.items()},
        "law_error": one.error,
        "training_seconds": seconds,
        "training_usd": usd,
    }


def _print(found: LengthsPlanned, facts: dict[str, Any]) -> None:
    lengths, cut = found.lengths, found.cut_share
    step = f"{facts['asked']['batch']:,} sequences a step of {lengths.name}"
    print(f"{facts['devices']:,} {facts['device']}; {step}{early(facts)}")
    ending = f", {cut:.2%} of them cut to that" if cut else ""
    print(
        f"  {lengths.mean:,.0f} tokens on average, {lengths.longest:,} at most{ending}; {found.batches} batches drawn"
    )
    if lengths.source:
        print(f"  {lengths.source}")
    print()
    more = 2 * (facts["asked"]["tokens"] is not None)
    print_columns(_table(found, facts), left=(0, 7 + more, 8 + more))
    least = found.plans[0].bound_s
    print(f"\nno way is faster than {human_s(least)}, by the longest sequence or all work evenly over the ranks")
    print(f"tokens are those of sequences; the law of time by lengths is within {_error(found):.1%} of its predictions")


def _error(found: LengthsPlanned) -> float:
    return max(one.error for one in found.plans)


def _table(found: LengthsPlanned, facts: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    whole = ("days", "cost") if facts["asked"]["tokens"] is not None else ()
    yield ("", "step time", "tokens/s", "", "padding", "busy", "micro-batches", *whole, "context ranks", "setup")
    first = found.plans[0].tokens_per_s
    for one, said in zip(found.plans, facts["ways"], strict=False):
        shares = [(degree, f"{share:.0%}") for degree, share in one.degrees.items() if share >= 0.005]
        ranks = str(shares[0][0]) if len(shares) == 1 else " ".join(f"{degree}: {share}" for degree, share in shares)
        words = (word for word in split_of(one.setup).split() if not word.startswith(("dp=", "micro=")))
        yield (
            one.name, human_s(one.seconds), f"{one.tokens_per_s:,.0f}", f"{one.tokens_per_s / first:.2f} x",
            f"{one.padding:.1%}", f"{one.busy:.0%}", f"{one.micros:.3g}",
            *training_cells(said["training_seconds"], said["training_usd"]), ranks, " ".join(words),
        )  # fmt: skip
