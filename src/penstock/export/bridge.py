"""A setup as overrides of a Megatron-Bridge recipe (NeMo's trainer): a script that starts its ``run_recipe.py``.

Keys are those of ``ConfigContainer`` and of the Megatron-Core dataclasses inside it (August 2026).
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.calibrate.megatron import SHARDING, layout_of
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.mesh import STAGES_NEAR
from penstock.core.mixers import Attention
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.export.launch import torchrun
from penstock.export.megatron import (
    again_modules,
    comm_type,
    context_sizes,
    full_layers,
    has_experts,
    offload_layers,
    offload_modules,
    problems,
    setup_left,
)
from penstock.export.megatron_model import model_left, model_words
from penstock.export.precision import moments_of, precision_of
from penstock.export.switches import switch_keys
from penstock.export.written import Left, Written, comments, refuse

SCRIPT = "scripts/training/run_recipe.py"
PLAIN = "vanilla_gpt_pretrain_config"
"""The recipe of a GPT whose sizes are all overridden."""
RECIPES = {
    "gpt3-175b": "gpt3_175b",
    "llama-2-7b": "llama2_7b",
    "llama-3-8b": "llama3_8b",
    "llama-3-70b": "llama3_70b",
    "llama-3.1-8b": "llama31_8b",
    "llama-3.1-70b": "llama31_70b",
    "llama-3.1-405b": "llama31_405b",
    "llama-3.2-1b": "llama32_1b",
    "llama-3.2-3b": "llama32_3b",
    "qwen2.5-7b": "qwen25_7b",
    "qwen2.5-32b": "qwen25_32b",
    "qwen2.5-72b": "qwen25_72b",
    "qwen3-0.6b": "qwen3_600m",
    "qwen3-1.7b": "qwen3_1p7b",
    "qwen3-4b": "qwen3_4b",
    "qwen3-8b": "qwen3_8b",
    "qwen3-14b": "qwen3_14b",
    "qwen3-32b": "qwen3_32b",
    "qwen3-30b-a3b": "qwen3_30b_a3b",
    "qwen3-235b-a22b": "qwen3_235b_a22b",
    "deepseek-v2": "deepseek_v2",
    "deepseek-v2-lite": "deepseek_v2_lite",
    "deepseek-v3": "deepseek_v3",
    "gpt-oss-20b": "gpt_oss_20b",
    "gpt-oss-120b": "gpt_oss_120b",
}
"""Models of ours, and how the names of their recipes begin."""
PRECISIONS = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp32": None,
    "fp8-delayed": "bf16_with_fp8_delayed_scaling_mixed",
    "fp8-current": "bf16_with_fp8_current_scaling_mixed",
    "fp8-block": "bf16_with_fp8_subchannel_scaling_mixed",
    "mxfp8": "bf16_with_mxfp8_mixed",
    "nvfp4": "bf16_with_nvfp4_mixed",
}
"""Values of ``mixed_precision``."""
WIDE_ENDS = {"fp8-current": (1, 1)}
"""First and last blocks that these leave in BF16, where they leave any."""
KEEPS_LOW = ("fp8-delayed", "fp8-current", "mxfp8")
"""Those that keep and gather weights in 8 bits."""
STATES = {"bf16": "torch.bfloat16", "fp8": "torch.uint8"}
SIZES = {
    "num-layers": "model.num_layers",
    "hidden-size": "model.hidden_size",
    "ffn-hidden-size": "model.ffn_hidden_size",
    "num-attention-heads": "model.num_attention_heads",
    "num-query-groups": "model.num_query_groups",
    "kv-channels": "model.kv_channels",
    "normalization": "model.normalization",
    "position-embedding-type": "model.position_embedding_type",
    "vocab-size": "tokenizer.vocab_size",
    "num-experts": "model.num_moe_experts",
    "moe-router-topk": "model.moe_router_topk",
    "moe-ffn-hidden-size": "model.moe_ffn_hidden_size",
    "moe-token-dispatcher-type": "model.moe_token_dispatcher_type",
    "moe-shared-expert-intermediate-size": "model.moe_shared_expert_intermediate_size",
    "moe-router-score-function": "model.moe_router_score_function",
}
"""Arguments of Megatron-LM for a model's sizes, and the keys that say the same."""
YES = {
    "add-qkv-bias": "model.add_qkv_bias",
    "qk-layernorm": "model.qk_layernorm",
    "moe-grouped-gemm": "model.moe_grouped_gemm",
    "moe-router-enable-expert-bias": "model.moe_router_enable_expert_bias",
}
"""Flags of Megatron-LM's that are keys which are true."""
NO = {
    "disable-bias-linear": "model.add_bias_linear",
    "untie-embeddings-and-output-weights": "model.share_embeddings_and_output_weights",
}
"""Those that are keys which are false."""
Value = str | int | float | bool | list[str] | list[int] | None


def bridge(model: Architecture, cluster: Cluster, setup: Setup, framework: Stack | None = None) -> Written:
    """Return a script that trains the setup with Megatron-Bridge on made-up data.

    The recipe is that of the model, else the plain GPT with the model's sizes.

    Raises:
        ValueError: Megatron-Bridge cannot train this model, or not so.
    """
    known = model.name in RECIPES
    refuse("bridge", _problems(model, setup) | problems(model, setup))
    sizes = {} if known else dict(_sizes(model))
    left = [*setup_left(model, setup, framework), *_precision_left(cluster, setup), *([] if known else _left(model))]
    recipe = f"{RECIPES[model.name]}_pretrain_config" if known else PLAIN
    start = torchrun(cluster, setup)
    text = "\n".join([
        "#!/bin/bash",
        f"# Megatron-Bridge's {SCRIPT}; add train.train_iters, optimizer.lr, and --dataset of your data.",
        *comments(left, "Megatron-Bridge"),
        *start.lines,
        "OVERRIDES=(",
        *(f"    '{key}={_written(value)}'" for key, value in (_overrides(model, cluster, setup) | sizes).items()),
        ")",
        f"{start.command} {SCRIPT} --recipe {recipe} --mode pretrain --dataset mock "
        '"${OVERRIDES[@]}" "$@"',
        "",
    ])  # fmt: skip
    return Written({"": text}, tuple(left))


def _problems(model: Architecture, setup: Setup) -> dict[str, bool]:
    latent = any(isinstance(block.attention, Attention) and block.attention.latent for block in model.kinds())
    return {
        "adapters are for its recipes of fine-tuning, --mode lora, which are not written": setup.adapter > 0,
        f"it has no recipe of {model.name}, and its plain GPT has no latent attention": latent
        and model.name not in RECIPES,
    }


def _left(model: Architecture) -> Iterator[Left]:
    """What the plain GPT cannot say of a model."""
    yield from model_left(model)
    if any(isinstance(block.attention, Attention) and block.attention.mask.window for block in model.kinds()):
        yield Left("model", "windows of its attention")


def _overrides(model: Architecture, cluster: Cluster, setup: Setup) -> dict[str, Value]:
    memory = _recompute(model, setup) | _offload(model, setup)
    table = "comm_overlap" if model.name in RECIPES else "model"  # the plain GPT has none of the first
    return _parallel(model, setup) | switch_keys(setup, table) | _training(cluster, setup) | memory | _optimizer(setup)


def _parallel(model: Architecture, setup: Setup) -> dict[str, Value]:
    sizes = tuple(map(len, setup.layers_of(model.layers)))
    mtp = len(model.predictors) * setup.multi_token
    found: dict[str, Value] = {
        "model.tensor_model_parallel_size": setup.tp,
        "model.pipeline_model_parallel_size": setup.pp,
        "model.virtual_pipeline_model_parallel_size": setup.chunks if setup.chunks > 1 else None,
        "model.pipeline_model_parallel_layout": layout_of(sizes, mtp) if len(set(sizes)) > 1 else None,
        "model.context_parallel_size": setup.cp,
        "model.cp_comm_type": comm_type(setup) if setup.cp > 1 or setup.cp_heads else None,
        "model.hierarchical_context_parallel_sizes": context_sizes(setup),
        "model.sequence_parallel": setup.sp and setup.tp > 1,
        "dist.use_tp_pp_dp_mapping": setup.order == STAGES_NEAR,
        "model.mtp_num_layers": mtp or None,
    }
    if has_experts(model):
        found["model.expert_model_parallel_size"] = setup.ep
        found["model.expert_tensor_parallel_size"] = setup.etp
    return found


def _precision_left(cluster: Cluster, setup: Setup) -> Iterator[Left]:
    """What the value of ``mixed_precision`` brings along."""
    precision = precision_of(cluster, setup)
    name, (first, last) = PRECISIONS[precision], WIDE_ENDS.get(precision, (0, 0))
    if (setup.wide_first, setup.wide_last) != (first, last):
        for field in ("wide_first", "wide_last"):
            yield Left(field, f"{name} leaves the first {first} and the last {last} blocks in bf16")
    if setup.overlap != "own":
        yield Left(
            "overlap", "recipes hide sums and gathers; say comm_overlap.overlap_grad_reduce and .overlap_param_gather"
        )
    keeps = precision in KEEPS_LOW
    if setup.low_weights != keeps:
        yield Left("low_weights", f"{name} {'keeps weights in 8 bits' if keeps else 'keeps weights in bf16'}")


def _training(cluster: Cluster, setup: Setup) -> dict[str, Value]:
    return {
        "dataset.seq_length": setup.seq,
        "train.micro_batch_size": setup.micro,
        "train.global_batch_size": setup.batch,
        "mixed_precision": PRECISIONS[precision_of(cluster, setup)],
        "model.attention_backend": "fused" if setup.flash else "unfused",
        "model.attention_dropout": 0.1 if setup.dropout else 0.0,
        "model.hidden_dropout": 0.1 if setup.dropout else 0.0,
        "model.cross_entropy_loss_fusion": setup.fused_loss,
        "model.cuda_graph_impl": "local" if setup.graphs else "none",
    }


def _recompute(model: Architecture, setup: Setup) -> dict[str, Value]:
    first = full_layers(setup)
    full, modules = bool(first) or setup.recompute == "full", again_modules(model, setup)
    found: dict[str, Value] = {
        "model.recompute_granularity": "full" if full else "selective" if modules else None,
        "model.recompute_method": ("block" if first else "uniform") if full else None,
        "model.recompute_num_layers": (first or 1) if full else None,
    }
    return found | ({"model.recompute_modules": modules} if modules and not full else {})


def _offload(model: Architecture, setup: Setup) -> dict[str, Value]:
    if modules := offload_modules(setup):
        return {"model.fine_grained_activation_offloading": True, "model.offload_modules": modules}
    layers = offload_layers(model, setup)
    return {"model.cpu_offloading": True, "model.cpu_offloading_num_layers": layers} if layers else {}


def _optimizer(setup: Setup) -> dict[str, Value]:
    moments = moments_of(setup)
    found: dict[str, Value] = {
        "optimizer.optimizer": "adam" if moments else setup.optimizer,
        "optimizer.use_distributed_optimizer": setup.zero > 0,
        "ddp.use_distributed_optimizer": setup.zero > 0,
        "optimizer.use_precision_aware_optimizer": bool(moments or setup.optimizer_offload),
        "optimizer.optimizer_cpu_offload": setup.optimizer_offload > 0,
    }
    if setup.zero > 1:
        found["ddp.use_megatron_fsdp"] = True
        found["ddp.data_parallel_sharding_strategy"] = SHARDING[setup.zero]
        found["checkpoint.ckpt_format"] = "fsdp_dtensor"
    if setup.shards and setup.shards != setup.replicas:
        found["ddp.num_distributed_optimizer_instances"] = setup.replicas // setup.shards
    if moments:
        found |= {f"optimizer.{name}_dtype": STATES[moments] for name in ("exp_avg", "exp_avg_sq")}
    if setup.optimizer_offload:
        found["optimizer.optimizer_offload_fraction"] = setup.optimizer_offload
    return found


def _sizes(model: Architecture) -> Iterator[tuple[str, Value]]:
    """The sizes of a model over those of the plain GPT."""
    try:
        words = model_words(model)
    except ValueError as error:
        raise ValueError(f"bridge: {str(error).removeprefix('megatron: ')}") from None
    for name, *values in words:
        word = name.removeprefix("--")
        if word in SIZES:
            yield SIZES[word], values[0]
        elif word in YES or word in NO:
            yield (YES | NO)[word], word in YES
        elif word == "swiglu":
            yield "model.gated_linear_unit", True
            yield "model.activation_func", "silu"
        elif word == "squared-relu":
            yield "model.activation_func", "squared_relu"
        elif word == "moe-layer-freq":
            yield "model.moe_layer_freq", [int(isinstance(block.mlp, Experts)) for block in model.blocks]


def _written(value: Value) -> str:
    """A value as Hydra reads it.

    >>> _written(["core_attn", "mlp"]), _written(None), _written(True)
    ('[core_attn,mlp]', 'null', 'true')
    """
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
