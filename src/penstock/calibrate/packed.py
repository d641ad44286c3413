"""Models that read several short sequences in a row, each of which sees itself alone."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from penstock.core.architecture import Architecture, Block
from penstock.core.lengths import Lengths
from penstock.core.mask import Mask
from penstock.core.mixers import Attention


@lru_cache(maxsize=256)
def packed(model: Architecture, text: str) -> Architecture:
    """Return a model whose rows hold sequences of a published set of lengths, or of so many tokens each.

    Sequences of unequal lengths have as many pairs of tokens as equal ones of their mean square over their mean.

    Raises:
        ValueError: no such set, and no number.

    >>> from penstock.core.config import read_architecture
    >>> packed(read_architecture("llama-3-8b"), "squad").blocks[0].attention.mask.chunk
    196
    """
    if not text:
        return model
    if text.isdecimal() and int(text) > 0:
        tokens = int(text)
    else:
        try:
            lengths = Lengths.read(text)
        except (ValueError, OSError):
            raise ValueError(f"packed={text!r} is no number of tokens and no set of lengths, such as squad") from None
        squares = float((lengths.counts * lengths.tokens.astype(float) ** 2).sum())
        tokens = round(squares / float((lengths.counts * lengths.tokens).sum()))
    kinds = {block: _apart(block, tokens) for block in model.kinds()}
    return replace(model, blocks=tuple(kinds[block] for block in model.blocks))


def _apart(block: Block, tokens: int) -> Block:
    """The same, with sequences of so many tokens beside each other, where it sees all tokens before."""
    mixer = block.attention
    if not isinstance(mixer, Attention) or mixer.mask != Mask():
        return block
    return replace(block, attention=replace(mixer, mask=Mask(chunk=tokens)))
