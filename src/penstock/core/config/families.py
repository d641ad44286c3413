"""The families: how each ``model_type`` reads its config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from penstock.core.architecture import Architecture
from penstock.core.config import compressed, hybrids, older
from penstock.core.config.blocks import decoder
from penstock.core.config.style import ExpertStyle, Style
from penstock.core.keys import Keys

_NEOX = Style(
    norm="layer", qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=True, gated=False, fused_qkv=True
)
_COUNTED = ExpertStyle(which="after first", shared="count")
_SCORED = replace(_COUNTED, score_bias=True)
_BIASED = Style(qkv_bias="attention_bias", out_bias="attention_bias")

STYLES: dict[str, Style] = {
    "afmoe": replace(
        _BIASED, norms=4, qk_norm="head", gate=True, pattern=4, experts=replace(_COUNTED, score_bias=True)
    ),
    "apertus": replace(_BIASED, qk_norm="head", gated=False, activation_parameters=2),
    "arcee": replace(_BIASED, gated=False, mlp_bias="mlp_bias"),
    "bitnet": replace(_BIASED, inner_norms=True),
    "cohere": replace(
        _BIASED, norm="layer without offset", norms=1, parallel=True, qk_norm="each", qk_norm_if="use_qk_norm"
    ),
    "cohere2": replace(_BIASED, norm="layer without offset", norms=1, parallel=True, pattern=4),
    "cohere2_moe": replace(
        _BIASED,
        norm="layer without offset",
        norms=1,
        parallel=True,
        pattern=4,
        experts=replace(_COUNTED, which="all"),
    ),
    "cwm": replace(_BIASED, pattern=4),
    "deepseek_v2": Style(latent=True, experts=_COUNTED, mlp_bias="mlp_bias"),
    "deepseek_v3": Style(latent=True, experts=_COUNTED),
    "deepseek_v32": Style(latent=True, experts=_COUNTED, mlp_bias="mlp_bias"),
    "dots1": replace(_BIASED, qk_norm="head", late=True, experts=_COUNTED),
    "ernie4_5": Style(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "ernie4_5_moe": Style(
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        experts=ExpertStyle(which="from to", shared="count", score_bias=True),
    ),
    "exaone_moe": Style(qk_norm="head", pattern=4, experts=replace(_COUNTED, first=1)),
    "exaone4": Style(qk_norm="head", pattern=4),
    "flex_olmo": replace(_BIASED, qk_norm="all", experts=ExpertStyle()),
    "gemma": _BIASED,
    "gemma2": replace(_BIASED, norms=4, pattern=2),
    "gemma3_text": replace(_BIASED, norms=4, qk_norm="head", pattern=6),
    "glm": Style(qkv_bias="attention_bias", fused_mlp=True),
    "glm4": Style(qkv_bias="attention_bias", norms=4, fused_mlp=True),
    "glm4_moe": Style(qkv_bias="attention_bias", qk_norm="head", qk_norm_if="use_qk_norm", experts=_COUNTED),
    "glm4_moe_lite": Style(latent=True, experts=replace(_COUNTED, first=1)),
    "glm_moe_dsa": Style(latent=True, experts=_COUNTED, mlp_bias="mlp_bias"),
    "gpt_neox": _NEOX,
    "gpt_oss": replace(
        _BIASED, sinks=True, yarn=True, pattern=2, experts=ExpertStyle(bias=True, limited=True, router_bias=True)
    ),
    "granite": replace(_BIASED, mlp_bias="mlp_bias"),
    "granite_swa": replace(_BIASED, mlp_bias="mlp_bias", sinks=True, pattern=1),
    "granitemoe_swa": replace(_BIASED, sinks=True, pattern=1, experts=ExpertStyle(shared="width")),
    "granitemoe": replace(_BIASED, experts=ExpertStyle()),
    "granitemoeshared": replace(_BIASED, experts=ExpertStyle(shared="width")),
    "helium": Style(qkv_bias="attention_bias", mlp_bias="mlp_bias"),
    "hunyuan_v1_dense": replace(_BIASED, qk_norm="head"),
    "hunyuan_v1_moe": replace(_BIASED, qk_norm="head", experts=ExpertStyle(shared="one")),
    "hy_v3": replace(_BIASED, qk_norm="head", mlp_bias="mlp_bias", experts=replace(_COUNTED, first=1)),
    "internlm3": replace(_BIASED, out_bias="mlp_bias", mlp_bias="mlp_bias"),
    "iquestcoder": replace(_BIASED, mlp_bias="mlp_bias"),
    "jais2": replace(_BIASED, norm="layer", mlp_bias="mlp_bias", gated=False),
    "llama": replace(_BIASED, mlp_bias="mlp_bias"),
    "llama4_text": replace(_BIASED, pattern=4, chunked=True, experts=ExpertStyle(which="every", shared="one")),
    "mellum": replace(_BIASED, qk_norm="head", pattern=4, experts=ExpertStyle(which="step")),
    "minicpm3": Style(latent=True, mlp_bias="mlp_bias"),
    "minimax_m2": Style(qk_norm="all", experts=ExpertStyle()),
    "ministral": Style(pattern=1),
    "ministral3": Style(pattern=1),
    "mistral": Style(pattern=1),
    "mixtral": Style(pattern=1, experts=ExpertStyle()),
    "nanochat": replace(_BIASED, norm="bare", gated=False),
    "nemotron": replace(_BIASED, norm="layer", mlp_bias="mlp_bias", gated=False),
    "olmo": replace(_BIASED, norm="bare"),
    "olmo2": replace(_BIASED, qk_norm="all"),
    "olmo3": replace(_BIASED, qk_norm="all", pattern=4),
    "olmoe": replace(_BIASED, qk_norm="all", experts=ExpertStyle()),
    "phi": Style(
        norm="layer",
        norms=1,
        parallel=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        gated=False,
        head_bias=True,
        qk_norm="head",
        qk_norm_if="qk_layernorm",
    ),
    "phi3": Style(fused_qkv=True, fused_mlp=True, pattern=1),
    "phimoe": replace(_BIASED, norm="layer", head_bias="lm_head_bias", pattern=1, experts=ExpertStyle()),
    "qwen2": Style(qkv_bias=True, late=True),
    "qwen2_moe": Style(
        qkv_bias="qkv_bias",
        late=True,
        experts=ExpertStyle(which="step", shared="width", shared_gate=True),
    ),
    "qwen3": replace(_BIASED, qk_norm="head", late=True),
    "qwen3_moe": replace(_BIASED, qk_norm="head", late=True, experts=ExpertStyle(which="step")),
    "seed_oss": Style(qkv_bias="attention_bias", out_bias="attention_out_bias", mlp_bias="mlp_bias"),
    "smollm3": replace(_BIASED, mlp_bias="mlp_bias", late=True),
    "solar_open": replace(_BIASED, experts=_COUNTED),
    "starcoder2": Style(
        norm="layer", qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", gated=False, pattern=1
    ),
    "vaultgemma": replace(_BIASED, pattern=2),
    "youtu": Style(latent=True, mlp_bias="mlp_bias"),
}

Reader = Callable[[str, str, Keys], Architecture]
OTHERS: dict[str, Reader] = {
    "biogpt": older.biogpt,
    "bloom": older.bloom,
    "ctrl": older.ctrl,
    "codegen": older.gpt_j,
    "dbrx": older.dbrx,
    "falcon": older.falcon,
    "gpt2": older.gpt2,
    "gpt_bigcode": older.gpt2,
    "gpt_neo": older.gpt_neo,
    "gptj": older.gpt_j,
    "grok-1": older.grok,
    "hyperclovax": older.hyperclovax,
    "mpt": older.mpt,
    "openai-gpt": older.openai_gpt,
    "opt": older.opt,
    "persimmon": older.persimmon_like,
    "qwen": older.qwen,
    "stablelm": older.parallel_or_not,
    "xglm": older.xglm,
    "deepseek_v4": compressed.deepseek_v4,
    **hybrids.READERS,
}

ALIKE = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "grok": "grok-1",
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
}
"""Families that are another one under their own name."""
NESTED = {
    "gemma3": "gemma3_text",
    "kimi_k25": "deepseek_v3",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Models of text and images: the family of their ``text_config``, where it does not say."""
FAMILIES = tuple(sorted({*STYLES, *OTHERS, *ALIKE, *NESTED}))


def architecture_of(name: str, family: str, keys: Keys) -> Architecture:
    """Return the model of one of ``FAMILIES``."""
    family = ALIKE.get(family, family)
    if family in STYLES:
        return decoder(name, family, keys, STYLES[family])
    return OTHERS[family](name, family, keys)
