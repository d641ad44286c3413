"""Overrides of a Megatron-Bridge recipe, read as Megatron-LM's arguments: what a script that starts it says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from penstock.calibrate import megatron_precision
from penstock.calibrate.megatron import Arguments
from penstock.core.words import suggest
from penstock.export.bridge import KEEPS_LOW, NO, PLAIN, PRECISIONS, RECIPES, SIZES, STATES, WIDE_ENDS, YES
from penstock.export.megatron_model import runs
from penstock.export.switches import EP, P2P, TP

WORD = re.compile(r"^\+{0,2}((?:model|train|dataset|ddp|dist|optimizer|tokenizer|checkpoint|comm_overlap)\.[\w.]+|"
                  r"mixed_precision)=(.*)$", re.DOTALL)  # fmt: skip
SHORT = {
    "tp": "tensor-model-parallel-size",
    "pp": "pipeline-model-parallel-size",
    "vp": "num-virtual-stages-per-pipeline-rank",
    "cp": "context-parallel-size",
    "ep": "expert-model-parallel-size",
    "etp": "expert-tensor-parallel-size",
    "mb": "micro-batch-size",
    "gb": "global-batch-size",
    "sl": "seq-length",
}
"""Short flags of ``run_recipe.py``."""
USUAL = {
    "bf16": "true",
    "hidden-dropout": "0.0",
    "attention-dropout": "0.0",
    "use-distributed-optimizer": "true",
    "cross-entropy-loss-fusion": "true",
}
"""What recipes set, but for that of the plain GPT."""
HIDES = {"overlap-grad-reduce": "true", "overlap-param-gather": "true"}
"""What any recipe sets; of its own keys those of ``comm_overlap`` win over those of ``ddp``."""
TURNED = {"tp_comm_overlap": TP, "overlap_moe_expert_parallel_comm": EP}
"""Keys of switches that are on or off in recipes, so that both are said."""
SAME = {key: word for word, key in (SIZES | YES).items()} | {
    "model.tensor_model_parallel_size": "tensor-model-parallel-size",
    "model.pipeline_model_parallel_size": "pipeline-model-parallel-size",
    "model.virtual_pipeline_model_parallel_size": "num-virtual-stages-per-pipeline-rank",
    "model.pipeline_model_parallel_layout": "pipeline-model-parallel-layout",
    "model.num_layers_in_first_pipeline_stage": "decoder-first-pipeline-num-layers",
    "model.num_layers_in_last_pipeline_stage": "decoder-last-pipeline-num-layers",
    "model.account_for_embedding_in_pipeline_split": "account-for-embedding-in-pipeline-split",
    "model.account_for_loss_in_pipeline_split": "account-for-loss-in-pipeline-split",
    "model.context_parallel_size": "context-parallel-size",
    "model.cp_comm_type": "cp-comm-type",
    "model.hierarchical_context_parallel_sizes": "hierarchical-context-parallel-sizes",
    "model.expert_model_parallel_size": "expert-model-parallel-size",
    "model.expert_tensor_parallel_size": "expert-tensor-parallel-size",
    "model.sequence_parallel": "sequence-parallel",
    "dist.use_tp_pp_dp_mapping": "use-tp-pp-dp-mapping",
    "model.mtp_num_layers": "mtp-num-layers",
    "model.seq_length": "seq-length",
    "dataset.seq_length": "seq-length",
    "train.micro_batch_size": "micro-batch-size",
    "train.global_batch_size": "global-batch-size",
    "model.attention_backend": "attention-backend",
    "model.attention_dropout": "attention-dropout",
    "model.hidden_dropout": "hidden-dropout",
    "model.cross_entropy_loss_fusion": "cross-entropy-loss-fusion",
    "model.cuda_graph_impl": "cuda-graph-impl",
    "model.recompute_granularity": "recompute-granularity",
    "model.recompute_method": "recompute-method",
    "model.recompute_num_layers": "recompute-num-layers",
    "model.recompute_modules": "recompute-modules",
    "model.cpu_offloading": "cpu-offloading",
    "model.cpu_offloading_num_layers": "cpu-offloading-num-layers",
    "model.fine_grained_activation_offloading": "fine-grained-activation-offloading",
    "model.offload_modules": "offload-modules",
    "model.gated_linear_unit": "swiglu",
    **{f"{table}.{key}": word for table in ("comm_overlap", "model") for key, word in TURNED.items()},
    "comm_overlap.overlap_grad_reduce": "overlap-grad-reduce",
    "comm_overlap.overlap_param_gather": "overlap-param-gather",
    "optimizer.optimizer": "optimizer",
    "optimizer.use_distributed_optimizer": "use-distributed-optimizer",
    "ddp.use_distributed_optimizer": "use-distributed-optimizer",
    "optimizer.use_precision_aware_optimizer": "use-precision-aware-optimizer",
    "optimizer.optimizer_cpu_offload": "optimizer-cpu-offload",
    "optimizer.optimizer_offload_fraction": "optimizer-offload-fraction",
    "ddp.use_megatron_fsdp": "use-megatron-fsdp",
    "ddp.data_parallel_sharding_strategy": "data-parallel-sharding-strategy",
    "ddp.num_distributed_optimizer_instances": "num-distributed-optimizer-instances",
}
"""Keys, and the arguments of Megatron-LM that say the same."""
HARMLESS = re.compile(
    r"^(tokenizer\.|checkpoint\.|dataset\.|dist\.|comm_overlap\.|model\.(activation_func|gradient_accum|moe_aux|"
    r"moe_router_(load|dtype|fusion)|moe_permute|use_te_rng|rotary|init_method|layernorm_eps)|train\.(train_iters|"
    r"train_samples|manual_gc|exit)|ddp\.(overlap|check_for|average|align|grad_reduce)|optimizer\.(lr|min_lr|weight|"
    r"adam|clip|decoupled|overlap))"
)
"""Keys that are for optimizer, data and files, or that change little."""
BY_RECIPE = ("tensor-model-parallel-size", "micro-batch-size", "global-batch-size", "seq-length")
"""Arguments that a recipe sets by itself; what it sets is not known here."""
UNNAMED = {"fp8-format": "hybrid", "fp8-recipe": "unnamed"}
"""What stands for 8 bits without a recipe that is known here."""
WITH_RECIPES = (
    "first-last-layers-bf16", "num-layers-at-start-in-bf16", "num-layers-at-end-in-bf16", "fp8-recipe",
    "fp8-param-gather",
)  # fmt: skip
"""Arguments that go with a recipe."""
PYTHON = {"True": "true", "False": "false", "None": "null"}
"""Words of Python for those of YAML; Hydra takes both."""


def is_bridge(words: Iterable[str]) -> bool:
    """Return whether the words of a script start a recipe of Megatron-Bridge."""
    return any(word.endswith(("run_recipe.py", "scripts/training/train.sh")) or WORD.match(word) for word in words)


def bridge_arguments(words: list[str], given: Arguments) -> tuple[Arguments, str | None, list[str]]:
    """Return what overrides say as Megatron-LM's arguments, the name of the model, and what is not read.

    Args:
        words: of the script.
        given: flags of the script, ``--tensor_model_parallel_size 8``; overrides win over them.

    Raises:
        ValueError: the recipe is none that is known here.
    """
    flags = {name: value.partition(" ")[0] for name, value in given.items()}
    recipe = flags.get("recipe") or flags.get("model")
    model = None if recipe is None else _model(recipe)
    found, unread = Arguments((USUAL if model else {"bf16": "true"}) | HIDES | flags), list[str]()
    if recipe and "fp8" in recipe:
        found |= UNNAMED
    for word, value in pairwise(words):
        if word.startswith("-") and word[1:] in SHORT:
            found[SHORT[word[1:]]] = value
    for key, value in (match.groups() for word in words if (match := WORD.match(word))):
        plain = value.strip("\"'")
        if not _take(found, key, PYTHON.get(plain, plain)) and not HARMLESS.match(key):
            unread.append(key)
    if "num-experts" not in found and found.get("expert-model-parallel-size", "1") != "1":
        found["num-experts"] = "0"
    lacks = [f"--{name}" for name in BY_RECIPE if name not in found]
    if recipe and lacks:
        unread.append(f"{', '.join(lacks)}, which {recipe} sets by itself; override them, or give flags")
    return found, model, unread


def _take(found: Arguments, key: str, value: str) -> bool:
    """Put a key's value among the arguments, if it is known."""
    if key == "mixed_precision":
        _precision(found, value)
    elif key in NO.values():
        _set(found, next(word for word, no in NO.items() if no == key), "false" if value == "true" else "true")
    elif key == "model.moe_layer_freq":
        found["moe-layer-freq"] = runs(value.strip("[]").replace(" ", "").split(","))
    elif key in ("optimizer.exp_avg_dtype", "optimizer.exp_avg_sq_dtype"):
        word = key.removeprefix("optimizer.").replace("_", "-")
        known = {theirs.removeprefix("torch."): ours for ours, theirs in STATES.items()}
        _set(found, word, known.get(value.removeprefix("torch."), "fp32"))
    elif key in ("model.moe_shared_expert_overlap", "model.batch_p2p_comm"):
        return value == "false" or key.endswith("p2p_comm")
    elif key.endswith(".overlap_p2p_comm"):
        _set(found, P2P, "true" if value == "false" else "false")
    elif SAME.get(key) in TURNED.values():
        found[SAME[key]] = value
    elif key in SAME:
        _set(found, SAME[key], value)
        if key == "model.num_query_groups":
            _set(found, "group-query-attention", "true")
    else:
        return False
    return True


def _set(found: Arguments, word: str, value: str) -> None:
    """Set an argument; what is null or false is not there."""
    if value in ("null", "none", "false"):
        found.pop(word, None)
    else:
        found[word] = value


def _precision(found: Arguments, value: str) -> None:
    for word in ("fp4-format", "fp8-format", "bf16", "fp16", *WITH_RECIPES):
        found.pop(word, None)
    ours = next((name for name, theirs in PRECISIONS.items() if theirs == value.replace("fp16_with", "bf16_with")), "")
    if ours == "nvfp4" or "fp4" in value:
        found["fp4-format"] = megatron_precision.FP4[0]
    elif ours in megatron_precision.RECIPES:
        found["fp8-format"], found["fp8-recipe"] = megatron_precision.RECIPES[ours]
    elif "fp8" in value:
        found |= UNNAMED
    if ours in WIDE_ENDS:
        first, last = map(str, WIDE_ENDS[ours])
        found |= dict(zip(WITH_RECIPES, ("true", first, last), strict=False))
    if ours in KEEPS_LOW:
        found["fp8-param-gather"] = "true"
    if value != "null":
        found["fp16" if ("16_mixed" in value and "bf16" not in value) or value.startswith("16") else "bf16"] = "true"


def _model(recipe: str) -> str | None:
    """Our name of a recipe's model; ``None`` for the plain GPT, whose sizes are overrides."""
    stem = re.split(r"_(?:pretrain|sft|peft)_", recipe)[0]
    if recipe.startswith(PLAIN.split("_pretrain")[0]):
        return None
    for ours, theirs in RECIPES.items():
        if stem == theirs:
            return ours
    raise ValueError(f"recipe {recipe!r} is of a model that is not known here; {suggest(stem, RECIPES.values())}")
