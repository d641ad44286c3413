"""The noun ``Mask``: which keys a query sees, and so how much of the score matrix is worked on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mask:
    """A causal mask and what narrows it; 0 is "not narrowed".

    ``window``: a query sees itself and the ``window - 1`` tokens before it. ``chunk``: it sees no token of the chunks
    before its own. ``selected``: it sees at most so many tokens, which an indexer chooses. ``compress``: beside its
    window, it sees one entry for each ``compress`` tokens up to its own, at most ``selected`` of these. ``block``,
    ``local`` and ``stride``: block-sparse, in blocks of ``block`` tokens a query's block sees the ``local`` last blocks
    and of the earlier ones every ``stride``-th.

    >>> Mask().pairs(4), Mask(window=2).pairs(4), Mask(chunk=2).pairs(4)
    (10, 7, 6)
    """

    window: int = 0
    chunk: int = 0
    selected: int = 0
    block: int = 0
    local: int = 0
    stride: int = 0
    compress: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("window", "chunk", "selected", "block") if getattr(self, name)]
        if len(given) > 1 and not self.compress:
            raise ValueError(f"a mask has one of window, chunk, selected and block, not {' and '.join(given)}")
        if self.block and self.local < 1:
            raise ValueError(f"block={self.block} needs local blocks, not local={self.local}; a query sees its own: 1")

    def pairs(self, seq: int) -> int:
        """Pairs of a query and a key it sees, in a sequence of ``seq`` tokens."""
        if self.chunk:
            whole, rest = divmod(seq, self.chunk)
            return whole * _triangle(self.chunk) + _triangle(rest)
        if self.block:
            return self._block_pairs(seq)
        if self.compress:
            return Mask(window=self.window).pairs(seq) + self._compressed_pairs(seq)
        reach = self.window or self.selected or seq
        return _triangle(seq) if reach >= seq else _triangle(reach) + (seq - reach) * reach

    def density(self, seq: int) -> float:
        """Share of the square score matrix of ``seq`` tokens that is seen."""
        return self.pairs(seq) / seq**2

    def _compressed_pairs(self, seq: int) -> int:
        """Entries rise by one every ``compress`` tokens, up to ``selected``."""
        entries, rest = divmod(seq + 1, self.compress)
        most = min(self.selected or entries, entries)
        risen = _triangle(most - 1) * self.compress if most else 0
        after = (entries - most) * self.compress + rest
        return risen + most * after

    def _block_pairs(self, seq: int) -> int:
        """By rows of blocks: the own block is a triangle, the others are whole."""
        pairs, blocks = 0, -(-seq // self.block)
        for row in range(blocks):
            queries = min(self.block, seq - row * self.block)
            seen = min(row, self.local - 1)
            far = row - seen
            if self.stride:
                seen += far // self.stride
            pairs += _triangle(queries) + seen * queries * self.block
        return pairs


CAUSAL = Mask()
"""Every token sees itself and all before it."""


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
