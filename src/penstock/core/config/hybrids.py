"""Families with layers whose state has a fixed size, alone or between layers of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from penstock.core.architecture import Architecture, Block
from penstock.core.config.blocks import (
    HIDDEN,
    LAYERS,
    assembled,
    attention_of,
    block_of,
    dense_ffn,
    mlp_of,
    mlp_or_experts,
    norm_of,
)
from penstock.core.config.experts import experts_of
from penstock.core.config.states import gated_delta, kimi_delta, mamba1, mamba2
from penstock.core.config.style import ExpertStyle, Style
from penstock.core.keys import Keys
from penstock.core.mask import Mask
from penstock.core.mixers import Attention, LinearAttention
from penstock.core.parts import Experts, Matrix, Mlp, Norm


def _types(keys: Keys, layers: int, every: int) -> list[str]:
    """Kinds of the layers: said by the config, or full attention every so many."""
    given = keys.find("layer_types", "layers_block_type")
    if isinstance(given, list):
        return given
    interval = keys.whole("full_attention_interval", missing=every)
    return ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)]


def qwen_next(name: str, family: str, keys: Keys) -> Architecture:
    """Qwen3-Next and Qwen3.5: every fourth layer is attention with a gate, the others are gated delta rules."""
    experts = ExpertStyle(which="step", shared="width", shared_gate=True)
    style = Style(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        qk_norm="head",
        gate=True,
        experts=None if family == "qwen3_5_text" else experts,
    )
    linear = gated_delta(keys, joined=family == "qwen3_next")
    full = attention_of(keys, style, Mask())
    types = _types(keys, keys.whole(LAYERS), 4)
    mixers = [full if kind == "full_attention" else linear for kind in types]
    blocks = [block_of(keys, style, mixer, mlp_or_experts(keys, style, i)) for i, mixer in enumerate(mixers)]
    return assembled(name, family, keys, style, tuple(blocks))


def kimi_linear(name: str, family: str, keys: Keys) -> Architecture:
    """Kimi Linear: latent attention in a quarter of the layers; its config counts layers from 1."""
    style = Style(experts=ExpertStyle(which="after first", shared="count", first=1), latent=True)
    layers = range(keys.whole(LAYERS))
    own = (keys.find("linear_attn_config") or {}).get("kda_layers")
    if own is None:
        own = [layer + 1 for layer in layers if layer == 0 or layer % 4]
    types = keys.find("layer_types") or ["linear_attention" if i + 1 in own else "full_attention" for i in layers]
    full, linear = attention_of(keys, style, Mask()), kimi_delta(keys)
    blocks = [
        block_of(keys, style, linear if kind == "linear_attention" else full, mlp_or_experts(keys, style, i))
        for i, kind in enumerate(types)
    ]
    return assembled(name, family, keys, style, tuple(blocks))


def mamba(name: str, family: str, keys: Keys) -> Architecture:
    """Mamba and Mamba-2 by themselves: one half per block."""
    hidden = keys.whole(HIDDEN)
    state, kernel = keys.whole("state_size"), keys.whole("conv_kernel")
    if family != "mamba2":
        inner = keys.whole("intermediate_size", missing=keys.whole("expand") * hidden)
        mixer = mamba1(keys, inner, state, _step_rank(keys, "time_step_rank"), kernel, normed=False)
    else:
        sizes = (keys.whole("num_heads"), keys.whole("head_dim"), keys.whole("n_groups"), state, kernel)
        mixer = mamba2(keys, *sizes, keys.whole("chunk_size"))
    style = Style(norms=1)
    blocks = (block_of(keys, style, mixer, None),) * keys.whole(LAYERS)
    return assembled(name, family, keys, style, blocks)


def _step_rank(keys: Keys, name: str) -> int:
    """Width of the product that gives a step's size: a 16th of the model's, if the config leaves it to the code."""
    return -(-keys.whole(HIDDEN) // 16) if keys.find(name) in (None, "auto") else keys.whole(name)


def jamba(name: str, family: str, keys: Keys) -> Architecture:
    """Jamba: one layer of attention among eight of Mamba, experts in every second."""
    style = Style(rope=False)
    inner, rank = keys.whole("mamba_expand") * keys.whole(HIDDEN), _step_rank(keys, "mamba_dt_rank")
    linear = mamba1(keys, inner, keys.whole("mamba_d_state"), rank, keys.whole("mamba_d_conv"), normed=True)
    full = attention_of(keys, style, Mask())
    dense = mlp_of(keys, style, dense_ffn(keys))
    many = keys.whole("num_experts", "num_local_experts")
    sparse = experts_of(keys, ExpertStyle(), dense) if many > 1 else dense
    blocks = []
    for layer in range(keys.whole(LAYERS)):
        attends = (layer - keys.whole("attn_layer_offset", least=0)) % keys.whole("attn_layer_period") == 0
        mixed = (layer - keys.whole("expert_layer_offset", least=0)) % keys.whole("expert_layer_period") == 0
        blocks.append(block_of(keys, style, full if attends else linear, sparse if mixed else dense))
    return assembled(name, family, keys, style, tuple(blocks))


def bamba(name: str, family: str, keys: Keys) -> Architecture:
    """Bamba: Mamba-2, and attention in the layers that ``attn_layer_indices`` names."""
    style = Style(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
    linear = _mamba2_of(keys)
    full, dense = attention_of(keys, style, Mask()), mlp_of(keys, style, dense_ffn(keys))
    attends = set(keys.find("attn_layer_indices") or ())
    types = keys.find("layer_types", "layers_block_type")
    if isinstance(types, list):
        attends = {layer for layer, kind in enumerate(types) if "attention" in kind}
    blocks = [block_of(keys, style, full if layer in attends else linear, dense) for layer in range(keys.whole(LAYERS))]
    return assembled(name, family, keys, style, tuple(blocks))


def _mamba2_of(keys: Keys) -> LinearAttention:
    """Mamba-2 as configs of hybrids name its sizes."""
    heads, inner = keys.whole("mamba_n_heads"), keys.whole("mamba_expand") * keys.whole(HIDDEN)
    sizes = (keys.whole("mamba_n_groups"), keys.whole("mamba_d_state"), keys.whole("mamba_d_conv"))
    return mamba2(keys, heads, inner // heads, *sizes, keys.whole("mamba_chunk_size"))


_NEMOTRON = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def nemotron_h(name: str, family: str, keys: Keys) -> Architecture:
    """Nemotron-H and Nemotron 3: one half per block, in the order of ``hybrid_override_pattern``."""
    biases = Style(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
    style = replace(biases, norms=1, gated=False, rope=False)
    given = keys.find("layer_types", "layers_block_type")
    pattern = keys.find("hybrid_override_pattern")
    types = given or [_NEMOTRON.get(letter, letter) for letter in pattern or ""]
    if not types or set(types) - {*_NEMOTRON.values()}:
        what = f"hybrid_override_pattern={pattern!r}" if pattern else f"layers_block_type={given!r}"
        raise ValueError(f"{keys.source}: {what} must name each layer: mamba M, attention *, mlp -, moe E")
    made = {kind: _nemotron_block(keys, style, kind) for kind in dict.fromkeys(types)}
    return assembled(name, family, keys, style, tuple(made[kind] for kind in types))


def _nemotron_block(keys: Keys, style: Style, kind: str) -> Block:
    mixer: Attention | LinearAttention | None = None
    mlp: Mlp | Experts | None = None
    if kind == "mamba":
        sizes = (keys.whole("mamba_num_heads"), keys.whole("mamba_head_dim"), keys.whole("n_groups"))
        kernel, chunk = keys.whole("conv_kernel"), keys.whole("chunk_size")
        mixer = mamba2(keys, *sizes, keys.whole("ssm_state_size"), kernel, chunk)
    elif kind == "attention":
        mixer = attention_of(keys, style, Mask())
    elif kind == "mlp":
        mlp = mlp_of(keys, style, keys.whole("intermediate_size"))
    else:
        mlp = experts_of(keys, ExpertStyle(shared="width"), mlp_of(keys, style, 1))
    return Block(attention=mixer, mlp=mlp, norms=(norm_of(style, keys.whole(HIDDEN)),))


def minimax(name: str, family: str, keys: Keys) -> Architecture:
    """MiniMax-Text-01: seven layers of lightning attention to one of softmax attention, experts in all."""
    style = Style(experts=ExpertStyle())
    full = attention_of(keys, style, Mask())
    hidden, inner = keys.whole(HIDDEN), full.query_width
    linear = LinearAttention(
        rule="lightning",
        hidden=hidden,
        heads=full.heads,
        key_heads=full.heads,
        key_dim=full.head_dim,
        value_dim=full.head_dim,
        inward=(Matrix("linear.qkv", hidden, 3 * inner), Matrix("linear.gate", hidden, inner)),
        outward=Matrix("linear.out", inner, hidden, split="rows"),
        chunk=keys.whole("block_size", missing=256),
        norms=(Norm(inner),),
    )
    types = keys.find("layer_types") or ["linear_attention", "full_attention"] * keys.whole(LAYERS)
    if isinstance(keys.find("attn_type_list"), list):
        types = ["full_attention" if kind else "linear_attention" for kind in keys.find("attn_type_list")]
    blocks = [
        block_of(keys, style, linear if types[i] == "linear_attention" else full, mlp_or_experts(keys, style, i))
        for i in range(keys.whole(LAYERS))
    ]
    return assembled(name, family, keys, style, tuple(blocks))


def granite_hybrid(name: str, family: str, keys: Keys) -> Architecture:
    """Granite 4: Mamba-2 and attention; experts beside a shared feed-forward, or that alone."""
    style = Style(qkv_bias="attention_bias", out_bias="attention_bias")
    linear, full = _mamba2_of(keys), attention_of(keys, style, Mask())
    many = keys.whole("num_local_experts", missing=0, least=0)
    shared = mlp_of(keys, style, keys.whole("shared_intermediate_size"))
    mlp = experts_of(keys, ExpertStyle(shared="width"), shared) if many else shared
    types = keys.find("layer_types", "layers_block_type") or ["mamba"] * keys.whole(LAYERS)
    made = {kind: block_of(keys, style, full if "attention" in kind else linear, mlp) for kind in dict.fromkeys(types)}
    return assembled(name, family, keys, style, tuple(made[kind] for kind in types))


READERS: dict[str, Callable[[str, str, Keys], Architecture]] = {
    "bamba": bamba,
    "falcon_mamba": mamba,
    "granitemoehybrid": granite_hybrid,
    "jamba": jamba,
    "kimi_linear": kimi_linear,
    "mamba": mamba,
    "mamba2": mamba,
    "minimax": minimax,
    "nemotron_h": nemotron_h,
    "qwen3_5_moe_text": qwen_next,
    "qwen3_5_text": qwen_next,
    "qwen3_next": qwen_next,
}
