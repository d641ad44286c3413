"""Blocks of a pipeline rank by kind and by the way in which they are made again, with their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from penstock.core.architecture import Block
from penstock.core.mixers import Attention
from penstock.core.parts import Experts
from penstock.cost.passes import Work
from penstock.predict.micro import Rank
from penstock.predict.part import Part
from penstock.predict.step import Step


class Mine(NamedTuple):
    """Blocks of one kind that a rank runs and makes again in one way, so many."""

    rank: Rank
    block: Block
    name: str
    blocks: int

    @property
    def part(self) -> Part:
        """What one takes of a micro-batch."""
        return self.rank.parts[self.block]

    @property
    def times(self) -> float:
        """How often one runs in a step."""
        return float(self.blocks * self.rank.setup.micros)

    @property
    def work(self) -> Work:
        """Of one."""
        return self.rank.work(self.block)

    @property
    def often(self) -> str:
        """The same in words."""
        return f"{self.blocks} blocks of the rank, {self.rank.setup.micros} micro-batches"


def blocks_of(step: Step, r: int) -> Iterator[Mine]:
    """Give those of a pipeline rank."""
    names = block_names(step)
    for rank, blocks in step.blocks(r):
        for block, count in blocks.items():
            yield Mine(rank, block, names[block] + which(step, rank), count)


def which(step: Step, rank: Rank) -> str:
    """Return what tells blocks from others of their kind that are made again in another way, behind their name."""
    return "" if rank is step.rank else ", of the first layers"


def block_names(step: Step) -> dict[Block, str]:
    """Return a name for each kind of block: what it is made of, and its first layer where others are alike."""
    words = {block: _made_of(block) for block in step.model.kinds()}
    often = Counter(words.values())
    return {
        block: word if often[word] == 1 else f"{word}, as layer {step.model.blocks.index(block)}"
        for block, word in words.items()
    }


def _made_of(block: Block) -> str:
    mixer, mlp = block.attention, block.mlp
    mixes = "attention" if isinstance(mixer, Attention) else "linear attention" if mixer is not None else ""
    feeds = "experts" if isinstance(mlp, Experts) else "mlp" if mlp is not None else ""
    return " and ".join(word for word in (mixes, feeds) if word)
