"""The noun ``Architecture``: what a decoder-only model is made of, block by block, with exact parameter counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Experts, Matrix, Mlp, Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One decoder layer: what mixes tokens, what works on each token, and the norms around them.

    Either half may be missing (hybrid models have layers of one half). ``parallel``: both halves read the same input.
    ``vectors``: parameters that are neither matrices nor norms, of both halves apart from their own (scales of
    residuals). ``streams``: the residual is so many side by side, which a small product mixes around each half
    (hyper-connections, arXiv:2409.19606). ``wide``: its products keep 16 bits whatever the recipe.
    """

    attention: Attention | LinearAttention | None
    mlp: Mlp | Experts | None
    norms: tuple[Norm, ...]
    parallel: bool = False
    vectors: int = 0
    streams: int = 1
    wide: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = (self.attention, self.mlp, self.norms, self.parallel, self.vectors, self.streams, self.wide)
        object.__setattr__(self, "_hash", hash(own))

    def __hash__(self) -> int:
        return self._hash

    @property
    def hidden(self) -> int:
        """Width of the block's input, of one stream."""
        half = self.attention or self.mlp
        if half is None:
            raise ValueError("a block needs attention or a feed-forward; this one has neither")
        return half.hidden

    @property
    def mixing(self) -> tuple[Matrix, ...]:
        """For each half, the product that says how its streams are taken together and given back."""
        if self.streams == 1:
            return ()
        outputs = self.streams * (self.streams + 2)
        one = Matrix("streams", self.streams * self.hidden, outputs, True, "none")
        return (one,) * sum(half is not None for half in (self.attention, self.mlp))

    @property
    def parameters(self) -> int:
        """All of them, experts that a token does not visit too."""
        halves = sum(half.parameters for half in (self.attention, self.mlp) if half is not None)
        halves += sum(matrix.parameters for matrix in self.mixing)
        return halves + sum(norm.parameters for norm in self.norms) + self.vectors

    @property
    def active_parameters(self) -> int:
        """Those that work on one token."""
        idle = self.mlp.parameters - self.mlp.active_parameters if isinstance(self.mlp, Experts) else 0
        return self.parameters - idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Rows of ``width`` for ``vocab`` tokens and ``positions`` learned places (0 if positions are not learned).

    ``norm`` follows the sum; ``project`` takes ``width`` to the width of the blocks, where they differ.
    """

    vocab: int
    width: int
    positions: int = 0
    position_width: int = 0
    norm: Norm | None = None
    project: Matrix | None = None

    @property
    def parameters(self) -> int:
        """Of all tables, norm and projection."""
        extra = (self.norm.parameters if self.norm else 0) + (self.project.parameters if self.project else 0)
        return self.vocab * self.width + self.positions * (self.position_width or self.width) + extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The product of ``inputs`` features and ``vocab`` rows; ``tied`` to the embedding, it has no rows of its own."""

    inputs: int
    vocab: int
    tied: bool
    bias: bool = False
    project: Matrix | None = None

    @property
    def parameters(self) -> int:
        """Those of its own."""
        rows = 0 if self.tied else self.inputs * self.vocab
        return rows + self.bias * self.vocab + (self.project.parameters if self.project else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A multi-token head (DeepSeek-V3, arXiv:2412.19437, 2.2): one block behind a projection of the hidden state and
    the next token's embedding, both normed; embedding and output head are the model's own."""

    block: Block
    project: Matrix
    norms: tuple[Norm, ...]

    @property
    def parameters(self) -> int:
        """Of block, projection and norms."""
        return self.block.parameters + self.project.parameters + sum(norm.parameters for norm in self.norms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder-only language model.

    ``family`` is the ``model_type`` of its config, ``positions`` the longest sequence in tokens. ``blocks`` are in the
    order of the model; equal blocks are equal values. ``norm`` follows the last block (``None``: there is none).
    ``vectors``: parameters that are in none of these.

    >>> from penstock.core.config import gpt
    >>> small = gpt(layers=12, hidden=768, heads=12, vocab=50257, positions=1024, tied=True)
    >>> small.parameters, len(small.blocks), len(small.kinds())
    (124439808, 12, 1)
    """

    name: str
    family: str
    hidden: int
    vocab: int
    positions: int
    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Head
    predictors: tuple[Predictor, ...] = ()
    vectors: int = 0
    _kinds: dict[Block, int] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of_equals: dict[Block, Block] = {}
        object.__setattr__(self, "blocks", tuple(one_of_equals.setdefault(block, block) for block in self.blocks))
        object.__setattr__(self, "_kinds", dict(Counter(self.blocks)))
        object.__setattr__(self, "_hash", hash((self.name, self.family, self.vocab, self.blocks, self.head)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def parameters(self) -> int:
        """Of embedding, blocks, norm and head; a tied embedding counts once, multi-token heads not at all."""
        return self._ends + sum(block.parameters * count for block, count in self.kinds().items())

    @property
    def active_parameters(self) -> int:
        """Those that work on one token."""
        return self._ends + sum(block.active_parameters * count for block, count in self.kinds().items())

    @property
    def _ends(self) -> int:
        norm = self.norm.parameters if self.norm else 0
        return self.embedding.parameters + norm + self.head.parameters + self.vectors

    def kinds(self) -> dict[Block, int]:
        """Distinct blocks, in order of first use, and how many there are of each."""
        return dict(self._kinds)
