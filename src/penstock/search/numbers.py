"""What changes the numbers of a training: precisions of products and of the optimizer's state, tried if asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from penstock.core.device import Device
from penstock.core.optimizers import optimizers
from penstock.core.recipes import UNNAMED, WIDE, check_recipe, recipe_of, recipes_on, wide_on
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.search.choice import Choice, Numbers, Planned
from penstock.search.wishes import Wishes

if TYPE_CHECKING:
    from penstock.search.space import Space

NUMERIC = ("precision", "optimizer")
"""Fields of a setup that may be asked for with several values, each planned by itself."""
ANY = "any"
"""In the place of a precision: BF16, and every recipe that device and framework have."""


def numbers_of(setup: Setup, choice: Choice | None) -> Numbers:
    """Return the best with the numbers of a setup."""
    both = (recipe_of(setup.precision), optimizers()[setup.optimizer])
    return Numbers(
        precision=setup.precision,
        optimizer=setup.optimizer,
        choice=choice,
        gradient_equal=setup.precision in WIDE,
        gaps=tuple((one.gap, one.gap_source) for one in both if one and one.gap),
    )


def asked(fixed: Wishes, device: Device, stack: Stack) -> Wishes:
    """Return what was fixed with ``any`` spelled out.

    Raises:
        ValueError: a precision that is unknown, or that the device has no recipe for.
    """
    if "precision" not in fixed:
        return fixed
    wide = wide_on("bf16", device.matrix_flops)
    every = (wide, *(name for name in recipes_on(device.architecture) if name in stack.recipes))
    found = [each for value in fixed["precision"] for each in (every if value == ANY else (value,))]
    for value in found:
        Setup(seq=1, batch=1, precision=value)
        check_recipe(value, device.name, device.architecture, device.matrix_flops)
        if value in UNNAMED and value not in device.matrix_flops:
            less = next((bits for bits in UNNAMED if bits in device.matrix_flops), wide)
            raise ValueError(f"precision={value}: {device.name} has no products in {value}; use {less}")
    return fixed | {"precision": tuple(dict.fromkeys(found))}


def several(fixed: Wishes) -> Wishes:
    """Return those of ``NUMERIC`` that were fixed with several values."""
    return {name: fixed[name] for name in NUMERIC if len(fixed.get(name, ())) > 1}


def of_one(space: Space) -> Space:
    """Return the space, for questions that are asked of one precision and one optimizer at a time.

    Raises:
        ValueError: it has several.
    """
    for name, values in several(space.fixed).items():
        raise ValueError(
            f"{name}={'/'.join(values)}: this question is asked of one {name} at a time; give one, such as {values[-1]}"
        )
    return space


def parts(space: Space) -> list[Space]:
    """Return a space for each of the numbers that were asked for; the space itself if they are one."""
    wished = several(space.fixed)
    if not wished:
        return [space]
    rest = {name: values for name, values in space.fixed.items() if name not in wished}
    values = [wished.get(name, (getattr(space.base, name),)) for name in NUMERIC]
    return [replace(space, fixed=rest, base=_with(space.base, *pair)) for pair in product(*values)]


def _with(base: Setup, precision: str, optimizer: str) -> Setup:
    """The setup in another precision; what a recipe leaves wide has no meaning without one."""
    more: dict[str, Any] = {"precision": precision, "optimizer": optimizer}
    if recipe_of(precision) is None:
        more |= {"low_weights": False}
    if precision in WIDE:
        more |= {"wide_first": 0, "wide_last": 0}
    return replace(base, **more)


def planned(spaces: Sequence[Space], plan: Callable[[Space], Planned], top: int) -> Planned:
    """Return the plans of spaces as one: the fastest of all, and the best in each of their numbers."""
    found = [plan(space) for space in spaces]
    choices = sorted((one for each in found for one in each.choices), key=lambda choice: choice.seconds)
    lacking = sorted((each.nearest.needed_bytes, place) for place, each in enumerate(found) if each.nearest)
    none = found[lacking[0][1]] if lacking and not choices else None
    return Planned(
        choices=tuple(choices[:top]),
        considered=sum(each.considered for each in found),
        impossible=sum(each.impossible for each in found),
        too_large=sum(each.too_large for each in found),
        too_slow=sum(each.too_slow for each in found),
        scored=sum(each.scored for each in found),
        predicted=sum(each.predicted for each in found),
        proven=bool(choices) and all(each.proven or not each.choices for each in found),
        stopped=any(each.stopped for each in found),
        headroom=found[0].headroom,
        seconds=sum(each.seconds for each in found),
        first_s=found[0].first_s,
        nearest=none.nearest if none else None,
        changes=none.changes if none else (),
        numbers=tuple(
            numbers_of(space.base, each.choices[0] if each.choices else None)
            for space, each in zip(spaces, found, strict=True)
        ),
    )


def like(space: Space, setup: Setup) -> Space:
    """Return the space with the numbers of a setup alone."""
    rest = {name: values for name, values in space.fixed.items() if name not in NUMERIC}
    return replace(space, fixed=rest, base=_with(space.base, setup.precision, setup.optimizer))


def of_best(found: Planned) -> tuple[Numbers, ...]:
    """Return the best in each of the numbers that were planned; of one precision, if its numbers are not those of 16
    bits with states in 32."""
    if found.numbers or not found.choices:
        return found.numbers
    one = numbers_of(found.best.setup, found.best)
    return () if one.gradient_equal and not one.gaps else (one,)
