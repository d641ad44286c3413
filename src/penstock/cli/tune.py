"""What ``penstock plan --tune`` prints and writes: ways to fine-tune side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.cli.columns import print_columns
from penstock.cli.plan_text import choice_facts
from penstock.cli.progress import early
from penstock.search.choice import Choice
from penstock.search.space import Space
from penstock.search.tuning import RANK, Tuned, tune_plans, tunings_of
from penstock.units import human_bytes, human_s
from penstock.view.columns import training_cells

if TYPE_CHECKING:
    from penstock.cli.special import Special
    from penstock.search.finals import Tell


def tuning_answer(
    given: Special, space: Space, asked: dict[str, Any], *, top: int, headroom: float, tell: Tell
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the figures of ways to fine-tune by names for scripts, and what prints them for people."""
    rank = RANK if given.adapter_rank is None else given.adapter_rank
    names = tunings_of(str(given.tune))
    found = tune_plans(space, names, rank=rank, top=top, headroom=headroom, tell=tell)
    if not found:
        raise ValueError("stopped before a way to fine-tune was planned; nothing is known yet")
    facts = {
        "asked": asked,
        "stopped": len(found) < len(names) or found[-1].stopped,
        "devices": space.devices,
        "device": space.cluster.device.name,
        "adapter_rank": rank,
        "headroom": headroom,
        "tunings": [_facts(one, space, asked) for one in found],
    }
    return facts, partial(_print, found, facts)


def _facts(one: Tuned, space: Space, asked: dict[str, Any]) -> dict[str, Any]:
    def choice(found: Choice | None) -> dict[str, Any] | None:
        return None if found is None else choice_facts(found, space, asked)

    return {
        "name": one.name,
        "source": one.tuning.source,
        "parameters": one.parameters,
        "trained_parameters": one.trained,
        "choices": [choice(found) for found in one.planned.choices],
        "nearest": choice(one.planned.nearest),
        "changes": list(one.planned.changes),
        "fewest_devices": None if one.fewest is None else one.fewest.setup.devices,
        "fewest": choice(one.fewest),
    }


def _print(found: list[Tuned], facts: dict[str, Any]) -> None:
    whole = facts["asked"]["tokens"] is not None
    print(f"{facts['devices']:,} {facts['device']}, adapters of rank {facts['adapter_rank']}{early(facts)}\n")
    print_columns(_times(found, facts, whole), left=(0, 5 + 2 * whole))
    print("\nmemory of the fullest device")
    print_columns(_memory(found))
    print("\nfewest devices")
    print_columns(_fewest(found), left=(0, 5))
    for one, said in zip(found, facts["tunings"], strict=True):
        if said["choices"]:
            print(f"\n{one.name}\n  {said['choices'][0]['predict']}")
        else:
            print(f"\n{one.name} does not fit; what would")
            for change in said["changes"] or ("no single change",):
                print(f"  {change}")


def _times(found: list[Tuned], facts: dict[str, Any], whole: bool) -> Iterable[tuple[str, ...]]:
    yield ("", "trained", "step time", "interval", "tokens/s", *(("days", "cost") if whole else ()), "split")
    for one, said in zip(found, facts["tunings"], strict=True):
        trained = f"{one.trained / 1e9:,.3g} B" if one.trained >= 1e9 else f"{one.trained / 1e6:,.3g} M"
        if not one.planned.choices:
            yield (one.name, trained, "", "", "", *(("", "") if whole else ()), "does not fit")
            continue
        best, first = one.planned.best, said["choices"][0]
        more = training_cells(first["training_seconds"], first["training_usd"])
        yield (one.name, trained, *_speed(best), *more, best.split)


def _speed(one: Choice) -> tuple[str, str, str]:
    interval = f"{human_s(one.low_s)} to {human_s(one.high_s)}"
    return human_s(one.seconds), interval, f"{one.tokens_per_s_per_device:,.0f}"


def _memory(found: list[Tuned]) -> Iterable[tuple[str, ...]]:
    yield ("", *(one.name for one in found))
    each = [one.planned.best if one.planned.choices else one.planned.nearest for one in found]
    those = [one for one in each if one is not None]
    for part in (name for name in those[0].peak.parts() if name != "reserve"):
        yield (part, *(human_bytes(getattr(one.peak, part)) for one in those))
    yield ("needed", *(human_bytes(one.needed_bytes) for one in those))
    yield (f"left of {human_bytes(those[0].memory_bytes)}", *(f"{one.headroom:.0%}" for one in those))


def _fewest(found: list[Tuned]) -> Iterable[tuple[str, ...]]:
    yield ("", "devices", "step time", "interval", "tokens/s", "split")
    for one in found:
        if one.fewest is None:
            yield (one.name, "not known" if one.stopped else "none", "", "", "", "")
        else:
            yield (one.name, f"{one.fewest.setup.devices:,}", *_speed(one.fewest), one.fewest.split)
