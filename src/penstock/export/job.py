"""A setup in the words of ``penstock run``: a job file, and such a file read into fields of a setup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.job import settings
from penstock.core.jobfile import make_spec
from penstock.core.keys import shipped_models
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES
from penstock.core.words import suggest
from penstock.export.written import MEMORY, Left, Written, comments, named, refuse, toml, unsaid
from penstock.schedules.table import SCHEDULES

PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
"""Of ours, those that ``penstock run`` trains in, by its names."""
NEVER = {
    "zero": "there is one replica",
    "shards": "there is one replica",
    "optimizer_offload": "the optimizer's state stays on the device",
    "weight_offload": "weights stay on the device",
    "disk": MEMORY,
    "flash": "PyTorch chooses the kernel",
    "graphs": "no graphs",
    "dropout": "it trains without",
    "fused_loss": "the loss reads a copy",
    "adapter": "all weights are trained",
    "adapter_on": "all weights are trained",
    "frozen_bytes": "all weights are trained",
    "multi_token": "multi-token heads are not trained",
    "imbalance": "a fact of data and router",
    "overlap": "there is one replica",
    **dict.fromkeys(("wide_first", "wide_last", "low_weights"), "all products are in the width of the weights"),
    **dict.fromkeys(SWITCHES, "messages between stages hide as --sends says"),
    **dict.fromkeys(
        ("ep", "etp", "sp", "cp_heads", "cp_inner", "order"),
        "there is one rank for each stage, and nothing else is split",
    ),
}
"""Fields of a setup that it has no keys for."""
SPLIT = ("tp", "cp", "dp", "ep")


def job(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return a job file of ``penstock run``, which trains one pipeline with a device for each of its ranks.

    Raises:
        ValueError: the setup is split in another way too.
    """
    split = ", ".join(f"{name}={getattr(setup, name)}" for name in SPLIT if getattr(setup, name) > 1)
    fix = ",".join(f"{name}=1" for name in SPLIT if getattr(setup, name) > 1)
    refuse("job", {f"penstock run splits a model over pipeline ranks alone, and this has {split}; fix {fix}": split})
    left = job_left(model, setup)
    tables: dict[str, dict[str, object]] = {"": {}, "job": {}, "strategy": {}}
    known = settings()
    for name, value in job_keys(model, setup).items():
        tables[known[name].table][name] = str(value) if known[name].type is str else value
    notes = "\n".join(comments(left, "penstock run"))
    return Written({"": f"{notes}\n{toml(tables)}"}, tuple(left))


def job_left(model: Architecture, setup: Setup) -> list[Left]:
    """Return what of a setup ``penstock run`` has no keys for."""
    return [*unsaid(setup, NEVER), *_left(model, setup)]


def _left(model: Architecture, setup: Setup) -> Iterator[Left]:
    if model.name not in shipped_models():
        yield Left("model", "penstock run reads a config.json; put its path in place of the name")
    if setup.precision not in PRECISIONS:
        yield Left("precision", f"it trains in {' or '.join(PRECISIONS.values())}; written as bfloat16")
    if setup.optimizer != ("adam" if setup.precision == "fp32" else "adam-bf16"):
        kind = PRECISIONS.get(setup.precision, "bfloat16")
        yield Left("optimizer", f"AdamW with moments in {kind}, as the weights, in place of {setup.optimizer}")
    if named(setup):
        yield Left("recompute", "operators cannot be named; written as selective")
    if setup.again and setup.recompute != "none":
        yield Left("recompute", "stages behind those of recompute_layers keep all")
    if some := [stage for stage, share in _again_shares(model, setup).items() if 0 < share < 1]:
        yield Left("recompute_layers", f"whole stages are made again; all of {', '.join(map(str, some))} is")
    if isinstance(setup.offload, tuple):
        yield Left("offload", "storages cannot be named; not written")
    if setup.vocabulary == 3:
        yield Left("vocabulary", "it has algorithms 1 and 2; not written")


def _again_shares(model: Architecture, setup: Setup) -> dict[int, float]:
    """Which share of its layers each stage makes again, where not all do."""
    sizes = zip(setup.again, setup.layers_of(model.layers), strict=False)
    return {stage: min(1.0, count / max(1, len(layers))) for stage, (count, layers) in enumerate(sizes)}


def job_keys(model: Architecture, setup: Setup) -> dict[str, object]:
    """Return the keys of a job file that say a setup, and their values."""
    keys: dict[str, object] = {
        "model": model.name,
        "ranks": setup.pp,
        "schedule": setup.schedule,
        "chunks": setup.chunks,
        "batch": setup.batch,
        "micro_batches": setup.micros,
        "seq_length": setup.seq,
        "precision": PRECISIONS.get(setup.precision, "bfloat16"),
    }
    if setup.stage_layers:
        keys["stage_layers"] = [*setup.stage_layers]
    if shares := _again_shares(model, setup):
        stages = [str(stage) for stage, share in shares.items() if share]
        keys |= {"recompute": f"{setup.recompute_first},stages={'+'.join(stages)}"} if stages else {}
    elif setup.recompute != "none":
        keys["recompute"] = "full" if setup.recompute == "full" else "selective"
    if isinstance(setup.offload, float) and setup.offload:
        keys["offload"] = setup.offload
    if setup.vocabulary in (1, 2):
        keys["vocabulary"] = setup.vocabulary
    return keys


def job_fields(path: Path) -> tuple[dict[str, Any], str, list[str]]:
    """Return fields of a setup, the name of the model, and what matters of a job file and is not read.

    Raises:
        ValueError: it is no job file, or its schedule is of the user's own.
    """
    try:
        spec = make_spec(path, {})
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from None
    split, task = spec.strategy, spec.job
    if split.schedule not in SCHEDULES:
        raise ValueError(f"schedule = {split.schedule!r} is an order of its own; {suggest(split.schedule, SCHEDULES)}")
    again, _, options = split.recompute.partition(",")
    share, _, stages = split.offload.partition(",")
    half = task.precision == "bfloat16"
    fields = {
        "seq": task.seq_length,
        "batch": task.batch,
        "micro": task.batch // split.micro_batches,
        "pp": split.ranks,
        "dp": 1,
        "chunks": split.chunks,
        "schedule": split.schedule,
        "stage_layers": split.stage_layers or (),
        "recompute": again or "none",
        "offload": float(share or 0),
        "vocabulary": split.vocabulary,
        "precision": "bf16" if half else "fp32",
        "optimizer": "adam-bf16" if half else "adam",
    }
    unread = [f"[strategy] {name}" for name, rest in (("recompute", options), ("offload", stages)) if rest]
    unread += ["[strategy] slices"] if split.slices else []
    unread += ["[job] precision float64, taken to be float32"] if task.precision == "float64" else []
    return fields, spec.model, unread
