"""Layers whose state has a fixed size, from the keys of a config."""

from __future__ import annotations

from penstock.core.config.blocks import HIDDEN
from penstock.core.keys import Keys
from penstock.core.mixers import LinearAttention
from penstock.core.parts import Matrix, Norm


def gated_delta(keys: Keys, joined: bool) -> LinearAttention:
    """Return the layer of Qwen3-Next (``joined``: queries, keys, values and the gate are one product) and Qwen3.5."""
    hidden = keys.whole(HIDDEN)
    key_heads, heads = keys.whole("linear_num_key_heads"), keys.whole("linear_num_value_heads")
    key_dim, value_dim = keys.whole("linear_key_head_dim"), keys.whole("linear_value_head_dim")
    key, value = key_heads * key_dim, heads * value_dim
    sizes = {"qkvz": 2 * key + 2 * value, "ba": 2 * heads} if joined else {}
    sizes = sizes or {"qkv": 2 * key + value, "z": value, "b": heads, "a": heads}
    return LinearAttention(
        rule="gated_delta",
        hidden=hidden,
        heads=heads,
        key_heads=key_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        inward=tuple(Matrix(f"linear.{name}", hidden, size) for name, size in sizes.items()),
        outward=Matrix("linear.out", value, hidden, split="rows"),
        conv=(2 * key + value, keys.whole("linear_conv_kernel_dim")),
        norms=(Norm(value_dim, over=heads),),
        vectors=2 * heads,
    )


def kimi_delta(keys: Keys) -> LinearAttention:
    """Return the layer of Kimi Linear: a gate per feature, made through a narrow product."""
    own = keys.find("linear_attn_config") or {}
    hidden = keys.whole(HIDDEN)
    heads = own.get("num_heads") or keys.whole("linear_num_heads")
    width = own.get("head_dim") or keys.whole("linear_head_dim")
    inner = heads * width
    narrow = {"forget_down": (hidden, width), "forget_up": (width, inner), "beta": (hidden, heads)}
    narrow |= {"gate_down": (hidden, width), "gate_up": (width, inner)}
    wide = dict.fromkeys(("query", "key", "value"), (hidden, inner))
    return LinearAttention(
        rule="gated_delta",
        hidden=hidden,
        heads=heads,
        key_heads=heads,
        key_dim=width,
        value_dim=width,
        inward=tuple(Matrix(f"linear.{name}", *size) for name, size in (wide | narrow).items()),
        outward=Matrix("linear.out", inner, hidden, split="rows"),
        conv=(3 * inner, own.get("short_conv_kernel_size") or keys.whole("linear_conv_kernel_dim")),
        norms=(Norm(width, over=heads),),
        vectors=inner + heads,
    )


def mamba2(keys: Keys, heads: int, head_dim: int, groups: int, state: int, kernel: int, chunk: int) -> LinearAttention:
    """Return a layer of Mamba-2."""
    hidden, inner = keys.whole(HIDDEN), heads * head_dim
    channels = inner + 2 * groups * state
    bias = keys.truth("mamba_proj_bias", "use_bias")
    return LinearAttention(
        rule="mamba2",
        hidden=hidden,
        heads=heads,
        key_heads=groups,
        key_dim=state,
        value_dim=head_dim,
        inward=(Matrix("linear.in", hidden, inner + channels + heads, bias),),
        outward=Matrix("linear.out", inner, hidden, bias, "rows"),
        chunk=chunk,
        conv=(channels, kernel),
        conv_bias=keys.truth("mamba_conv_bias", "use_conv_bias", missing=True),
        norms=(Norm(inner),),
        vectors=3 * heads,
    )


def mamba1(keys: Keys, inner: int, state: int, rank: int, kernel: int, normed: bool) -> LinearAttention:
    """Return a layer of Mamba: a scan over ``inner`` channels with a state of ``state`` each."""
    hidden = keys.whole(HIDDEN)
    bias = keys.truth("mamba_proj_bias", "use_bias")
    return LinearAttention(
        rule="mamba",
        hidden=hidden,
        heads=inner,
        key_heads=1,
        key_dim=state,
        value_dim=1,
        inward=(
            Matrix("linear.in", hidden, 2 * inner, bias),
            Matrix("linear.x", inner, rank + 2 * state, split="rows"),
            Matrix("linear.dt", rank, inner, True),
        ),
        outward=Matrix("linear.out", inner, hidden, bias, "rows"),
        conv=(inner, kernel),
        conv_bias=keys.truth("mamba_conv_bias", "use_conv_bias", missing=True),
        norms=(Norm(rank), Norm(state), Norm(state)) if normed else (),
        vectors=inner * state + inner,
    )
