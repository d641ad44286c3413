"""What many ranks take, found at once: one by one most of the time goes into the calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.core.parts import Experts
from penstock.predict.micro import Rank
from penstock.predict.works import Asked, time_blocks

AT_ONCE = 1024
"""Ranks at a time: what is known of their blocks is kept until their parts are made of it."""


def make_parts(made: Iterable[Rank]) -> None:
    """Find the parts of ranks of which nobody asked for them yet."""
    new = [rank for rank in made if "parts" not in rank.__dict__]
    for begin in range(0, len(new), AT_ONCE):
        some = new[begin : begin + AT_ONCE]
        time_blocks(asked for rank in some for asked in _blocks(rank))
        for rank in some:
            rank.parts  # noqa: B018 (found, and kept by the rank)


def _blocks(rank: Rank) -> Iterator[Asked]:
    """What the times of blocks of a rank depend on; those without experts are of the plain rank, if there is one."""
    for block in rank.model.kinds():
        if rank.plain is None or isinstance(block.mlp, Experts):
            bits, crowd = rank.bits_in(block), rank.crowd(block)
            yield block, rank.batch_of(block), rank.device, bits, rank.wide, crowd
    if rank.plain is not None and "parts" not in rank.plain.__dict__:
        yield from _blocks(rank.plain)
