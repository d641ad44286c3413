"""DeepSpeed's configuration, read into fields of a setup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.export.deepspeed import HALF, NOTES, OPTIMIZERS
from penstock.export.values import part, value

KEYS = frozenset((
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "zero_optimization"),
    *("bf16", "bfloat16", "fp16", "optimizer", "sequence_parallel_size", "tensor_parallel", NOTES),
))  # fmt: skip
"""Keys that are read."""
HARMLESS = frozenset((
    *("gradient_clipping", "scheduler", "steps_per_print", "wall_clock_breakdown", "dump_state", "flops_profiler"),
    *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "tensorboard", "wandb", "csv_monitor"),
    *("comms_logger", "checkpoint", "prescale_gradients", "memory_breakdown", "data_types", "dataloader_drop_last"),
    *("communication_data_type", "seq_parallel_communication_data_type", "gradient_predivide_factor", "elasticity"),
    "aio",
))  # fmt: skip
"""Keys that change neither layout nor memory by much."""
ZERO_KEYS = frozenset((
    *("stage", "offload_optimizer", "offload_param", "overlap_comm", "contiguous_gradients", "reduce_scatter"),
    "reduce_bucket_size",
    *("allgather_partitions", "allgather_bucket_size", "round_robin_gradients", "sub_group_size"),
    *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters"),
    *("stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save", "ignore_unused_parameters"),
    *("load_from_fp32_weights", "elastic_checkpoint", "legacy_stage1", "memory_efficient_linear"),
))  # fmt: skip
"""Keys of ``zero_optimization`` that are read, or that the framework's own buffers stand for."""
OFFLOADS = {"offload_optimizer": "optimizer", "offload_param": "weights"}
"""What they offload, as ``Setup.disk`` has it."""


def deepspeed_fields(table: Mapping[str, Any], devices: int) -> tuple[dict[str, Any], list[str]]:
    """Return fields of a setup, and the keys that matter and are not read.

    Data-parallel ranks follow from batch, micro-batch and accumulation where all three are there, the batch from the
    other two on so many devices. It is not among the fields where neither is there, or all is ``auto``.

    Raises:
        ValueError: a value cannot be.
    """
    zero = part(table, "zero_optimization")
    fields: dict[str, Any] = {
        "micro": _whole(table, "train_micro_batch_size_per_gpu"),
        "batch": _whole(table, "train_batch_size"),
        "zero": _whole(zero, "stage") or 0,
        "cp": _whole(table, "sequence_parallel_size") or 1,
        "tp": _whole(part(table, "tensor_parallel"), "autotp_size") or 1,
        "precision": _precision(table),
        "optimizer": _optimizer(table),
        "optimizer_offload": _offload(zero, "offload_optimizer"),
        "weight_offload": _offload(zero, "offload_param"),
        "disk": _disk(zero),
        "overlap": _overlap(zero),
    }
    steps = _whole(table, "gradient_accumulation_steps")
    if fields["batch"] and fields["micro"] and steps:
        fields["dp"], rest = divmod(fields["batch"], fields["micro"] * steps)
        if rest:
            raise ValueError(
                f"train_batch_size = {fields['batch']} is no multiple of train_micro_batch_size_per_gpu = "
                f"{fields['micro']} times gradient_accumulation_steps = {steps}; leave one out, or make them agree"
            )
    elif fields["micro"] and steps:
        fields["dp"] = max(1, devices // (fields["tp"] * fields["cp"]))
        fields["batch"] = fields["micro"] * steps * fields["dp"]
    fields |= {"cp_heads": fields["cp"] > 1, "cp_inner": 0}
    unread = [key for key in table if key not in KEYS | HARMLESS]
    unread += [f"zero_optimization.{key}" for key in zero if key not in ZERO_KEYS]
    return {name: value for name, value in fields.items() if value is not None}, unread


def _whole(table: Mapping[str, Any], key: str) -> int | None:
    """A whole number; ``None`` where it is missing or ``auto``."""
    return None if table.get(key) in (None, "auto") else value(table, key, 0)


def _precision(table: Mapping[str, Any]) -> str:
    for key, ours in (("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16")):
        if part(table, key).get("enabled") in (True, "auto"):
            return ours
    return "fp32"


def _optimizer(table: Mapping[str, Any]) -> str:
    named = value(part(table, "optimizer"), "type", "AdamW").lower()
    if named in ("adam", "adamw"):
        half = any(part(table, kind).get("bf16_optimizer_states") for kind in sorted(set(HALF.values())))
        return "adam-bf16" if half else "adam"
    known = {theirs.lower(): ours for ours, theirs in OPTIMIZERS.items()}
    if named not in known:
        raise ValueError(f"optimizer.type = {named!r} cannot be read; give --optimizer")
    return known[named]


def _offload(zero: Mapping[str, Any], name: str) -> float:
    said = part(zero, name) if zero.get(name) else {}
    on = said.get("device", "none") != "none"
    return float(value(said, "ratio", 1.0)) if on else 0.0


def _disk(zero: Mapping[str, Any]) -> str:
    """What of it lies on disks."""
    there = [name for name in OFFLOADS if zero.get(name) and part(zero, name).get("device") == "nvme"]
    return "all" if len(there) > 1 else OFFLOADS[there[0]] if there else "none"


def _overlap(zero: Mapping[str, Any]) -> str:
    """What compute hides: all that DeepSpeed can, unless ZeRO 1 or 2 does not say ``overlap_comm``, or 3 says no."""
    stage = _whole(zero, "stage") or 0
    said = zero.get("overlap_comm")
    return "own" if not stage or (stage == 3 if said in (None, "auto") else said) else "none"
