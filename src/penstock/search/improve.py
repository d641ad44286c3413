"""What to change in a setup to come to a better one, field by field, and what each change does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES, axis_of
from penstock.predict import predict
from penstock.search.beside import changed, reason
from penstock.search.choice import Choice
from penstock.search.in_words import word
from penstock.search.space import Space
from penstock.search.wishes import EMPTY
from penstock.units import human_s

FOLLOW = ("dp", "shards", "seq", "batch")
"""Fields that follow from others, or are what is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing to change, after those before it.

    Args:
        was, said: fields and their values before and after, ``tp=2``; several where they go together.
        after: the setup with this change, predicted.
        why: what it does, in words.
    """

    was: str
    said: str
    after: Choice
    why: str


def changes_to(space: Space, mine: Choice, best: Choice, headroom: float) -> tuple[Change, ...]:
    """Return what to change in a user's setup, in order, to come to the best one; nothing if that is not faster.

    The next change is always the one with which the step is shortest, of those with which memory is enough, if any;
    ``dp`` takes what is left of the devices. Changes that do not pay, or cannot be, one by one are made together.
    """
    if mine.headroom >= headroom and mine.seconds <= best.seconds:
        return ()
    left = [*_differing(mine.setup, best.setup)]
    found: list[Change] = []
    before = at = mine
    made: dict[str, Any] = {}
    while left:
        tried = [(change, one) for change in left if (one := _with(space, at.setup, change)) is not None]
        if tried:
            change, at = min(tried, key=lambda pair: _rank(pair[1], headroom))
            left.remove(change)
        else:
            change, left = {name: value for each in left for name, value in each.items()}, []
        made |= change
        if left and _rank(at, headroom) > _rank(before, headroom):
            continue
        if not left:
            at = best
            made |= {"shards": best.setup.shards} if best.setup.shards != before.setup.shards else {}
        was = {name: getattr(before.setup, name) for name in made}
        found.append(Change(was=words(was), said=words(made), after=at, why=_effect(before, at, headroom)))
        before, made = at, {}
    return tuple(found)


def _rank(one: Choice, headroom: float) -> tuple[float, float]:
    return max(0.0, headroom - one.headroom), one.seconds


def _differing(mine: Setup, best: Setup) -> Iterator[dict[str, Any]]:
    """Fields of the best that are other than mine, those that go together in one."""
    new = {
        field.name: getattr(best, field.name)
        for field in fields(Setup)
        if field.name not in FOLLOW and getattr(mine, field.name) != getattr(best, field.name)
    }
    if best.pp == 1:
        new = {name: value for name, value in new.items() if name not in ("schedule", "chunks", "stage_layers")}
    if "schedule" in new:
        new["chunks"] = best.chunks
    piped = ("pp", "schedule", "chunks") if mine.pp == 1 else ("schedule", "chunks")
    layers = ("recompute", "recompute_layers", "recompute_first") if "recompute_layers" in new else ()
    for together in (piped, ("ep", "etp"), ("cp", "cp_heads", "cp_inner"), layers):
        both = {name: new.pop(name) for name in together if name in new}
        if both:
            yield both
    yield from ({name: value} for name, value in new.items() if _means(name, best))


def _means(name: str, best: Setup) -> bool:
    """Whether a field changes anything in the best."""
    alone = name in SWITCHES and getattr(best, axis_of(name)) == 1
    return not (alone or (name == "sp" and best.tp == 1) or (name == "zero" and best.replicas == 1))


def _with(space: Space, setup: Setup, change: Mapping[str, Any]) -> Choice | None:
    """The setup with a change, predicted; ``None`` where it cannot be. Sizes of stages are those of one pipeline."""
    try:
        new = changed(space, replace(setup, shards=0), change)
        return Choice.of(new, predict(space.model, space.cluster, new, space.stack))
    except ValueError:
        return None


def _effect(before: Choice, after: Choice, headroom: float) -> str:
    """What a change does to the step, and the part of it that moved most in the same direction; or what it needs."""
    if after.headroom < headroom:
        return reason(before, after, headroom)
    ahead = after.seconds - before.seconds
    sign = 1 if ahead >= 0 else -1
    moved = {name: after.parts.get(name, 0) - before.parts.get(name, 0) for name in {**before.parts, **after.parts}}
    name, by_s = max(sorted(moved.items()), key=lambda part: sign * part[1])
    part = f", {name} {'+' if sign > 0 else '-'}{human_s(abs(by_s))}" if sign * by_s > 0.001 * before.seconds else ""
    return f"{ahead / before.seconds:+.1%} step time{part}"


def words(values: Mapping[str, Any]) -> str:
    """Return fields as ``--fix`` takes them.

    >>> words({"recompute": ("mlp", "attention.core"), "sp": True})
    'recompute=mlp+attention.core sp=1'
    """
    return " ".join(f"{name}={word(value) if value != () else EMPTY[name]}" for name, value in values.items())
