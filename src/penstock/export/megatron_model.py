"""A model's sizes as Megatron-LM's launch arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from penstock.core.architecture import Architecture, Block
from penstock.core.mask import CAUSAL
from penstock.core.mixers import Attention
from penstock.core.parts import Experts, Mlp
from penstock.export.written import Left

Words = Iterator[tuple[str, ...]]
"""Arguments: a name with its dashes, and its values."""
PLAIN = ("silu", "gelu", "relu2")
"""Activations that Megatron-LM has words for: behind a gate the first, else the others."""


def model_words(model: Architecture) -> list[tuple[str, ...]]:
    """Return the arguments of ``pretrain_gpt.py`` that make this model.

    Raises:
        ValueError: its GPT has no such blocks.
    """
    attention, dense, experts = _parts(model)
    ffn = dense.ffn if dense else experts.expert.ffn if experts else 0
    norm = model.blocks[0].norms[0]
    words: list[tuple[str, ...]] = [
        ("--num-layers", str(model.layers)),
        ("--hidden-size", str(model.hidden)),
        ("--ffn-hidden-size", str(ffn)),
        ("--num-attention-heads", str(attention.heads)),
        ("--normalization", "RMSNorm" if norm.rms else "LayerNorm"),
        ("--position-embedding-type", "rope" if attention.rope else "learned_absolute"),
        ("--tokenizer-type", "NullTokenizer"),
        ("--vocab-size", str(model.vocab)),
    ]
    words += [*_attention(attention), *_window(model), *_linears(model, attention, dense or experts)]
    words += [*_experts(model, experts)] if experts else []
    return words


def model_left(model: Architecture) -> Iterator[Left]:
    """Give what the arguments cannot say of a model."""
    attention, dense, experts = _parts(model)
    for mlp in filter(None, (dense, experts.expert if experts else None)):
        if mlp.activation not in PLAIN or (mlp.gated and mlp.activation != "silu"):
            yield Left("model", f"activation {mlp.activation}, written as {'SwiGLU' if mlp.gated else 'GELU'}")
    if attention.gate or attention.vectors:
        yield Left("model", "gates or sinks of its attention")
    if experts and experts.shared_gate:
        yield Left("model", "the gate of its shared expert")
    if model.embedding.project or model.embedding.norm or model.embedding.width != model.hidden:
        yield Left("model", "the norm or projection behind its embedding")


def _parts(model: Architecture) -> tuple[Attention, Mlp | None, Experts | None]:
    """The one attention, apart from masks, and the one or two kinds of feed-forward."""
    attentions = {_unmasked(model, block) for block in model.kinds()}
    mlps = {block.mlp for block in model.kinds()}
    dense = [mlp for mlp in mlps if isinstance(mlp, Mlp)]
    mixed = [mlp for mlp in mlps if isinstance(mlp, Experts)]
    if len(attentions) > 1 or len(dense) > 1 or len(mixed) > 1:
        raise ValueError(f"megatron: {model.name} has several kinds of attention or feed-forward; its GPT has one")
    return attentions.pop(), dense[0] if dense else None, mixed[0] if mixed else None


def _unmasked(model: Architecture, block: Block) -> Attention:
    attention = block.attention
    if not isinstance(attention, Attention) or block.mlp is None:
        raise ValueError(f"megatron: {model.name} has layers that are not attention and feed-forward; its GPT has none")
    if block.parallel or block.streams > 1:
        raise ValueError(f"megatron: {model.name} has halves side by side or several streams; its GPT has neither")
    mask = attention.mask
    if attention.indexer or attention.shared or attention.out_rank or mask != replace(CAUSAL, window=mask.window):
        raise ValueError(f"megatron: {model.name} has sparse attention; its GPT has only windows")
    return replace(attention, mask=CAUSAL)


def _attention(attention: Attention) -> Words:
    if attention.latent:
        yield ("--multi-latent-attention",)
        if attention.query_rank:
            yield "--q-lora-rank", str(attention.query_rank)
        yield "--kv-lora-rank", str(attention.kv_rank)
        yield "--qk-head-dim", str(attention.head_dim - attention.rope_dim)
        yield "--qk-pos-emb-head-dim", str(attention.rope_dim)
        yield "--v-head-dim", str(attention.value_dim)
    else:
        yield "--kv-channels", str(attention.head_dim)
        if attention.kv_heads != attention.heads:
            yield ("--group-query-attention",)
            yield "--num-query-groups", str(attention.kv_heads)
    if {"query", "key"} & {norm.name for norm in attention.norms} or (attention.latent and attention.norms):
        yield ("--qk-layernorm",)


def _window(model: Architecture) -> Words:
    """Windows, and which layers have them."""
    windows = [block.attention.mask.window for block in model.blocks if isinstance(block.attention, Attention)]
    sizes = {window for window in windows if window}
    if len(sizes) > 1:
        raise ValueError(f"megatron: {model.name} has windows of {sorted(sizes)}; its GPT has one size")
    for size in sizes:
        yield "--window-size", f"{size - 1},0"
        if not all(windows):
            yield "--window-attn-skip-freq", runs(int(window > 0) for window in windows)


def _linears(model: Architecture, attention: Attention, mlp: Mlp | Experts | None) -> Words:
    one = mlp.expert if isinstance(mlp, Experts) else mlp
    if one and one.gated:
        yield ("--swiglu",)
    elif one and one.activation == "relu2":
        yield ("--squared-relu",)
    if not attention.out_bias:
        yield ("--disable-bias-linear",)
        if attention.query_bias:
            yield ("--add-qkv-bias",)
    if not model.head.tied:
        yield ("--untie-embeddings-and-output-weights",)


def _experts(model: Architecture, experts: Experts) -> Words:
    yield "--num-experts", str(experts.experts)
    yield "--moe-router-topk", str(experts.topk)
    yield "--moe-ffn-hidden-size", str(experts.expert.ffn)
    yield ("--moe-grouped-gemm",)
    yield "--moe-token-dispatcher-type", "alltoall"
    if experts.shared:
        yield "--moe-shared-expert-intermediate-size", str(experts.shared.ffn)
    if experts.router_bias or experts.vectors:
        yield ("--moe-router-enable-expert-bias",)
        yield "--moe-router-score-function", "sigmoid"
    mixed = [int(isinstance(block.mlp, Experts)) for block in model.blocks]
    if not all(mixed):
        yield "--moe-layer-freq", runs(mixed)


def runs(values: Iterable[object]) -> str:
    """Return zeros and ones as the list of Python that the arguments take.

    >>> runs([0, 1, 1])
    '([0]*1+[1]*2)'
    """
    return "(" + "+".join(f"[{value}]*{len([*same])}" for value, same in groupby(values)) + ")"
