"""The noun ``Recipe``: how products of a training run in 8 or 4 bits, and what that takes beside them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from penstock.core.tables import made, read_toml

WIDE = ("bf16", "fp16", "fp32")
"""Precisions of products in the width of everything else."""
UNNAMED = ("fp8", "fp4")
"""Bits without a recipe: what a run has that does not say which; constants of frameworks were fitted to such runs."""
ELEMENT_BYTES = {"fp8": 1.0, "fp4": 0.5}
HALF_BYTES = 2.0
"""Of an operand before its cast."""
FITTED = ("fp8-delayed", "hopper")
"""The recipe and the architecture of most runs to which ``casts`` of frameworks were fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe of low precision. Attention, embedding, head, routers, norms and the optimizer keep the wide one.

    Args:
        bits: of the operands of products, ``fp8`` or ``fp4``; sums are wider.
        scaled: which values share a scale.
        architectures: of devices that have it.
        shared: those of them on which one copy of an operand is read by rows and by columns; elsewhere there are two.
        reads: times that an operand in 16 bits is read to be cast.
        block: values of an operand that share one scale; 0: so many that scales take no room.
        scale_bytes: of one scale.
        rates: rate of products over that with one scale a tensor, by architecture; 1 where there is none.
        rates_source: where these are from.
        source: where all else is from.
        gap: what was published of results beside those in 16 bits, and ``gap_source`` where.
    """

    name: str
    bits: str
    scaled: str
    architectures: tuple[str, ...]
    shared: tuple[str, ...] = ()
    reads: float
    block: int = 0
    scale_bytes: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    rates_source: str = ""
    source: str
    gap: str
    gap_source: str

    @property
    def value_bytes(self) -> float:
        """Of a value in low precision, with its part of a scale."""
        return ELEMENT_BYTES[self.bits] + (self.scale_bytes / self.block if self.block else 0.0)

    def copies(self, architecture: str) -> int:
        """Copies of an operand in low precision, for reading by rows and by columns."""
        return 1 if architecture in self.shared else 2

    def cast_bytes(self, architecture: str) -> float:
        """Bytes that the cast of a value in 16 bits reads and writes.

        >>> recipes()["fp8-current"].cast_bytes("hopper"), recipes()["fp8-current"].cast_bytes("blackwell")
        (6.0, 5.0)
        """
        return HALF_BYTES * self.reads + self.copies(architecture) * self.value_bytes

    def casts(self, architecture: str) -> float:
        """How often as long as those that constants were fitted to its casts take, for each byte of a plain cast."""
        name, where = FITTED
        fitted = recipes()[name]
        return self._over_plain(architecture) / fitted._over_plain(where)

    def _over_plain(self, architecture: str) -> float:
        """Bytes of a cast over those of a plain one, which reads and writes once."""
        return self.cast_bytes(architecture) / (HALF_BYTES + self.value_bytes)

    def rate(self, architecture: str) -> float:
        """Rate of products, as in ``rates``."""
        return self.rates.get(architecture, 1.0)


@cache
def recipes() -> Mapping[str, Recipe]:
    """Return all recipes by name, as ``data/recipes.toml`` has them."""
    tables = read_toml(files("penstock") / "data" / "recipes.toml")
    return {name: made(Recipe, f"data/recipes.toml, {name}", table | {"name": name}) for name, table in tables.items()}


@cache
def precisions() -> tuple[str, ...]:
    """Return what a setup's ``precision`` may be."""
    return (*WIDE, *UNNAMED, *recipes())


def recipe_of(precision: str) -> Recipe | None:
    """Return the recipe of a precision; ``None`` where it is wide, or names none."""
    return recipes().get(precision)


def bits_of(precision: str) -> str:
    """Return the bits that products have in a precision.

    >>> bits_of("mxfp8"), bits_of("nvfp4"), bits_of("bf16")
    ('fp8', 'fp4', 'bf16')
    """
    recipe = recipe_of(precision)
    return precision if recipe is None else recipe.bits


def wide_on(precision: str, has: Container[str]) -> str:
    """Return the precision of all that no recipe takes on a device which has products in some: that of a setup if it is
    wide, else BF16; or what comes nearest.

    >>> wide_on("mxfp8", ("bf16", "fp8")), wide_on("bf16", ("fp16", "fp32"))
    ('bf16', 'fp16')
    """
    asked = precision if precision in WIDE else "bf16"
    return next((name for name in (asked, "fp16") if name in has), "fp32")


def recipes_on(architecture: str) -> tuple[str, ...]:
    """Return the recipes that a device's architecture has, by name.

    >>> recipes_on("hopper"), recipes_on("ampere")
    (('fp8-delayed', 'fp8-current', 'fp8-row', 'fp8-block'), ())
    """
    return tuple(name for name, recipe in recipes().items() if architecture in recipe.architectures)


def check_recipe(precision: str, device: str, architecture: str, has: Container[str]) -> None:
    """Do nothing where a device has the recipe of a precision; ``has`` are the bits that it has products in.

    Raises:
        ValueError: it has not; the nearest that it has is named.
    """
    recipe = recipe_of(precision)
    if recipe is None or architecture in recipe.architectures:
        return
    there = recipes_on(architecture)
    bits = [bits for bits in UNNAMED if bits in has]
    if there:
        fix = f"it has {', '.join(there)}"
    elif bits:
        fix = f"no recipe is known of it; use {bits[0]}, which names none"
    else:
        fix = "it has no products in 8 bits; use bf16"
    raise ValueError(f"precision={precision}: {device} ({architecture}) has no such recipe; {fix}")


def check_wide(precision: str, low_weights: bool, first: int, last: int) -> None:
    """Do nothing where a precision has a recipe, if it is said what that leaves wide, or that weights are kept in it.

    Raises:
        ValueError: it has none.
    """
    if (low_weights or first or last) and precision in WIDE:
        raise ValueError(
            f"low_weights={low_weights}, wide_first={first}, wide_last={last} say what a recipe leaves wide; "
            f"precision={precision} has none, give one, such as fp8-current"
        )
    if low_weights and precision in UNNAMED:
        raise ValueError(
            f"low_weights={low_weights} needs a recipe, and precision={precision} names none; give one, "
            f"such as {'fp8-current' if precision == 'fp8' else 'nvfp4'}"
        )
