"""Families whose configs have a shape of their own: most are older than Llama."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.blocks import decoder
from penstock.core.config.style import ExpertStyle, Style
from penstock.core.keys import Keys
from penstock.core.parts import Matrix, Norm


def renamed(keys: Keys, **names: str) -> Keys:
    """Return the keys with values of the second names under the first ones too."""
    config: dict[str, Any] = dict(keys.config)
    defaults = dict(keys.defaults)
    for canonical, own in names.items():
        for where in (config, defaults):
            if where.get(own) is not None and where.get(canonical) is None:
                where[canonical] = where[own]
    return Keys(config, keys.source, defaults)


def _with(keys: Keys, **values: Any) -> Keys:
    return Keys({**keys.config, **values}, keys.source, keys.defaults)


def _ffn(keys: Keys, name: str) -> Keys:
    """The feed-forward is four times as wide as the model where the config does not say."""
    return _with(keys, intermediate_size=keys.whole(name, missing=4 * keys.whole("hidden_size")))


def gpt2(name: str, family: str, keys: Keys) -> Architecture:
    """GPT-2; GPT-BigCode with one head of keys and values."""
    keys = _ffn(keys, "n_inner")
    if keys.truth("add_cross_attention"):
        raise ValueError(f"{keys.source}: add_cross_attention=True is no decoder-only model; set it to false")
    if family == "gpt_bigcode" and keys.truth("multi_query", missing=True):
        keys = _with(keys, num_key_value_heads=1)
    return decoder(name, family, keys, Style(**_GPT, fused_qkv=True, learned_positions=0))


_GPT: dict[str, Any] = {
    "norm": "layer",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "gated": False,
    "rope": False,
}


def gpt_neo(name: str, family: str, keys: Keys) -> Architecture:
    """GPT-Neo: local attention in every second layer, no biases of queries, keys and values."""
    keys, layers = _ffn(keys, "intermediate_size"), keys.whole("num_hidden_layers")
    types = keys.find("attention_types")
    kinds = [kind for group, times in types for kind in group * times] if types else (["global", "local"] * layers)
    style = Style(**{**_GPT, "qkv_bias": False}, learned_positions=0, pattern=1)
    keys = _with(keys, layer_types=kinds[:layers], sliding_window=keys.whole("window_size"))
    return decoder(name, family, keys, style)


def gpt_j(name: str, family: str, keys: Keys) -> Architecture:
    """GPT-J and CodeGen: both halves read one norm; no biases in attention, one in the head."""
    style = Style(norm="layer", norms=1, parallel=True, gated=False, mlp_bias=True, head_bias=True)
    style = replace(style, fused_qkv=family == "codegen")
    return decoder(name, family, _ffn(keys, "n_inner"), style)


def opt(name: str, family: str, keys: Keys) -> Architecture:
    """OPT: two positions more than the longest sequence; the 350M model has a narrower embedding."""
    bias, hidden = keys.truth("enable_bias", missing=True), keys.whole("hidden_size")
    affine = keys.truth("layer_norm_elementwise_affine", missing=True)
    keys = _with(keys, intermediate_size=keys.whole("ffn_dim"))
    norms = {"norm": "layer" if affine else "bare", "learned_positions": 2}
    style = Style(**{**_GPT, "qkv_bias": bias, "out_bias": bias, "mlp_bias": bias, **norms})
    before = keys.truth("do_layer_norm_before", missing=True)
    style = replace(style, final_norm=before and not keys.truth("_remove_final_layer_norm"))
    made = decoder(name, family, keys, style)
    width = keys.whole("word_embed_proj_dim", missing=hidden)
    if width == hidden:
        return made
    inside = Matrix("embedding.project", width, hidden, split="none")
    outside = Matrix("head.project", hidden, width, split="none")
    embedding = replace(made.embedding, width=width, position_width=hidden, project=inside)
    return replace(made, embedding=embedding, head=replace(made.head, inputs=width, project=outside))


def xglm(name: str, family: str, keys: Keys) -> Architecture:
    """XGLM: sinusoidal positions, which are no parameters."""
    return decoder(name, family, _with(keys, intermediate_size=keys.whole("ffn_dim")), Style(**_GPT))


def bloom(name: str, family: str, keys: Keys) -> Architecture:
    """BLOOM: a norm behind the embedding, biases on scores by distance."""
    keys = renamed(keys, hidden_size="n_embed")
    keys = _with(keys, intermediate_size=4 * keys.whole("hidden_size"))
    made = decoder(name, family, keys, Style(**_GPT, fused_qkv=True))
    return replace(made, embedding=replace(made.embedding, norm=Norm(made.hidden, rms=False, bias=True)))


def falcon(name: str, family: str, keys: Keys) -> Architecture:
    """Falcon: 7B has one head of keys and values, 40B and 180B ("new decoder") have groups and two norms."""
    keys, new = _ffn(keys, "ffn_hidden_size"), keys.truth("new_decoder_architecture")
    parallel, bias = keys.truth("parallel_attn", missing=True), keys.truth("bias")
    heads = keys.whole("num_attention_heads")
    grouped = keys.whole("num_kv_heads", "n_head_kv", missing=heads) if new else heads
    kv_heads = 1 if not new and keys.truth("multi_query", missing=True) else grouped
    norms = keys.whole("num_ln_in_parallel_attn", missing=2 if new else 1) if new or parallel else 2
    style = Style(**{**_GPT, "qkv_bias": bias, "out_bias": bias, "mlp_bias": bias}, norms=norms, parallel=parallel)
    style = replace(style, rope=not keys.truth("alibi"))
    keys = _with(keys, num_key_value_heads=kv_heads)
    return decoder(name, family, keys, replace(style, fused_qkv=True))


def mpt(name: str, family: str, keys: Keys) -> Architecture:
    """MPT: no biases, norms without offsets, biases on scores by distance."""
    hidden = keys.whole("d_model")
    inner = keys.find("attn_config") or {}
    kv_heads = inner.get("kv_n_heads") or keys.whole("num_attention_heads")
    ffn = round(float(keys.find("expansion_ratio") or 4) * hidden)
    keys = _with(keys, intermediate_size=ffn, num_key_value_heads=kv_heads)
    keys = renamed(keys, max_position_embeddings="max_seq_len")
    return decoder(name, family, keys, Style(norm="layer without offset", gated=False, fused_qkv=True, rope=False))


def qwen(name: str, family: str, keys: Keys) -> Architecture:
    """Qwen 1: its config gives gate and up together as the width of the feed-forward."""
    keys = _with(keys, intermediate_size=keys.whole("intermediate_size") // 2, head_dim=keys.find("kv_channels"))
    return decoder(name, family, keys, Style(qkv_bias=True, fused_qkv=True))


def dbrx(name: str, family: str, keys: Keys) -> Architecture:
    """DBRX: sizes of attention and experts stand in objects of their own."""
    attention, ffn = keys.find("attn_config") or {}, keys.find("ffn_config") or {}
    keys = _with(
        keys,
        num_key_value_heads=attention.get("kv_n_heads", 1),
        intermediate_size=ffn.get("ffn_hidden_size", 3584),
        num_experts=ffn.get("moe_num_experts", 4),
        num_experts_per_tok=ffn.get("moe_top_k", 1),
    )
    style = Style(norm="layer without offset", fused_qkv=True, experts=ExpertStyle())
    return decoder(name, family, keys, style)


def biogpt(name: str, family: str, keys: Keys) -> Architecture:
    """BioGPT: two positions more than the longest sequence, as OPT."""
    return decoder(name, family, keys, Style(**_GPT, learned_positions=2))


def openai_gpt(name: str, family: str, keys: Keys) -> Architecture:
    """GPT-1: norms behind each half, none behind the last block."""
    return decoder(
        name, family, _ffn(keys, "n_inner"), Style(**_GPT, fused_qkv=True, learned_positions=0, final_norm=False)
    )


def ctrl(name: str, family: str, keys: Keys) -> Architecture:
    """CTRL: sinusoidal positions, a bias in the head."""
    return decoder(name, family, _with(keys, intermediate_size=keys.whole("dff")), Style(**_GPT, head_bias=True))


def hyperclovax(name: str, family: str, keys: Keys) -> Architecture:
    """HyperCLOVA X: a norm behind each half too, unless the config says not."""
    norms = 4 if keys.truth("use_post_norm", missing=True) else 2
    style = Style(norms=norms, qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
    return decoder(name, family, keys, style)


def grok(name: str, family: str, keys: Keys) -> Architecture:
    """Grok-1: four norms a block, and in every one experts."""
    keys = renamed(keys, num_experts_per_tok="num_selected_experts", hidden_size="emb_size")
    style = Style(norms=4, experts=ExpertStyle())
    return decoder(name, family, keys, style)


def persimmon_like(name: str, family: str, keys: Keys) -> Architecture:
    """Persimmon."""
    style = Style(**{**_GPT, "rope": True}, qk_norm="head", qk_norm_if="qk_layernorm", fused_qkv=True)
    return decoder(name, family, keys, style)


def parallel_or_not(name: str, family: str, keys: Keys) -> Architecture:
    """StableLM: a block that runs both halves at once has one norm only."""
    parallel = keys.truth("use_parallel_residual")
    style = Style(norm="layer", norms=1 if parallel else 2, parallel=parallel, qkv_bias="use_qkv_bias")
    style = replace(style, qk_norm="each", qk_norm_if="qk_layernorm")
    return decoder(name, family, keys, style)
