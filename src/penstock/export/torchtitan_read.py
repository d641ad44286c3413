"""torchtitan's training configuration, read into fields of a setup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from penstock.core.setup import even
from penstock.core.words import suggest
from penstock.export.torchtitan import FLAVORS, MIXED, ORDERS, RECIPES, ROTATES
from penstock.export.torchtitan_python import FLOAT8, MX, MX_EXPERTS
from penstock.export.values import degree, part, value, words
from penstock.schedules.table import SCHEDULES

BESIDE = frozenset((
    *("job", "profiling", "metrics", "lr_scheduler", "checkpoint", "comm", "memory_estimation", "fault_tolerance"),
    *("experimental", "validation", "debug", "optimizer"),
))  # fmt: skip
"""Tables that say nothing of what a step computes."""
HARMLESS = frozenset((
    *("dataset", "dataset_path", "max_norm", "steps", "gc_freq", "gc_debug", "dataloader", "dtype", "deterministic"),
    *("mixed_precision_reduce", "hf_assets_path", "tokenizer_path", "print_after_conversion", "backend", "seed"),
    *("preserve_rng_state", "early_stop", "determinism_check", "debug", "filter_fqns", "recipe_name", "emulate"),
    *("pipeline_parallel_first_stage_less_layers", "pipeline_parallel_last_stage_less_layers"),
    *("context_parallel_load_balancer", "pipeline_parallel_expert_parallel_overlap", "enable_fsdp_float8_all_gather"),
    *("precompute_float8_dynamic_scale_for_fsdp", "disable_loss_parallel"),
))  # fmt: skip
"""Keys that change neither layout nor memory by much."""
KEYS = frozenset((
    *("seq_len", "local_batch_size", "global_batch_size", "mixed_precision_param", "enable_cpu_offload"),
    *("data_parallel_replicate_degree", "data_parallel_shard_degree", "fsdp_reshard_after_forward"),
    *("tensor_parallel_degree", "context_parallel_degree", "expert_parallel_degree", "expert_tensor_parallel_degree"),
    *("pipeline_parallel_degree", "pipeline_parallel_microbatch_size", "pipeline_parallel_schedule"),
    *("pipeline_parallel_schedule_csv", "module_fqns_per_model_part", "mode", "selective_ac_option"),
    *("enable", "components", "name", "flavor", "converters"),
    *("enable_async_tensor_parallel", "context_parallel_rotate_method"),
))  # fmt: skip
"""Keys that are read."""


def torchtitan_model(table: Mapping[str, Any]) -> str | None:
    """Return the name of the model, if we know it.

    >>> torchtitan_model({"model": {"name": "llama3", "flavor": "8B"}})
    'llama-3-8b'
    """
    said = part(table, "model")
    wanted = (said.get("name"), said.get("flavor"))
    return next((name for name, theirs in FLAVORS.items() if theirs == wanted), None)


def torchtitan_fields(table: Mapping[str, Any], devices: int) -> tuple[dict[str, Any], list[str]]:
    """Return fields of a setup, and the keys that matter and are not read.

    Args:
        table: the file.
        devices: of all ranks, for a degree of shards of -1 (those that are left).

    Raises:
        ValueError: a value cannot be.
    """
    split = part(table, "parallelism")
    training = part(table, "training")
    fields = _degrees(split, devices)
    if fields["pp"] > 1:
        fields |= _pipeline(split, fields["pp"])
    return fields | _switches(split) | _batches(training, split, fields) | _rest(table, training), _unread(table)


def _degrees(split: Mapping[str, Any], devices: int) -> dict[str, Any]:
    tp, cp, pp = (degree(split, f"{axis}_parallel_degree") for axis in ("tensor", "context", "pipeline"))
    replicas = degree(split, "data_parallel_replicate_degree")
    shards = value(split, "data_parallel_shard_degree", -1)
    if shards < 0:
        shards = max(1, devices // (replicas * tp * cp * pp))
    after = value(split, "fsdp_reshard_after_forward", "default")
    gathers = after == "always" or (after == "default" and pp == 1)
    return {
        "tp": tp,
        "cp": cp,
        "pp": pp,
        "dp": replicas * shards,
        "ep": degree(split, "expert_parallel_degree"),
        "etp": degree(split, "expert_tensor_parallel_degree"),
        "sp": tp > 1,
        "zero": (3 if gathers else 2) if shards * cp > 1 else 0,
        "shards": shards * cp if replicas > 1 and shards * cp > 1 else 0,
    }


def _switches(split: Mapping[str, Any]) -> dict[str, str]:
    """What is said of sums and keys that hide."""
    found = {}
    if (said := split.get("enable_async_tensor_parallel")) is not None:
        found["tp_overlap"] = "on" if said else "off"
    if (how := value(split, "context_parallel_rotate_method", "")) in ROTATES.values():
        found["cp_overlap"] = next(way for way, theirs in ROTATES.items() if theirs == how)
    return found


def _batches(training: Mapping[str, Any], split: Mapping[str, Any], degrees: Mapping[str, Any]) -> dict[str, Any]:
    local = degree(training, "local_batch_size", 8)
    whole = value(training, "global_batch_size", -1)
    return {
        "seq": degree(training, "seq_len", 2048),
        "batch": whole if whole > 0 else local * degrees["dp"],
        "micro": degree(split, "pipeline_parallel_microbatch_size") if degrees["pp"] > 1 else local,
    }


def _pipeline(split: Mapping[str, Any], pp: int) -> dict[str, Any]:
    """Schedule, chunks and layers of stages."""
    named = value(split, "pipeline_parallel_schedule", "1F1B")
    file = value(split, "pipeline_parallel_schedule_csv", "")
    known = {theirs: ours for ours, theirs in ORDERS.items()}
    if file:
        schedule = PurePath(file).stem
        if schedule not in SCHEDULES:
            raise ValueError(f"pipeline_parallel_schedule_csv = {file!r} is an order without a name; give --schedule")
    elif named in known:
        schedule = known[named]
    else:
        raise ValueError(f"pipeline_parallel_schedule = {named!r} is unknown; {suggest(named, known)}")
    key = "module_fqns_per_model_part"
    parts: list[Any] = value(split, key, [])
    if not parts:
        return {"schedule": schedule, "chunks": 2 if SCHEDULES[schedule].chunks else 1}
    if len(parts) % pp:
        raise ValueError(f"{key} has {len(parts)} parts; give a multiple of {pp}")
    sizes = tuple(sum(name.startswith("layers.") for name in words({key: names}, key)) for names in parts)
    uneven = sizes != even(sum(sizes), len(sizes))
    return {"schedule": schedule, "chunks": len(parts) // pp, "stage_layers": sizes if uneven else ()}


def _rest(table: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    compiled = part(table, "compile")
    mixed = {"float32": "fp32"}.get(value(training, "mixed_precision_param", MIXED["bf16"]), "bf16")
    converters = words(part(table, "model"), "converters")
    policy = value(part(table, "activation_checkpoint"), "mode", "selective")
    if policy not in ("none", "full", "selective"):
        raise ValueError(f"activation_checkpoint.mode = {policy!r} cannot be read; give --recompute")
    return {
        "recompute": policy,
        **_precision(table, converters, mixed),
        "fused_loss": bool(compiled.get("enable")) and "loss" in words(compiled, "components", ("model", "loss")),
        **dict.fromkeys(("optimizer_offload", "weight_offload"), float(bool(training.get("enable_cpu_offload")))),
    }


def _precision(table: Mapping[str, Any], converters: Sequence[str], mixed: str) -> dict[str, Any]:
    """The recipe, blocks at both ends that are left out of it, and whether weights are gathered in it."""
    linear = part(part(table, "quantize"), "linear")
    if MX in converters:
        said, recipe = part(linear, "mx"), "mxfp8"
    elif FLOAT8 in converters:
        said = part(linear, "float8")
        named = value(said, "recipe_name", "tensorwise")
        recipe = next((ours for ours, theirs in RECIPES.items() if named.startswith(theirs)), "fp8")
    else:
        return {"precision": mixed}
    gathers = recipe == "fp8-current" and bool(said.get("enable_fsdp_float8_all_gather"))
    return {"precision": recipe, "low_weights": gathers} | _wide(words(said, "filter_fqns"))


def _wide(names: Sequence[str]) -> dict[str, int]:
    """Blocks that are left out one after the other from the first on, and all others, which are taken for the last."""
    layers = {int(found[1]) for name in names if (found := re.fullmatch(r"layers\.(\d+)\.", name))}
    first = next(layer for layer in range(len(layers) + 1) if layer not in layers)
    return {"wide_first": first, "wide_last": len(layers) - first}


def _unread(table: Mapping[str, Any]) -> list[str]:
    """Keys that matter and are not read, and values that are read as something near."""
    found = []
    for name, rows in table.items():
        if name == "quantize" or name in BESIDE or not isinstance(rows, dict):
            continue
        found += [f"{name}.{key}" for key in rows if key not in KEYS | HARMLESS]
    again = table.get("activation_checkpoint", {})
    if again.get("mode", "selective") == "selective" and again.get("selective_ac_option", "2") != "op":
        found.append("activation_checkpoint.selective_ac_option (read as op: all but products and attention again)")
    read = (FLOAT8, MX, MX_EXPERTS)
    others = [name for name in table.get("model", {}).get("converters", []) if name not in read]
    found += [f"model.converters {name}" for name in others]
    return found
