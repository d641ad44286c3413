"""Parameters of every family, to the last one, beside transformers on the meta device."""

import json
from pathlib import Path
from typing import Any

import family_defaults
import pytest

from penstock.core.config import architecture_from_config, catalogue, gpt, read_architecture
from penstock.core.config.families import OTHERS, STYLES

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
NARROW = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "intermediate_size")}
WIDE = {**SIZES, "head_dim": 24}
EXPERTS = {"num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "n_shared_experts": 2}
GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "num_key_value_heads": 8,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
    "shared_expert_intermediate_size": 24,
    "head_dim": 16,
}
GPT2 = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 96}
MAMBA2 = {"mamba_num_heads": 8, "mamba_head_dim": 12, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "apertus": SIZES,
    "arcee": {**SIZES, "mlp_bias": True},
    "bamba": {**SIZES, "mamba_n_heads": 8, "mamba_d_state": 16, "attn_layer_indices": [1, 3]},
    "bitnet": SIZES,
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 8, "vocab_size": 96},
    "codegen": {**GPT2, "rotary_dim": 8},
    "cohere": {**SIZES, "use_qk_norm": True},
    "cohere2": SIZES,
    "cwm": WIDE,
    "dbrx": {
        "d_model": 64,
        "n_heads": 8,
        "n_layers": 3,
        "vocab_size": 96,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {**SIZES, **LATENT, **ROUTED, **GROUPS},
    "deepseek_v3": {**SIZES, **LATENT, **ROUTED, **GROUPS},
    "deepseek_v32": {**SIZES, **LATENT, **ROUTED, **GROUPS, "index_n_heads": 4, "index_head_dim": 12},
    "dots1": {**SIZES, **ROUTED, **GROUPS},
    "ernie4_5": {**SIZES, "use_bias": True},
    "ernie4_5_moe": {
        **SIZES,
        "moe_num_experts": 6,
        "moe_k": 2,
        "moe_intermediate_size": 40,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
    },
    "exaone4": SIZES,
    "falcon": {**NARROW, "num_kv_heads": 2},
    "flex_olmo": {**SIZES, "num_experts": 6, "num_experts_per_tok": 2},
    "gemma": WIDE,
    "gemma2": WIDE,
    "gemma3_text": WIDE,
    "glm": WIDE,
    "glm4": WIDE,
    "glm4_moe": {**WIDE, **ROUTED, **GROUPS, "use_qk_norm": True},
    "glm4_moe_lite": {**SIZES, **LATENT, **ROUTED},
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 4,
        "num_heads": 4,
        "vocab_size": 96,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 2]],
    },
    "gpt_neox": {**NARROW, "intermediate_size": 112},
    "gpt_oss": {**WIDE, "num_local_experts": 6, "num_experts_per_tok": 2},
    "gptj": {**GPT2, "rotary_dim": 8},
    "granite": SIZES,
    "granitemoe": {**SIZES, "num_local_experts": 6},
    "granitemoeshared": {**SIZES, "num_local_experts": 6, "shared_intermediate_size": 24},
    "helium": {**SIZES, "head_dim": 8},
    "hunyuan_v1_dense": WIDE,
    "hunyuan_v1_moe": {**WIDE, "num_experts": 6, "moe_topk": 2},
    "jamba": {**SIZES, "num_experts": 4, "mamba_d_state": 8, "attn_layer_period": 4, "attn_layer_offset": 2},
    "kimi_linear": {
        **SIZES,
        **{key: value for key, value in LATENT.items() if key != "q_lora_rank"},
        "num_experts": 8,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 40,
        "linear_head_dim": 12,
        "linear_num_heads": 4,
    },
    "llama": {**WIDE, "num_attention_heads": 8, "attention_bias": True, "mlp_bias": True},
    "llama4_text": {**WIDE, "num_local_experts": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 96},
    "mamba": {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 3, "vocab_size": 96},
    "mamba2": {
        "hidden_size": 64,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 12,
        "n_groups": 2,
        "num_hidden_layers": 3,
        "vocab_size": 96,
    },
    "minicpm3": {**SIZES, **LATENT, "v_head_dim": 8},
    "minimax": {**WIDE, "num_local_experts": 4},
    "minimax_m2": {**WIDE, "num_local_experts": 6, "num_experts_per_tok": 2},
    "ministral": WIDE,
    "ministral3": WIDE,
    "mistral": WIDE,
    "mixtral": {**SIZES, "num_local_experts": 6},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 3, "expansion_ratio": 4, "vocab_size": 96},
    "nanochat": SIZES,
    "nemotron": SIZES,
    "nemotron_h": {
        **WIDE,
        **MAMBA2,
        **ROUTED,
        "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "moe_shared_expert_intermediate_size": 24,
    },
    "olmo": SIZES,
    "olmo2": SIZES,
    "olmo3": SIZES,
    "olmoe": {**SIZES, "num_experts": 6, "num_experts_per_tok": 2},
    "opt": {**NARROW, "ffn_dim": 112},
    "persimmon": {**NARROW, "intermediate_size": 112},
    "phi": SIZES,
    "phi3": SIZES,
    "phimoe": {**SIZES, "num_local_experts": 6, "lm_head_bias": True, "attention_bias": True},
    "qwen2": SIZES,
    "qwen2_moe": {**SIZES, **EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
    "qwen3": WIDE,
    "qwen3_5_moe_text": {**SIZES, **EXPERTS, **DELTA},
    "qwen3_5_text": {**SIZES, **DELTA},
    "qwen3_moe": {**WIDE, **EXPERTS, "mlp_only_layers": [1]},
    "qwen3_next": {**SIZES, **EXPERTS, **DELTA},
    "seed_oss": WIDE,
    "smollm3": SIZES,
    "solar_open": {**WIDE, **ROUTED},
    "stablelm": {**SIZES, "use_qkv_bias": True, "qk_layernorm": True},
    "starcoder2": SIZES,
    "xglm": {"d_model": 64, "num_layers": 3, "attention_heads": 4, "ffn_dim": 112, "vocab_size": 96},
    "youtu": {**SIZES, **LATENT},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon 40B": ("falcon", {**NARROW, "num_kv_heads": 2, "new_decoder_architecture": True, "bias": True}),
    "falcon not parallel": ("falcon", {**NARROW, "parallel_attn": False, "multi_query": False}),
    "gpt2 untied": ("gpt2", {**GPT2, "n_inner": 100, "tie_word_embeddings": False}),
    "opt 350M": (
        "opt",
        {**NARROW, "ffn_dim": 112, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "deepseek_v2 lite": ("deepseek_v2", {**SIZES, **LATENT, **ROUTED, "q_lora_rank": None}),
    "llama tied": ("llama", {**SIZES, "tie_word_embeddings": True}),
    "mpt grouped": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 96}),
    "stablelm parallel": ("stablelm", {**SIZES, "use_parallel_residual": True}),
    "gpt_bigcode many heads": ("gpt_bigcode", {**GPT2, "multi_query": False}),
    "nemotron_h dense": (
        "nemotron_h",
        {**WIDE, **MAMBA2, "layers_block_type": ["mamba", "mlp", "attention", "mlp"]},
    ),
}
CASES = {**{family: (family, config) for family, config in CONFIGS.items()}, **VARIANTS}


def meta(family: str, config: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(family, **{"pad_token_id": 0, **config})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    model.tie_weights()
    return model


@pytest.mark.parametrize("case", CASES)
def test_parameters_equal_those_of_transformers(case: str) -> None:
    family, config = CASES[case]
    ours = architecture_from_config(case, {"model_type": family, **config}, "config.json")
    theirs = dict(meta(family, config).named_parameters())
    assert ours.parameters == sum(value.numel() for value in theirs.values()), {
        name: tuple(value.shape) for name, value in theirs.items()
    }


def test_every_family_of_transformers_is_compared() -> None:
    assert set(CONFIGS) == {*STYLES, *OTHERS} - family_defaults.NOT_IN_TRANSFORMERS


def test_silent_keys_mean_what_transformers_takes() -> None:
    pytest.importorskip("transformers")
    assert family_defaults.FILE.read_text() == family_defaults.text(), "run python tests/core/family_defaults.py"
