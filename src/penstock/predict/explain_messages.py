"""Messages inside of blocks opened up: their bytes, links, words and constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from penstock.core.architecture import Block
from penstock.core.cluster import Level
from penstock.cost.constants import constants
from penstock.cost.origins import Constant, constant
from penstock.cost.switches import shown_fields
from penstock.predict.contexts import context_links, given_bytes, in_ring, turned_bytes
from penstock.predict.micro import Rank
from penstock.predict.routed import routed_bytes

Messages = tuple[Callable[[Block], float], Sequence[Level], str, tuple[str, ...]]


def messages_of(rank: Rank, axis: str) -> Messages:
    """Return of an axis the bytes of a block's messages, their links, words with a place for the bytes, and the
    constants of the framework that say how much of them shows.

    Args:
        rank: whose.
        axis: ``tensor``, ``expert`` or ``context``.
    """
    setup, stack = rank.setup, rank.stack
    if axis == "tensor":
        fields, said = shown_fields(stack, "tp", setup.tp_overlap), _asked(rank, "tp_overlap")
        return rank.summed_bytes, rank.tensor, f"all-reduces of {{}} in each direction{said}", fields
    if axis == "expert":
        fields, said = shown_fields(stack, "ep", setup.ep_overlap), _asked(rank, "ep_overlap")
        words = f"all-to-alls of {{}} ({stack.dispatcher}), there and back in each direction{said}"
        return partial(routed_bytes, rank), rank.experts, words, fields
    return _context(rank)


def _asked(rank: Rank, name: str) -> str:
    """What a switch is asked to do, in words."""
    value = getattr(rank.setup, name)
    return "" if value == "own" else f", {name}={value}"


def _context(rank: Rank) -> Messages:
    """Of context parallelism."""
    (inner, ring), asked = context_links(rank), _asked(rank, "cp_overlap")
    given, turned = partial(given_bytes, rank), partial(turned_bytes, rank)
    if not ring:
        return given, inner, "all-to-alls of {} in each direction", ()
    if not in_ring(rank):
        return turned, ring, f"{{}} of each rank gathered in each direction{asked}", ()
    if not inner:
        return turned, ring, f"{{}} of each rank on their way round in each direction{asked}", ("cp_shown",)

    def both(block: Block) -> float:
        return given(block) + turned(block)

    words = f"all-to-alls among {rank.setup.cp_inner} and a ring, {{}} of each rank in each direction"
    return both, (*inner, *ring), words, ("cp_shown",)


def collective_constants() -> tuple[Constant, ...]:
    """Return those of collectives and sends."""
    return tuple(constant("collective", name) for name in constants("collective"))


def links(levels: Sequence[Level]) -> str:
    """Return the links of a group in words, inside first."""
    return ", ".join(f"{level.ranks} over {level.bytes_per_s / 1e9:,.4g} GB/s" for level in levels)
