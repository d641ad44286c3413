"""A setup as DeepSpeed's configuration: JSON, as DeepSpeed 0.19 reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.recipes import UNNAMED, bits_of
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES
from penstock.cost.stack_file import named
from penstock.export.launch import nodes_of
from penstock.export.written import SCRIPTS, Left, Written, refuse, unsaid
from penstock.predict.disk import GROUPS
from penstock.predict.explain_memory import matrices

NOTES = "penstock"
"""The key of what was left out; DeepSpeed does not look at keys that it does not know."""
OPTIMIZERS = {"adam": "AdamW", "adam-bf16": "AdamW", "sgd": "SGD", "muon": "Muon", "adafactor": "Adafactor"}
ON_DISK = {"device": "nvme", "nvme_path": "/local_nvme", "pin_memory": True}
BUFFERS = 4
"""Of a group on its way from and to disks: master weights, gradients and two moments."""
WEIGHT_BUFFERS = 5
HALF = {"bf16": "bf16", "fp8": "bf16", "fp4": "bf16", "fp16": "fp16"}
"""Its tables by the bits of products."""
NEVER = SCRIPTS | {
    "pp": "PipelineModule(layers, num_stages=pp) in the training script",
    "chunks": "its pipelines have one stage on each rank",
    "schedule": "its pipelines run 1F1B",
    "stage_layers": "PipelineModule(partition_method=...) in the training script",
    "ep": "MoE(ep_size=ep) in the training script",
    "etp": "the script's own layers",
    "sp": "the script's own layers",
    "recompute": "model.gradient_checkpointing_enable() or deepspeed.checkpointing in the training script",
    "recompute_layers": "deepspeed.checkpointing around some layers in the training script",
    "offload": "deepspeed.checkpointing with cpu_checkpointing in the training script",
    **dict.fromkeys(SWITCHES, "the script's own layers"),
    "order": "PipelineModule(topology=...) in the training script",
    "vocabulary": "the script's own layers",
    "wide_first": "the model's own layers",
    "wide_last": "the model's own layers",
    "low_weights": "the model's own layers",
}
"""Fields of a setup that it has no keys for, and who says them."""


def deepspeed(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return ``ds_config.json``.

    Raises:
        ValueError: DeepSpeed cannot train so.
    """
    nodes, each = nodes_of(cluster, setup)
    _refuse(setup)
    left = [Left("model", "made by the training script"), *unsaid(setup, NEVER), *_left(setup)]
    start = f"deepspeed --num_nodes {nodes} --num_gpus {each} train.py --deepspeed_config FILE"
    notes = {"start": start, "left_out": [str(each) for each in left]}
    return Written({"": json.dumps(_config(model, setup) | {NOTES: notes}, indent=2) + "\n"}, tuple(left))


def _refuse(setup: Setup) -> None:
    reasons = {
        f"its pipelines work with ZeRO 0 or 1, not zero={setup.zero}": setup.pp > 1 and setup.zero > 1,
        f"its tensor parallelism works with ZeRO up to 2, not zero={setup.zero}": setup.tp > 1 and setup.zero > 2,
        "adam-bf16 is kept by ZeRO 1 to 3 alone, with master weights in bf16": setup.optimizer == "adam-bf16"
        and (setup.zero == 0 or bits_of(setup.precision) not in ("bf16", "fp8", "fp4")),
        f"it has no ring whose keys could hide, cp_overlap={setup.cp_overlap}; use own": setup.cp > 1
        and setup.cp_overlap != "own",
        "overlap_comm hides sums and gathers, or neither; use overlap=own or none": setup.overlap == "gradients",
        "sums of gradients hide as they do without ZeRO; use overlap=own": setup.zero == 0 and setup.overlap == "none",
        "optimizers are offloaded by ZeRO 1 to 3 alone": setup.zero == 0 and setup.optimizer_offload > 0,
        f"disk={setup.disk} goes with ZeRO 3 alone, not zero={setup.zero}": setup.zero < 3 and setup.disk != "none",
        f"weights are offloaded by ZeRO 3 alone, not zero={setup.zero}": setup.zero < 3 and setup.weight_offload > 0,
    }
    refuse("deepspeed", reasons)


def _left(setup: Setup) -> Iterator[Left]:
    if bits_of(setup.precision) in UNNAMED:
        yield Left("precision", f"{setup.precision} is the model's own (Transformer Engine); bf16 is written")
    if setup.cp_inner:
        yield Left("cp_inner", "it has no ring; all exchange tokens for heads (Ulysses)")
    if setup.cp > 1 and not setup.cp_heads:
        yield Left("cp_heads", "it has no ring; tokens are exchanged for heads (Ulysses)")
    elif setup.cp == 1 and setup.cp_heads:
        yield Left("cp_heads", "it has no meaning with cp=1")
    if setup.shards and setup.shards != setup.replicas:
        yield Left("shards", "it shards over all replicas (MiCS is gone since 0.19)")
    if setup.optimizer == "adam-fp8":
        yield Left("optimizer", "it has no moments in 8 bits; hand the training script's own to deepspeed.initialize")
    if setup.optimizer == "adam-8bit":
        yield Left("optimizer", "hand the training script's own (bitsandbytes) to deepspeed.initialize")
    if setup.optimizer == "adam-bf16":
        yield Left("optimizer", "master weights and gradients are in bf16 too")
    if 0 < setup.optimizer_offload < 1 and (setup.zero < 3 or setup.on_disk("optimizer_offload")):
        whose = "to disks all of it goes" if setup.zero == 3 else f"ZeRO {setup.zero} offloads all of it"
        yield Left("optimizer_offload", whose)
    if setup.disk != "none":
        yield Left("disk", f"nvme_path is {ON_DISK['nvme_path']}; give the folder of each node's own disks")
    if 0 < setup.weight_offload < 1:
        yield Left("weight_offload", "all or nothing; written as all")


def _config(model: Architecture, setup: Setup) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_batch_size": setup.batch,
        "train_micro_batch_size_per_gpu": setup.micro,
        "gradient_accumulation_steps": setup.micros,
        "zero_optimization": _zero(model, setup),
        "gradient_clipping": 1.0,
    }
    if bits_of(setup.precision) in HALF:
        kind = HALF[bits_of(setup.precision)]
        small = {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
        config[kind] = {"enabled": True} | (small if setup.optimizer == "adam-bf16" else {})
    if setup.optimizer in OPTIMIZERS:
        config["optimizer"] = {"type": OPTIMIZERS[setup.optimizer], "params": {"lr": 3e-4}}
        if setup.optimizer in ("sgd", "adafactor"):
            config["zero_allow_untested_optimizer"] = True
    if setup.cp > 1:
        config["sequence_parallel_size"] = setup.cp
    if setup.tp > 1:
        config["tensor_parallel"] = {"autotp_size": setup.tp}
    return config


def _zero(model: Architecture, setup: Setup) -> dict[str, Any]:
    table: dict[str, Any] = {"stage": setup.zero}
    if setup.zero:
        table |= {"overlap_comm": setup.overlap == "own", "contiguous_gradients": True}
    if setup.optimizer_offload:
        ratio = {"ratio": setup.optimizer_offload} if setup.zero == 3 else {}
        table["offload_optimizer"] = {"device": "cpu", "pin_memory": True} | ratio
    if setup.weight_offload:
        table["offload_param"] = {"device": "cpu", "pin_memory": True}
    return table | _on_disks(model, setup)


def _on_disks(model: Architecture, setup: Setup) -> dict[str, Any]:
    """What lies on disks, with the groups and buffers that predictions count with; a buffer holds a shard of any
    weight."""
    stack, table = named("deepspeed"), dict[str, Any]()
    if setup.on_disk("optimizer_offload"):
        buffers = {"buffer_count": BUFFERS * GROUPS, "pipeline_read": True, "pipeline_write": True}
        table["offload_optimizer"] = ON_DISK | buffers
        table["sub_group_size"] = round(stack.staged)
    if setup.on_disk("weight_offload"):
        rows = model.embedding.vocab * model.embedding.width
        largest = max(rows, *(size for block in model.kinds() for size in matrices(block).values()))
        size = max(round(stack.staged_weights / WEIGHT_BUFFERS), largest // setup.sharded + 1)
        table["offload_param"] = ON_DISK | {"buffer_count": WEIGHT_BUFFERS, "buffer_size": size, "max_in_cpu": 0}
    return table
