"""What mixes the tokens of a sequence: softmax attention in its kinds, and layers with a state of fixed size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.core.mask import CAUSAL, Mask
from penstock.core.parts import Matrix, Norm
from penstock.core.words import divisors


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention of ``heads`` queries over ``kv_heads`` keys and values (fewer: grouped; 1: multi-query).

    ``head_dim`` is the width of queries and keys, ``value_dim`` that of values. Latent attention (DeepSeek-V2,
    arXiv:2405.04434, 2.1): ``kv_rank`` is the width of the latent that keys and values are made of, ``query_rank`` that
    of queries (0: made directly), ``rope_dim`` the part of each key that is one for all heads and holds the position.
    ``gate``: extra outputs of the query product, which scale the result. ``rope``: queries and keys are turned by their
    position; ``yarn``: and scaled as well (arXiv:2309.00071, 3.4). ``norms`` are those of queries, keys, latents or the
    result, by name. ``vectors``: other parameters (sinks, biases of positions). ``fused``: queries, keys and values are
    one product.

    ``indexer``: products that choose the keys of a sparse mask, in ``index_heads`` heads of ``index_dim``. ``shared``:
    keys are values too, and queries go through ``query_rank``. ``beside``: other products of the layer's input, which
    compress keys. ``out_rank``: before the last product the result goes through ``out_groups`` products to so many
    features each.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    mask: Mask = CAUSAL
    query_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    rope: bool = True
    yarn: bool = False
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    latent_bias: bool = False
    out_bias: bool = False
    gate: int = 0
    norms: tuple[Norm, ...] = ()
    vectors: int = 0
    fused: bool = False
    indexer: tuple[Matrix, ...] = ()
    index_heads: int = 0
    index_dim: int = 0
    shared: bool = False
    beside: tuple[Matrix, ...] = ()
    out_groups: int = 0
    out_rank: int = 0

    def __post_init__(self) -> None:
        heads, kv_heads = self.heads, self.kv_heads
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads={kv_heads} does not divide heads={heads}; use {divisors(heads, near=kv_heads)}")

    @property
    def latent(self) -> bool:
        """Whether keys and values are made of a latent."""
        return self.kv_rank > 0

    @property
    def query_width(self) -> int:
        """Features of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def inward(self) -> tuple[Matrix, ...]:
        """The products that make queries, keys and values, in order."""
        if self.shared:
            down, up = self._latent_inward()[:2]
            return down, up, Matrix("attention.key", self.hidden, self.kv_heads * self.head_dim, split="none")
        return self._latent_inward() if self.latent else self._plain_inward()

    @property
    def outward(self) -> Matrix:
        """The last product behind the attention."""
        if self.out_rank:
            return Matrix("attention.out", self.out_groups * self.out_rank, self.hidden, self.out_bias, "rows")
        return Matrix("attention.out", self.heads * self.value_dim, self.hidden, self.out_bias, "rows")

    @property
    def narrowing(self) -> tuple[Matrix, ...]:
        """The product before the last one, where there are two: in groups, each on its part of the result."""
        if not self.out_rank:
            return ()
        part = self.heads * self.value_dim // self.out_groups
        return (Matrix("attention.out_down", part, self.out_groups * self.out_rank),)

    @property
    def parameters(self) -> int:
        """Of products, norms and vectors."""
        matrices = (*self.inward, *self.narrowing, self.outward, *self.indexer, *self.beside)
        return sum(m.parameters for m in matrices) + sum(norm.parameters for norm in self.norms) + self.vectors

    def _plain_inward(self) -> tuple[Matrix, ...]:
        query = self.query_width + self.gate
        key, value = self.kv_heads * self.head_dim, self.kv_heads * self.value_dim
        if self.fused:
            return (Matrix("attention.qkv", self.hidden, query + key + value, self.query_bias),)
        return (
            Matrix("attention.query", self.hidden, query, self.query_bias),
            Matrix("attention.key", self.hidden, key, self.key_bias),
            Matrix("attention.value", self.hidden, value, self.value_bias),
        )

    def _latent_inward(self) -> tuple[Matrix, ...]:
        up = self.heads * (self.head_dim - self.rope_dim + self.value_dim)
        keys = (
            Matrix("attention.kv_down", self.hidden, self.kv_rank + self.rope_dim, self.latent_bias, "none"),
            Matrix("attention.kv_up", self.kv_rank, up),
        )
        if not self.query_rank:
            return (Matrix("attention.query", self.hidden, self.query_width), *keys)
        return (
            Matrix("attention.query_down", self.hidden, self.query_rank, self.latent_bias, "none"),
            Matrix("attention.query_up", self.query_rank, self.query_width),
            *keys,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """A layer whose state has a fixed size: ``heads`` matrices of ``key_dim`` by ``value_dim``.

    ``rule``: how the state moves: ``gated_delta`` (arXiv:2412.06464), ``mamba2`` (arXiv:2405.21060), ``mamba`` (a
    selective scan, arXiv:2312.00752), ``lightning`` (arXiv:2401.04658). All but ``mamba`` run in chunks of ``chunk``
    tokens: products inside a chunk, and one update of the state per chunk. ``conv``: channels and width of a causal
    convolution before it (0: none). ``inward`` and ``outward`` are the products before and behind it.
    """

    rule: Literal["gated_delta", "mamba2", "mamba", "lightning"]
    hidden: int
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    inward: tuple[Matrix, ...]
    outward: Matrix
    chunk: int = 64
    conv: tuple[int, int] = (0, 0)
    conv_bias: bool = False
    norms: tuple[Norm, ...] = ()
    vectors: int = 0

    @property
    def parameters(self) -> int:
        """Of products, convolution, norms and vectors."""
        channels, width = self.conv
        conv = channels * (width + self.conv_bias)
        products = sum(matrix.parameters for matrix in (*self.inward, self.outward))
        return products + conv + sum(norm.parameters for norm in self.norms) + self.vectors
