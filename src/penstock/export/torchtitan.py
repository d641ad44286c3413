"""A setup as torchtitan's training configuration: TOML, and the order of a schedule that PyTorch has no name for.

Keys are those of ``JobConfig`` of torchtitan 0.2, the last one that reads TOML; ``torchtitan_python`` says them to 0.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.placement import Placement
from penstock.core.setup import Setup
from penstock.export.launch import torchrun
from penstock.export.megatron import has_experts
from penstock.export.precision import precision_of
from penstock.export.switches import idle
from penstock.export.torch_csv import to_csv
from penstock.export.torchtitan_python import FILE as PYTHON
from penstock.export.torchtitan_python import FLOAT8, MX, MX_EXPERTS, lost, missing, python
from penstock.export.written import (
    ALIKE,
    FACT,
    MEMORY,
    Left,
    Written,
    comments,
    hosted,
    named,
    offloaded,
    refuse,
    shards_of,
    toml,
    unsaid,
)
from penstock.predict.pipelines import pipeline
from penstock.schedules.table import SCHEDULES

FILE = "train.toml"
SCRIPT = "train.sh"
FLAVORS = {
    "llama-3-8b": ("llama3", "8B"),
    "llama-3.1-8b": ("llama3", "8B"),
    "llama-3-70b": ("llama3", "70B"),
    "llama-3.1-70b": ("llama3", "70B"),
    "llama-3.3-70b": ("llama3", "70B"),
    "llama-3.1-405b": ("llama3", "405B"),
    "llama-4-scout": ("llama4", "17bx16e"),
    "llama-4-maverick": ("llama4", "17bx128e"),
    **{f"qwen3-{size.lower()}": ("qwen3", size) for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")},
    "qwen3-30b-a3b": ("qwen3", "30B-A3B"),
    "qwen3-235b-a22b": ("qwen3", "235B-A22B"),
    "deepseek-v2-lite": ("deepseek_v3", "16B"),
    "deepseek-v2": ("deepseek_v3", "236B"),
    "deepseek-v3": ("deepseek_v3", "671B"),
    "gpt-oss-20b": ("gpt_oss", "20b"),
    "gpt-oss-120b": ("gpt_oss", "120b"),
}
"""Models of ours, and what torchtitan calls them: name and flavor."""
ORDERS = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "breadth-first": "LoopedBFS",
    "interleaved-zb": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipev": "DualPipeV",
}
"""Schedules that PyTorch has names for."""
IN_V = "ZBVZeroBubble"
"""The name that makes torchtitan place stages in a V, where the order is in a file of its own."""
MIXED = {"bf16": "bfloat16", "fp32": "float32"}
RECIPES = {"fp8-current": "tensorwise", "fp8-row": "rowwise", "mxfp8": "mxfp8_cublas"}
"""Recipes, and the values of ``recipe_name``."""
ROTATES = {"on": "alltoall", "off": "allgather"}
"""How keys go to other context-parallel ranks, by ``cp_overlap``."""
NEVER = {
    "cp_inner": "keys go round in a ring alone",
    "cp_heads": "keys go round in a ring; it has no exchange of tokens for heads",
    "recompute_layers": ALIKE,
    "offload": "no copies of activations to the host",
    "disk": MEMORY,
    "graphs": "0.2 records no graphs",
    "dropout": "its models have none",
    "multi_token": "its models have no multi-token heads",
    "imbalance": FACT,
    "order": "its mesh has pp outside of dp, cp and tp",
    "overlap": "FSDP hides messages always",
    "ep_overlap": "messages of experts hide with DualPipeV alone",
    "pp_overlap": "messages between stages hide always",
    "vocabulary": "embedding and head stay on the first and the last stage",
    "flash": "attention is always one kernel",
}
"""Fields of a setup that it has no keys for."""


def torchtitan(model: Architecture, cluster: Cluster, setup: Setup, folder: str = ".") -> Written:
    """Return ``train.toml`` for 0.2, the same as Python for 0.3 if it can train so, the script that starts what is
    installed, and the schedule as a CSV file if PyTorch has no name for it.

    Args:
        model, cluster, setup: what is trained, where and how.
        folder: where the files will lie, as seen by the script.

    Raises:
        ValueError: torchtitan cannot train so.
    """
    _refuse(setup)
    recipe = _recipe(cluster, setup)
    left = [*unsaid(setup, NEVER), *_left(model, setup), *_precision_left(model, setup, recipe)]
    tables = _tables(model, setup, folder, recipe)
    files = {FILE: "\n".join((*comments(left, "torchtitan"), toml(tables)))}
    newer = missing(tables)
    if newer is None:
        files[PYTHON] = python(tables, model.layers)
        left += lost(tables)
    else:
        left.append(newer)
    start = torchrun(cluster, setup)
    begin = _script(folder, newer is None)
    files[SCRIPT] = "\n".join(
        ("#!/bin/bash", *start.lines, *begin, f'{start.command} -m torchtitan.train $CONFIG "$@"', "")
    )
    if _ordered(setup):
        files[f"{setup.schedule}.csv"] = to_csv(pipeline(setup.schedule, setup.pp, setup.micros, setup.chunks))
    return Written(files, tuple(left))


def _script(folder: str, newer: bool) -> Iterator[str]:
    """Lines that say which file is read."""
    yield f'CONFIG="--job.config_file {folder}/{FILE}"'
    if newer:
        yield "if ! python -c 'import torchtitan.config.job_config' 2> /dev/null; then  # 0.3 reads no TOML"
        yield f'  export PYTHONPATH="{folder}:$PYTHONPATH"'
        yield f'  CONFIG="--module {PYTHON.removesuffix(".py")} --config train"'
        yield "fi"


def _refuse(setup: Setup) -> None:
    ranks = shards_of(setup)[1] * setup.cp * setup.tp
    reasons = {
        f"precision={setup.precision} is none of {', '.join((*MIXED, 'fp8', *RECIPES))}": setup.precision
        not in (*MIXED, "fp8", *RECIPES),
        f"weights are gathered in 8 bits with fp8-current alone, not {setup.precision}": setup.low_weights
        and setup.precision != "fp8-current",
        "tensor parallelism does not go with mxfp8": setup.precision == "mxfp8" and setup.tp > 1,
        f"optimizer={setup.optimizer}; it has adam alone": setup.optimizer != "adam",
        "its adapters are not keys of a TOML file": setup.adapter > 0,
        f"etp={setup.etp} must be 1 or tp={setup.tp}": setup.ep > 1 and setup.etp not in (1, setup.tp),
        f"etp={setup.etp} needs ep of 2 or more": setup.ep == 1 and setup.etp > 1,
        f"chunks={setup.chunks} need pp of 2 or more": setup.chunks > 1 and setup.pp == 1,
        f"shards={setup.sharded} must be a multiple of cp={setup.cp} ranks": setup.zero > 0
        and setup.sharded % setup.cp,
        "it shards experts over dp_shard, cp and tp ranks alone; ep times etp must divide them": ranks
        % (setup.ep * setup.etp),
    }
    refuse("torchtitan", reasons)


def _left(model: Architecture, setup: Setup) -> Iterator[Left]:
    if model.name not in FLAVORS:
        yield Left("model", f"it has no flavor of {model.name}; add one with these sizes, called so")
    sharded = shards_of(setup)[1] * setup.cp > 1
    if setup.zero == 1 and sharded:
        yield Left("zero", "its FSDP shards gradients too; written as ZeRO 2")
    elif setup.zero == 0 and sharded:
        yield Left("zero", "weights are always sharded over cp ranks; written so, gathered once a step (ZeRO 2)")
    elif setup.zero and not sharded:
        yield Left("zero", "there is one replica of weights, and nothing to shard")
    if setup.zero == 0 and setup.cp > 1 and setup.dp > 1:
        yield Left("shards", "weights are sharded over the cp ranks")
    elif setup.zero == 0 and setup.shards:
        yield Left("shards", "nothing is sharded with ZeRO 0")
    yield from idle(setup, ("tp_overlap", "cp_overlap"))
    if setup.tp > 1 and not setup.sp:
        yield Left("sp", "tensor parallelism always splits tokens too")
    elif setup.tp == 1 and setup.sp:
        yield Left("sp", "it has no meaning with tp=1")
    if named(setup):
        yield Left("recompute", "operators cannot be named; all but products and attention are made again")
    yield from offloaded(setup)
    if setup.schedule == "interleaved" and setup.chunks == 1:
        yield Left("schedule", "interleaved with one chunk is 1f1b")
    elif setup.pp == 1 and setup.schedule != "1f1b":
        yield Left("schedule", "there is no pipeline")


def _ordered(setup: Setup) -> bool:
    """Whether the schedule has to be a file."""
    return setup.pp > 1 and setup.schedule not in ORDERS


def _tables(model: Architecture, setup: Setup, folder: str, recipe: str | None) -> dict[str, dict[str, Any]]:
    name, flavor = FLAVORS.get(model.name, (model.family, model.name))
    piped = setup.pp > 1
    policy = "selective" if named(setup) else setup.recompute
    tables: dict[str, dict[str, Any]] = {
        "model": {"name": name, "flavor": flavor, "converters": _converters(model, recipe)},
        "optimizer": {"name": "AdamW"},
        "training": {
            "seq_len": setup.seq,
            "local_batch_size": setup.batch // setup.dp if piped else setup.micro,
            "global_batch_size": setup.batch,
            "mixed_precision_param": MIXED.get(setup.precision, "bfloat16"),
            "enable_cpu_offload": hosted(setup),
        },
        "parallelism": _parallel(model, setup, folder),
        "activation_checkpoint": {"mode": policy} | ({"selective_ac_option": "op"} if policy == "selective" else {}),
        "compile": {"enable": True, "components": ["model", "loss"] if setup.fused_loss else ["model"]},
    }
    return tables | _quantized(model, setup, recipe)


def _recipe(cluster: Cluster, setup: Setup) -> str | None:
    """The recipe that is written: for bits without one, that which suits the device and the split."""
    precision = precision_of(cluster, setup)
    if setup.precision == "fp8" and setup.tp > 1:
        return "fp8-current"
    return precision if precision in RECIPES else None


def _precision_left(model: Architecture, setup: Setup, recipe: str | None) -> Iterator[Left]:
    if recipe is not None and setup.precision != recipe:
        yield Left("precision", f"which 8-bit recipe is for you to choose; {recipe} is written")
    if recipe is not None and recipe != "mxfp8" and has_experts(model):
        yield Left("precision", "experts stay in bfloat16: products of groups have mxfp8 alone")


def _converters(model: Architecture, recipe: str | None) -> list[str]:
    if recipe == "mxfp8":
        return [MX, *([MX_EXPERTS] if has_experts(model) else [])]
    return [] if recipe is None else [FLOAT8]


def _quantized(model: Architecture, setup: Setup, recipe: str | None) -> dict[str, dict[str, Any]]:
    """The tables of converters; the head and blocks that stay wide are left out of them."""
    if recipe is None:
        return {}
    wide = (*range(setup.wide_first), *range(model.layers - setup.wide_last, model.layers))
    skipped = {"filter_fqns": ["output", *(f"layers.{layer}." for layer in wide)]}
    if setup.low_weights:
        gather = dict.fromkeys(("enable_fsdp_float8_all_gather", "precompute_float8_dynamic_scale_for_fsdp"), True)
        return {FLOAT8: gather | skipped}
    table = MX if recipe == "mxfp8" else FLOAT8
    tables: dict[str, dict[str, Any]] = {table: {"recipe_name": RECIPES[recipe]} | skipped}
    if recipe == "mxfp8" and has_experts(model):
        tables[MX_EXPERTS] = {"fqns": ["experts"]}
    return tables


def _parallel(model: Architecture, setup: Setup, folder: str) -> dict[str, Any]:
    replicas, shards = shards_of(setup)
    table: dict[str, Any] = {
        "data_parallel_replicate_degree": replicas,
        "data_parallel_shard_degree": shards,
        "fsdp_reshard_after_forward": "always" if setup.zero == 3 else "never",
        "tensor_parallel_degree": setup.tp,
        "context_parallel_degree": setup.cp,
        "expert_parallel_degree": setup.ep,
        "expert_tensor_parallel_degree": setup.etp,
        "pipeline_parallel_degree": setup.pp,
    }
    if setup.tp > 1 and setup.tp_overlap != "own":
        table["enable_async_tensor_parallel"] = setup.tp_overlap == "on"
    if setup.cp > 1 and setup.cp_overlap != "own":
        table["context_parallel_rotate_method"] = ROTATES[setup.cp_overlap]
    if setup.pp == 1:
        return table
    order = "1F1B" if setup.chunks == 1 and setup.schedule == "interleaved" else ORDERS.get(setup.schedule, "")
    table["pipeline_parallel_microbatch_size"] = setup.micro
    table["pipeline_parallel_schedule"] = order or _family(setup)
    if not order:
        table["pipeline_parallel_schedule_csv"] = f"{folder}/{setup.schedule}.csv"
    return table | {"module_fqns_per_model_part": _modules(model, setup)}


def _family(setup: Setup) -> str:
    """The name of PyTorch's that places stages as the schedule's file has them.

    Raises:
        ValueError: stages lie neither in a loop nor in a V of two on each rank.
    """
    placed = SCHEDULES[setup.schedule].placement(setup.pp, setup.chunks)
    if placed == Placement.loop(setup.pp, setup.chunks):
        return "PipelineScheduleMulti" if setup.chunks > 1 else "PipelineScheduleSingle"
    if setup.chunks == 2 and placed == Placement.vee(setup.pp, setup.chunks):
        return IN_V
    raise ValueError(f"torchtitan: stages of {setup.schedule} lie neither in a loop nor in a V of two on each rank")


def _modules(model: Architecture, setup: Setup) -> list[list[str]]:
    """Names of the modules of each stage."""
    parts = [[f"layers.{layer}" for layer in layers] for layers in setup.layers_of(model.layers)]
    return [["tok_embeddings", *parts[0]], *parts[1:-1], [*parts[-1], "norm", "output"]]
