"""Messages of context parallelism: heads for tokens, and keys and values round a ring, or gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from penstock.core.architecture import Block
from penstock.core.cluster import Level
from penstock.core.mixers import Attention
from penstock.cost.collectives import seconds_of
from penstock.cost.switches import on, shown
from penstock.predict.split import once

if TYPE_CHECKING:
    from penstock.predict.micro import Rank


def given_bytes(rank: Rank, block: Block) -> float:
    """Return the bytes of queries, keys and values, and of results, that a rank gives for heads of other tokens."""
    setup, mixer = rank.setup, block.attention
    if setup.cp_turned == 1 or not isinstance(mixer, Attention):
        return 0.0
    return _heads_bytes(rank, mixer, mixer.kv_heads + mixer.heads)


def turned_bytes(rank: Rank, block: Block) -> float:
    """Return the bytes of its keys and values that a rank sends round the ring, or to all others."""
    setup, mixer = rank.setup, block.attention
    if setup.cp_turned == setup.cp or not isinstance(mixer, Attention):
        return 0.0
    return _heads_bytes(rank, mixer, mixer.kv_heads)


def _heads_bytes(rank: Rank, mixer: Attention, heads: int) -> float:
    return rank.batch.here * heads * (mixer.head_dim + mixer.value_dim) / rank.setup.tp * rank.width_bytes


def context_links(rank: Rank) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Return the links among ranks that exchange heads, and of the ring."""
    row, ranks = rank.context_row, rank.setup.cp_turned
    return once(rank, context_links, lambda: (rank.group(row.part(ranks)), rank.group(row.across(ranks))))


def in_ring(rank: Rank) -> bool:
    """Return whether keys go round piece by piece, and are not gathered before attention begins."""
    return on(rank.stack, "cp", rank.setup.cp_overlap)


def gathered_bytes(rank: Rank, block: Block) -> float:
    """Return the bytes of keys and values of all tokens that a rank's attention reads, where they are gathered."""
    return 0.0 if in_ring(rank) else turned_bytes(rank, block) * (rank.setup.cp // rank.setup.cp_turned)


class Ring(NamedTuple):
    """Seconds of a pass's messages: those that nothing hides, and those beside its work, of which a ``share`` shows."""

    alone_s: float = 0.0
    beside_s: float = 0.0
    share: float = 0.0

    def left_s(self, hides_s: float) -> float:
        """Return what is left of them where so much work hides what it can."""
        return self.alone_s + max(0.0, self.beside_s - hides_s) + self.share * min(self.beside_s, hides_s)


def ring_of(rank: Rank, block: Block, times: int = 1) -> Ring:
    """Return the seconds of ``given_bytes``, and of keys and values, which nothing hides where they are gathered, so
    many times."""
    if rank.setup.cp == 1:
        return Ring()
    inner, ring = context_links(rank)
    given_s = times * seconds_of("all_to_all", given_bytes(rank, block), inner)
    if not in_ring(rank):
        return Ring(given_s + seconds_of("all_gather", times * gathered_bytes(rank, block), ring))
    steps = rank.setup.cp // rank.setup.cp_turned - 1
    whole_s = steps * seconds_of("send", times * turned_bytes(rank, block), ring)
    return Ring(given_s, whole_s, shown(rank.stack, "cp", rank.setup.cp_overlap))
