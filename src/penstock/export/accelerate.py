"""A setup as a configuration of Hugging Face accelerate: YAML for FSDP 2, as accelerate 1.x reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.export.launch import nodes_of
from penstock.export.written import (
    ALIKE,
    MEMORY,
    SCRIPTS,
    Left,
    Written,
    comments,
    hosted,
    offloaded,
    refuse,
    shards_of,
    unsaid,
)

MIXED = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "fp8-current": "fp8", "fp8-delayed": "fp8", "fp32": "no"}
TE: dict[str, Any] = {
    "backend": "TE", "fp8_format": "HYBRID", "amax_history_length": 1024, "amax_compute_algorithm": "max",
}  # fmt: skip
"""Delayed scaling, by Transformer Engine; torchao scales each tensor by itself."""
NEVER = SCRIPTS | {
    "ep": "experts are not split",
    "etp": "experts are not split",
    "sp": "the plan of tensor parallelism in the model's config",
    "order": "its mesh has dp outside of cp and tp",
    "recompute_layers": ALIKE,
    "offload": "fsdp_activation_checkpointing keeps them on the device",
    "disk": MEMORY,
    "optimizer": "made by the training script",
    "wide_first": "the first and the last linear layer stay wide",
    "wide_last": "the first and the last linear layer stay wide",
    "overlap": "FSDP and DDP hide messages always",
    "tp_overlap": "its plan of tensor parallelism waits for sums",
    "ep_overlap": "experts are not split",
    "pp_overlap": "it has no pipelines",
}
"""Fields of a setup that it has no keys for, and who says them."""


def accelerate(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return ``config.yaml`` for ``accelerate launch --config_file``.

    Raises:
        ValueError: accelerate cannot train so.
    """
    nodes, each = nodes_of(cluster, setup)
    _refuse(setup)
    left = [Left("model", "made by the training script"), *unsaid(setup, NEVER), *_left(setup)]
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if _sharded(setup) else "MULTI_GPU" if setup.devices > 1 else "NO",
        "mixed_precision": MIXED[setup.precision],
        "num_machines": nodes,
        "num_processes": nodes * each,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "c10d" if nodes > 1 else "static",
        "same_network": True,
        "use_cpu": False,
    }
    if _sharded(setup):
        config["fsdp_config"] = _fsdp(setup)
    if _sharded(setup) or setup.tp > 1:
        config["parallelism_config"] = _axes(setup)
    if MIXED[setup.precision] == "fp8":
        config["fp8_config"] = TE if setup.precision == "fp8-delayed" else _torchao(setup)
    return Written({"": "\n".join([*comments(left, "accelerate"), *_yaml(config), ""])}, tuple(left))


def _torchao(setup: Setup) -> dict[str, Any]:
    gathers = setup.low_weights or setup.precision == "fp8"
    return {"backend": "AO", "enable_fsdp_float8_all_gather": gathers, "pad_inner_dim": True}


def _sharded(setup: Setup) -> bool:
    """Whether weights are sharded: over replicas, or over the cp ranks, as FSDP does."""
    return setup.sharded > 1 or setup.cp > 1


def _refuse(setup: Setup) -> None:
    reasons = {
        f"it has no pipelines (pp={setup.pp}); use torchtitan or megatron": setup.pp > 1,
        f"chunks={setup.chunks} need a pipeline": setup.chunks > 1,
        f"precision={setup.precision} is none of {', '.join(MIXED)}": setup.precision not in MIXED,
        f"weights are gathered in 8 bits with fp8-current alone, not {setup.precision}": setup.low_weights
        and setup.precision != "fp8-current",
        f"cp={setup.cp} ranks share tokens in a ring alone, not by heads, under FSDP": setup.cp_turned > 1,
        f"dp={setup.dp} replicas with tp or cp need shards of more than cp={setup.cp} ranks": shards_of(setup)[1] == 1
        and setup.dp > 1
        and (setup.tp > 1 or setup.cp > 1),
        f"shards={setup.shards} must be a multiple of cp={setup.cp}": setup.zero > 0 and setup.sharded % setup.cp,
    }
    refuse("accelerate", reasons)


def _left(setup: Setup) -> Iterator[Left]:
    yield Left("batch", f"the script's: {setup.micro} a batch, gradient_accumulation_steps={setup.micros}")
    if setup.zero == 1:
        yield Left("zero", "FSDP shards gradients too; written as ZeRO 2")
    if setup.recompute not in ("none", "full"):
        yield Left("recompute", "whole blocks are made again, or nothing; written as full")
    yield from offloaded(setup)
    if setup.schedule != "1f1b" or setup.stage_layers or setup.vocabulary:
        yield Left("schedule", "there is no pipeline")


def _fsdp(setup: Setup) -> dict[str, Any]:
    return {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": setup.zero == 3,
        "fsdp_offload_params": hosted(setup),
        "fsdp_activation_checkpointing": setup.recompute != "none",
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    }


def _axes(setup: Setup) -> dict[str, Any]:
    replicas, shards = shards_of(setup)
    table: dict[str, Any] = {
        "parallelism_config_dp_replicate_size": replicas,
        "parallelism_config_dp_shard_size": shards,
        "parallelism_config_tp_size": setup.tp,
        "parallelism_config_cp_size": setup.cp,
    }
    how = "alltoall" if setup.cp_overlap == "on" else "allgather"
    return table | ({"parallelism_config_cp_comm_strategy": how} if setup.cp > 1 else {})


def _yaml(table: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of a table of plain values and tables."""
    lines = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
