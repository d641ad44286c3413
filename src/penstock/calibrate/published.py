"""Rows of tables of measured training runs, read into what a prediction needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.calibrate.likely import framework_of
from penstock.calibrate.megatron import AGAIN
from penstock.calibrate.printed import (
    Printed,
    adapter,
    dense_layers,
    frozen_bytes,
    gated,
    offloads,
    printed,
    vocabulary,
)
from penstock.calibrate.rows import COUNTS, NEEDED, number, read_rows, truth, whole
from penstock.calibrate.run_recipes import STEP, ways_of, with_notes, with_recipe
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config.described import described
from penstock.core.setup import Setup, even
from penstock.cost.stack import Stack, stacks

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
    for name in NEEDED:
        if not row.get(name) or (name in COUNTS and not whole(row, name)):
            raise ValueError(f"the row has no {name}")
    found = described(
        row["model_name"],
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
    row = with_recipe(with_notes(row), framework, guessed)
    ways = ways_of(row)
    return Run(
        row=row,
        model=found.model,
        cluster=_cluster(row, guessed),
        setup=_setup(row, found.model, framework, guessed),
        stack=replace(framework, **ways),
        guessed=tuple(guessed),
        ways=ways,
    )


def _cluster(row: Mapping[str, str], guessed: list[str]) -> Cluster:
    devices, each = whole(row, "devices") or 1, whole(row, "per_node") or 8
    name = "jean-zay-a100" if "Jean Zay" in row.get("inter_link", "") and "A100" in row["device"] else row["device"]
    wanted = min(each, devices)
    each = min(wanted, Cluster.read(name).node_of(0).devices)
    if each < wanted:
        guessed.append(f"nodes of {each} devices")
    return Cluster.read(f"{name}:{-(-devices // each)}x{each}")


def _setup(row: Mapping[str, str], model: Architecture, framework: Stack, guessed: list[str]) -> Setup:
    tp, pp, cp = (whole(row, key) or 1 for key in ("tp", "pp", "cp"))
    devices = whole(row, "devices") or 1
    schedule, chunks = _schedule(row, model, pp, guessed)
    micro, batch = whole(row, "micro_batch"), whole(row, "global_batch") or 1
    dp = whole(row, "dp") or max(1, devices // (tp * pp * cp))
    if micro is None:
        micro = 1
        guessed.append("micro_batch=1")
    attention = row.get("attention", "")
    flash = attention != "none" if attention else framework.kernels.attention
    if not attention:
        guessed.append(f"flash={flash}")
    storages, optimizer_share = offloads(row.get("offload", ""))
    sp = row.get("sp")
    if tp > 1 and not sp:
        guessed.append("sp=True")
    return Setup(
        seq=whole(row, "seq_len") or 1,
        batch=batch,
        micro=micro,
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        ep=whole(row, "ep") or 1,
        etp=_split_experts(row, tp * cp * dp, framework),
        chunks=chunks,
        schedule=schedule,
        sp=tp > 1 and sp != "0",
        zero=_zero(row.get("zero_stage_or_fsdp", ""), guessed),
        recompute=_recompute(row.get("recompute", ""), framework, guessed),
        precision=_precision(row.get("precision", ""), guessed),
        offload=storages or 0.0,
        optimizer_offload=optimizer_share,
        flash=flash,
        graphs=row.get("graphs") == STEP,
        dropout=framework.dropout and not gated(model),
        fused_loss=framework.fused_loss or "fused CE" in row.get("notes", ""),
        adapter=adapter(row, guessed),
        frozen_bytes=frozen_bytes(row),
        optimizer="muon" if "muon" in row.get("notes", "").lower() else "adam",
        stage_layers=_redistributed(row, model, pp),
        vocabulary=vocabulary(row.get("schedule", "")),
    )


def _schedule(row: Mapping[str, str], model: Architecture, pp: int, guessed: list[str]) -> tuple[str, int]:
    """Name of the schedule and stages of each rank."""
    text, chunks = row.get("schedule", "").lower(), whole(row, "vpp") or 1
    if pp == 1:
        return "1f1b", 1
    for start, name in _SCHEDULES.items():
        if text.startswith(start):
            return name, chunks
    if "interleav" in text or text == "1f1b-i" or chunks > 1:
        if chunks == 1:
            each = (model.layers + 2) // pp
            chunks = max((v for v in range(2, MOST_CHUNKS + 1) if each % v == 0), default=2)
            guessed.append(f"vpp={chunks}")
        return "interleaved", chunks
    if not text:
        guessed.append("schedule 1F1B")
    return "1f1b", 1


_SCHEDULES = {"zb-1p": "zb-h1", "zb-2p": "zb-h2", "zb-v": "zb-v", "dualpipe": "dualpipev", "gpipe": "gpipe"}
"""How names of schedules begin in tables, and ours. Fixed orders stand for those that read costs."""


def _precision(text: str, guessed: list[str]) -> str:
    for name in ("fp4", "fp8", "bf16", "fp16", "fp32"):
        if name in text.lower():
            return name
    guessed.append("precision bf16")
    return "bf16"


_AGAIN = AGAIN | {
    "norm": AGAIN["layernorm"],
    "act": (*AGAIN["moe_act"], "mlp.activation"),
    "shared_expert": AGAIN["shared_experts"],
    "up_proj": AGAIN["mla_up_proj"],
}
"""Modules of Megatron-Core's selective recompute as tables write them, and our operators."""


def _recompute(text: str, framework: Stack, guessed: list[str]) -> str | tuple[str, ...]:
    if not text:
        again = framework.recompute
        guessed.append(f"recompute={again if isinstance(again, str) else ','.join(again)}")
        return again
    kind, _, modules = text.partition(":")
    if kind in ("none", "full"):
        return kind
    if "QKV_OUT" in text:
        return stacks()["maxtext"].recompute
    if kind != "selective":
        guessed.append(f"selective recompute for {text!r}")
        return "selective"
    names = [name for key in re.split(r"[^a-z_]+", re.sub(r"\(.*?\)", "", modules)) for name in _AGAIN.get(key, ())]
    return tuple(dict.fromkeys(names)) if modules else ("attention.core",)


def _zero(text: str, guessed: list[str]) -> int:
    if text in ("0", "1", "2", "3"):
        return int(text)
    found = re.search(r"ZeRO-([123])", text)
    if found:
        return int(found[1])
    if not text:
        guessed.append("zero=0")
    return 3 if "FSDP" in text else 0


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
