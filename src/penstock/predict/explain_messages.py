"""Messages inside of blocks opened up: their bytes, links, words and constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.core.architecture import Block
from penstock.core.cluster import Level
from penstock.cost.constants import constants
from penstock.cost.origins import Constant, constant
from penstock.predict.micro import Rank

Messages = tuple[Callable[[Block], float], Sequence[Level], str, tuple[str, ...]]


def messages_of(rank: Rank, axis: str) -> Messages:
    """Return of an axis the bytes of a block's messages, their links, words with a place for the bytes, and the
    constants of the framework that say how much of them shows.

    Args:
        rank: whose.
        axis: ``tensor``, ``expert`` or ``context``.
    """
    if axis == "tensor":
        return rank.summed_bytes, rank.tensor, "all-reduces of {} in each direction", ("tp_shown",)
    if axis == "expert":
        return rank.routed_bytes, rank.experts, "all-to-alls of {}, there and back in each direction", ("ep_shown",)
    inner, ring = rank.context
    if not ring:
        return rank.given_bytes, inner, "all-to-alls of {} in each direction", ()
    if not inner:
        return rank.turned_bytes, ring, "{} of each rank on their way round in each direction", ("cp_shown",)

    def both(block: Block) -> float:
        return rank.given_bytes(block) + rank.turned_bytes(block)

    words = f"all-to-alls among {rank.setup.cp_inner} and a ring, {{}} of each rank in each direction"
    return both, (*inner, *ring), words, ("cp_shown",)


def collective_constants() -> tuple[Constant, ...]:
    """Return those of collectives and sends."""
    return tuple(constant("collective", name) for name in constants("collective"))


def links(levels: Sequence[Level]) -> str:
    """Return the links of a group in words, inside first."""
    return ", ".join(f"{level.ranks} over {level.bytes_per_s / 1e9:,.4g} GB/s" for level in levels)
