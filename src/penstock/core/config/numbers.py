"""Models from numbers: a GPT with so many layers, so wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.core.architecture import Architecture, Block, Embedding, Head
from penstock.core.mask import Mask
from penstock.core.mixers import Attention
from penstock.core.parts import Experts, Mlp, Norm
from penstock.core.words import divisors

MOST = {"layers": 10_000, "num_hidden_layers": 10_000, "hidden": 1_000_000, "hidden_size": 1_000_000}
"""Beyond these a number is a slip of the pen; beyond ``MOST_ELSE`` other sizes are."""
MOST_ELSE = 10_000_000


def check_sizes(sizes: Mapping[str, int], where: str = "") -> None:
    """Do nothing where sizes of a model can be; ``where`` begins an error.

    Raises:
        ValueError: one is not above 0, or far beyond all models.
    """
    for key, value in sizes.items():
        if value < 1:
            raise ValueError(f"{where}{key}={value} must be above 0")
        if value > (most := MOST.get(key, MOST_ELSE)):
            raise ValueError(f"{where}{key}={value:,} is beyond all models; use at most {most:,}")


def gpt(
    *,
    layers: int,
    hidden: int,
    heads: int,
    vocab: int,
    ffn: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    gated: bool = False,
    tied: bool = False,
    bias: bool | None = None,
    rms: bool | None = None,
    positions: int = 2048,
    learned_positions: bool | None = None,
    window: int = 0,
    experts: int = 0,
    topk: int = 1,
    expert_ffn: int | None = None,
    shared_ffn: int = 0,
    dense_layers: int = 0,
    name: str = "gpt",
) -> Architecture:
    """Return a decoder of these sizes.

    Args:
        layers, hidden, heads, vocab: sizes.
        ffn: width of the feed-forward, in layers without experts; left out, ``4 * hidden``, or with a gate ``8/3`` of
            it.
        kv_heads: heads of keys and values; left out, as many as ``heads``.
        head_dim: left out, ``hidden / heads``.
        gated: whether the feed-forward has a gate. Left out, ``bias``, ``rms`` and ``learned_positions`` follow it: a
            gated model is like Llama, another like GPT-3.
        tied: whether the embedding is also the output head.
        experts: per layer, of which a token visits ``topk``, each ``expert_ffn`` wide (left out, ``ffn``), beside a
            shared one of ``shared_ffn``; not in the first ``dense_layers``.

    Raises:
        ValueError: sizes that do not fit each other.

    >>> gpt(layers=96, hidden=12288, heads=96, vocab=51200).parameters // 10**9
    175
    """
    check_sizes({"layers": layers, "hidden": hidden, "heads": heads, "vocab": vocab})
    if not 0 <= dense_layers <= layers:
        raise ValueError(f"dense_layers={dense_layers} of layers={layers}: use 0 to {layers}")
    learned = not gated if learned_positions is None else learned_positions
    bias = not gated if bias is None else bias
    rms = gated if rms is None else rms
    ffn = (8 * hidden // 3 if gated else 4 * hidden) if ffn is None else ffn
    norm = Norm(hidden, rms=rms, bias=not rms)
    attention = _attention(hidden, heads, kv_heads or heads, head_dim, bias)
    attention = replace(attention, mask=Mask(window=window), rope=not learned)
    dense = Mlp(hidden=hidden, ffn=ffn, gated=gated, bias=bias, fused=gated, activation="silu" if gated else "gelu")
    mixed = _experts(dense, experts, topk, expert_ffn or ffn, shared_ffn) if experts else dense
    first = dense_layers if experts else 0
    kinds = (Block(attention=attention, mlp=mlp, norms=(norm, norm)) for mlp in (dense, mixed))
    blocks = [block for block, count in zip(kinds, (first, layers - first), strict=True) for _ in range(count)]
    return Architecture(
        name=name,
        family="gpt",
        hidden=hidden,
        vocab=vocab,
        positions=positions,
        embedding=Embedding(vocab=vocab, width=hidden, positions=positions if learned else 0),
        blocks=tuple(blocks),
        norm=norm,
        head=Head(inputs=hidden, vocab=vocab, tied=tied),
    )


def _attention(hidden: int, heads: int, kv_heads: int, head_dim: int | None, bias: bool) -> Attention:
    if head_dim is None and hidden % heads:
        raise ValueError(f"heads={heads} does not divide hidden={hidden}; use {divisors(hidden, near=heads)}")
    return Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim or hidden // heads,
        value_dim=head_dim or hidden // heads,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        out_bias=bias,
        fused=True,
    )


def _experts(dense: Mlp, experts: int, topk: int, ffn: int, shared_ffn: int) -> Experts:
    expert = replace(dense, ffn=ffn, fused=True)
    shared = replace(dense, ffn=shared_ffn, fused=True) if shared_ffn else None
    return Experts(hidden=dense.hidden, experts=experts, topk=topk, expert=expert, shared=shared)
