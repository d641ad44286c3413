"""Rows of tables of measured training runs, read into what a prediction needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.calibrate.axes import axes_of, devices_of
from penstock.calibrate.layout import LAYOUT_SPREAD, laid_out, says_none
from penstock.calibrate.likely import framework_of
from penstock.calibrate.packed import packed
from penstock.calibrate.printed import (
    Printed,
    adapter,
    adapter_on,
    dense_layers,
    frozen_bytes,
    gated,
    imbalance,
    offloads,
    printed,
    vocabulary,
)
from penstock.calibrate.rows import NO, number, read_rows, truth, whole
from penstock.calibrate.run_recipes import STEP, ways_of, with_notes, with_recipe
from penstock.calibrate.spoken import (
    any_of,
    device_within,
    flash,
    precision,
    recomputed,
    schedule_of,
    sharded,
    stands_for_itself,
)
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.described import described
from penstock.core.setup import Setup, even
from penstock.cost.stack import Stack
from penstock.schedules import SCHEDULES
from penstock.search.wishes import layers_of

MOST_CHUNKS = 12
"""Where a row says that stages are interleaved and not how many: as many as divide the layers, up to these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run.

    ``why_not`` says why it cannot be predicted; then model, cluster, setup and stack are ``None``. ``ways``: fields of
    its stack in which it differs from the framework.
    """

    row: Mapping[str, str]
    model: Architecture | None = None
    cluster: Cluster | None = None
    setup: Setup | None = None
    stack: Stack | None = None
    guessed: tuple[str, ...] = ()
    why_not: str = ""
    ways: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measured_gb(self) -> float | None:
        """Memory as printed; ``memory`` says what that is."""
        return number(self.row, "peak_mem_gb") or None

    @property
    def memory(self) -> Printed:
        """How the row prints memory."""
        if self.stack is None:
            raise ValueError(f"this run cannot be predicted: {self.why_not}")
        return printed(self.row, self.stack)

    @property
    def measured_s(self) -> float | None:
        """Seconds per step, from the first of the columns that has a figure."""
        row = self.row
        if seconds := number(row, "seconds_per_iter"):
            return seconds
        rate = number(row, "tokens_per_s_per_device") or number(row, "calc_tokens_per_s_per_device")
        sizes = [number(row, name) for name in ("seq_len", "global_batch", "devices")]
        if not rate or not all(sizes):
            return None
        seq, batch, devices = (size or 0.0 for size in sizes)
        return seq * batch / devices / rate


def read_runs(path: Path, framework: Stack | None = None) -> list[Run]:
    """Read a table of runs, all of them of one framework if it is given.

    Raises:
        ValueError: the file is no table of runs.
    """
    return [run_of(row, framework) for row in read_rows(path)]


def run_of(row: Mapping[str, str], framework: Stack | None = None) -> Run:
    """One row; what it lacks is guessed in words, or it says why it cannot be predicted."""
    try:
        return _run(row, framework)
    except (ValueError, ArithmeticError) as error:
        return Run(row=row, why_not=str(error))


def _run(row: Mapping[str, str], framework: Stack | None) -> Run:
    guessed: list[str] = []
    if not row.get("device"):
        raise ValueError("the row has no device")
    if not whole(row, "seq_len"):
        raise ValueError("the row has no seq_len")
    whole(row, "pipeline_rank")
    if any_of(row.get("task", ""), ("inference", "serving", "generation")):
        raise ValueError(f"task={row['task']!r} is no training")
    found = described(
        row.get("model_name", ""),
        layers=whole(row, "layers"),
        hidden=whole(row, "hidden"),
        heads=whole(row, "heads"),
        kv_heads=whole(row, "kv_heads"),
        ffn=whole(row, "ffn"),
        vocab=whole(row, "vocab"),
        seq=whole(row, "seq_len"),
        experts=whole(row, "experts"),
        topk=whole(row, "topk"),
        expert_ffn=whole(row, "moe_ffn"),
        shared_ffn=whole(row, "shared_ffn"),
        dense_layers=dense_layers(row),
        gated=truth(row, "gated_mlp"),
        tied=truth(row, "tied_embed"),
    )
    guessed += found.guessed
    framework = framework or framework_of(row, guessed)
    row = with_recipe(with_notes(row, guessed), framework, guessed)
    ways = ways_of(row)
    model = packed(found.model, row.get("packed", ""))
    devices = devices_of(row, guessed)
    cluster, stack = _cluster(row, devices, guessed), replace(framework, **ways)
    setup = _beside(row, _setup(row, model, devices, framework, guessed), guessed)
    laid = laid_out(row, setup, model, cluster, stack, guessed)
    if laid != setup or found.sized:
        stack = replace(stack, spread=max(stack.spread, LAYOUT_SPREAD))
    return Run(
        row=row,
        model=model,
        cluster=cluster,
        setup=laid,
        stack=stack,
        guessed=tuple(guessed),
        ways=ways,
    )


def _cluster(row: Mapping[str, str], devices: int, guessed: list[str]) -> Cluster:
    text = _alone(row["device"])
    name = "jean-zay-a100" if "Jean Zay" in row.get("inter_link", "") and "A100" in text else text
    try:
        usual = Cluster.read(name).node_of(0)
    except ValueError:
        if not (known := device_within(text)):
            raise
        guessed.append(f"device {text!r} is taken to be {known}")
        name, usual = known, Cluster.read(known).node_of(0)
    said = whole(row, "per_node")
    each = min(said or usual.devices // usual.hosts, usual.devices, devices)
    if each != min(said or 8, devices):
        guessed.append(f"nodes of {each} devices")
    return Cluster.read(f"{name}:{-(-devices // each)}x{each}")


def _alone(text: str) -> str:
    """The name of a device without how many there are, which a TPU's slice and a node have in their names."""
    return re.sub(
        r"^\d+ ?x ?|(?<=[a-z]\d\d\d)x\d+$| x ?\d+$|(?<=v\d)-\d+$|(?<=v\d[a-z])-\d+$",
        "",
        text.strip(),
        flags=re.IGNORECASE,
    )


def _setup(row: Mapping[str, str], model: Architecture, devices: int, framework: Stack, guessed: list[str]) -> Setup:
    """The setup as a row says it; of a row that gives no layout, on one device."""
    axes = axes_of(row, 1 if says_none(row) else devices, guessed)
    axes = axes._replace(ep=1) if says_none(row) else axes
    schedule, chunks = _schedule(row, model, axes.pp, guessed)
    storages, optimizer_share = offloads(row.get("offload", ""), model.layers, guessed)
    tp, per_node = axes.tp, whole(row, "per_node") or 8
    if tp > 1 and not row.get("sp"):
        guessed.append("sp=True")
    return Setup(
        seq=whole(row, "seq_len") or 1,
        **axes._asdict(),
        etp=_split_experts(row, tp * axes.cp * axes.dp, framework),
        chunks=chunks,
        schedule=schedule,
        sp=tp > 1 and row.get("sp", "").lower() not in NO,
        **sharded(row.get("zero_stage_or_fsdp", ""), axes.dp * axes.cp, per_node, guessed),
        **recomputed(row.get("recompute", ""), model, framework, axes.pp * chunks, guessed),
        precision=precision(row.get("precision", ""), guessed),
        offload=storages or 0.0,
        optimizer_offload=optimizer_share,
        flash=flash(row.get("attention", ""), framework, guessed),
        graphs=row.get("graphs") == STEP,
        dropout=framework.dropout and not gated(model),
        fused_loss=framework.fused_loss or "fused CE" in row.get("notes", ""),
        adapter=(rank := adapter(row, guessed)),
        adapter_on=adapter_on(row) if rank else (),
        frozen_bytes=frozen_bytes(row),
        optimizer="muon" if "muon" in row.get("notes", "").lower() else "adam",
        multi_token=truth(row, "multi_token") or False,
        imbalance=imbalance(row) if axes.ep > 1 else 1.0,
        stage_layers=_stage_layers(row, model, axes.pp, chunks),
        vocabulary=vocabulary(row.get("schedule", "")),
    )


def _beside(row: Mapping[str, str], setup: Setup, guessed: list[str]) -> Setup:
    """The setup with messages of experts beside another micro-batch, if a row says so and it can be."""
    if setup.ep == 1 or not truth(row, "expert_overlap"):
        return setup
    try:
        return replace(setup, ep_overlap="on")
    except ValueError as error:
        guessed.append(f"messages of experts hide behind nothing: {error}")
        return setup


def _schedule(row: Mapping[str, str], model: Architecture, pp: int, guessed: list[str]) -> tuple[str, int]:
    """Name of the schedule and stages of each rank."""
    text, chunks = row.get("schedule", "").lower(), whole(row, "vpp") or 1
    if pp == 1:
        return "1f1b", 1
    if name := schedule_of(text):
        several = SCHEDULES[name].chunks
        if not stands_for_itself(text, name):
            guessed.append(f"schedule {name} for {row['schedule']!r}")
        if name == "1f1b" and chunks > 1:
            return "interleaved", chunks
        return name, max(chunks, SCHEDULES[name].least_chunks(pp, 2 * pp)) if several else 1
    if any_of(text, ("interleav", "1f1b-i", "virtual", "vpp")) or chunks > 1:
        if chunks == 1:
            each = (model.layers + 2) // pp
            chunks = max((v for v in range(2, MOST_CHUNKS + 1) if each % v == 0), default=2)
            guessed.append(f"vpp={chunks}")
        return "interleaved", chunks
    guessed.append("schedule 1F1B" + (f" for {text!r}, which is not known" if text and text not in NO else ""))
    return "1f1b", 1


def _stage_layers(row: Mapping[str, str], model: Architecture, pp: int, chunks: int) -> tuple[int, ...]:
    """Layers of each stage as a row says them; of several ways, those of as many stages, if there are any."""
    each = [layers_of(text) for text in row.get("stage_layers", "").split()]
    if len(each) > 1:
        return next((sizes for sizes in each if len(sizes) == pp * chunks), ())
    return each[0] if each else _redistributed(row, model, pp)


def _redistributed(row: Mapping[str, str], model: Architecture, pp: int) -> tuple[int, ...]:
    """Layers moved from the ranks of the embedding and the head to the others, so that all do as much."""
    if "redistributed" not in row.get("schedule", ""):
        return ()
    block = model.blocks[0].parameters
    head = min(model.hidden * model.vocab / block, model.layers / pp)
    last = max(0, round(model.layers / pp - head * (pp - 1) / pp))
    rest = even(model.layers - last, pp - 1)
    return (*rest, last)


def _split_experts(row: Mapping[str, str], ranks: int, framework: Stack) -> int:
    """Over how many ranks each expert is split: over those of tensor parallelism, if the framework does so."""
    ep, tp = whole(row, "ep") or 1, whole(row, "tp") or 1
    if said := re.search(r"\bETP[ =](\d+)", row.get("notes", "")):
        return int(said[1])
    return tp if framework.split_experts and ep > 1 and ranks % (ep * tp) == 0 else 1
