"""The largest model of a family for which a strategy fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from penstock.core.architecture import Architecture
from penstock.core.mesh import ORDER
from penstock.predict.score import least_bytes_of
from penstock.predict.widened import as_asked
from penstock.search.choice import Choice
from penstock.search.finals import Going, most_bytes, told
from penstock.search.misses import nearest
from penstock.search.planner import check_wanted, looked
from penstock.search.space import Space
from penstock.search.wishes import Wishes

EXPLAINED = 3
"""Models that are too large of which it is said how much they need: the smallest ones."""


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a family: its fastest strategies, or, if none fits, the one that needs least, where it was looked for.

    ``proven``: whether none is faster than the first of them, as in ``Planned``.
    """

    model: Architecture
    choices: tuple[Choice, ...]
    proven: bool = True
    nearest: Choice | None = None


def largest(
    space: Space,
    models: Iterable[Architecture],
    *,
    top: int,
    headroom: float,
    tell: Callable[[str], bool] = lambda name: True,
    batch_of: Callable[[Architecture], int] | None = None,
) -> list[Member]:
    """Return models from the largest on, up to the first for which a strategy fits; the last has none if none does, or
    the search was stopped before.

    Models are not taken to fit because larger ones do, nor the other way: each is asked. Those that take fewer
    positions than a sequence has are left out.

    Args:
        space: strategies, of any of the models.
        models: the largest first.
        top: how many strategies are wanted.
        headroom: share of a device's memory that stays free.
        tell: is called with the names of models that are looked at; the search ends when it says ``False``.
        batch_of: gives the batch for a model; left out, it is that of the space.

    Raises:
        ValueError: no model takes so long sequences, there is no strategy, or ``top`` or ``headroom`` cannot be.
    """
    check_wanted(top, headroom)
    space.check()
    found: list[Member] = []
    for model in models:
        if 0 < model.embedding.positions < space.base.seq:
            continue
        here, going = _of(space, model, batch_of), Going(told(tell, model.name))
        seen = looked(here, top, headroom, going) if going(0) and _may_fit(here, headroom) else None
        if not (going.on or (seen and seen.choices)):
            return found
        found.append(Member(model, seen.choices, seen.proven and going.on) if seen else Member(model, ()))
        if found[-1].choices:
            break
    if not found:
        raise ValueError(f"seq={space.base.seq} is longer than any model of the family takes; use a shorter one")
    for place in range(max(0, len(found) - 1 - EXPLAINED), len(found)):
        if not found[place].choices:
            found[place] = replace(found[place], nearest=nearest(_of(space, found[place].model, batch_of)))
    return found


def _may_fit(space: Space, headroom: float) -> bool:
    """Whether weights and states of some strategy are not too much by themselves, with as much in host memory as may
    be; they do not depend on what else is free."""
    usual: Wishes = {"micro": (1,), "recompute": ("full",), "schedule": ("1f1b",), "sp": (True,), "order": (ORDER,)}
    for one in (space.offloads() or [()])[-1]:
        small = replace(one, usual=usual)
        for share in small.shares():
            grid = small.grid(share)
            needed = least_bytes_of(as_asked(small.model, small.base), small.cluster, grid, small.stack)
            if (needed <= most_bytes(small, grid, headroom)).any():
                return True
    return False


def _of(space: Space, model: Architecture, batch_of: Callable[[Architecture], int] | None) -> Space:
    """The space for a model, with its batch."""
    base = space.base if batch_of is None else replace(space.base, batch=batch_of(model))
    return replace(space, model=model, base=base)
