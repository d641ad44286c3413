"""Mixtures of experts from the keys of a config."""

from __future__ import annotations

from dataclasses import replace

from penstock.core.config.style import ExpertStyle
from penstock.core.keys import Keys
from penstock.core.parts import Experts, Mlp

COUNT = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
TOPK = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
FFN = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
SHARED_FFN = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")


def experts_of(keys: Keys, style: ExpertStyle, like: Mlp) -> Experts:
    """Return the experts of a layer; each is like ``like``, of another width."""
    experts, ffn = keys.whole(*COUNT), keys.whole(*FFN)
    shared_ffn = 0
    if style.shared == "one":
        shared_ffn = ffn
    elif style.shared == "count":
        shared_ffn = keys.whole(*SHARED, missing=0, least=0) * ffn
    elif style.shared == "width":
        shared_ffn = keys.whole(*SHARED_FFN, missing=0, least=0)
    latent = keys.whole("moe_latent_size", missing=like.hidden)
    bias, limited = like.bias or style.bias, like.limited or style.limited
    expert = replace(like, hidden=latent, ffn=ffn, bias=bias, fused=True, limited=limited)
    return Experts(
        hidden=like.hidden,
        experts=experts,
        topk=keys.whole(*TOPK),
        expert=expert,
        shared=replace(like, ffn=shared_ffn) if shared_ffn else None,
        shared_gate=style.shared_gate,
        router_bias=style.router_bias,
        vectors=experts if style.score_bias else 0,
    )


def is_sparse(keys: Keys, style: ExpertStyle, layer: int) -> bool:
    """Whether a layer has experts."""
    types = keys.find("mlp_layer_types")
    if isinstance(types, list):
        return bool(types[layer] == "sparse")
    if style.which == "after first":
        step = keys.whole("moe_layer_freq", missing=1)
        return (
            layer >= keys.whole("first_k_dense_replace", "num_dense_layers", missing=style.first, least=0)
            and layer % step == 0
        )
    if style.which == "step":
        dense = keys.find("mlp_only_layers") or []
        return layer not in dense and (layer + 1) % keys.whole("decoder_sparse_step", missing=1) == 0
    if style.which == "every":
        given = keys.find("moe_layers")
        step = keys.whole("interleave_moe_layer_step", missing=1)
        return layer in given if isinstance(given, list) else (layer + 1) % step == 0
    if style.which == "from to":
        first = keys.whole("moe_layer_start_index", missing=0, least=0)
        last = keys.find("moe_layer_end_index")
        inside = first <= layer and (last in (None, -1) or layer <= last)
        return inside and (layer + 1) % keys.whole("moe_layer_interval", missing=1) == 0
    return True
