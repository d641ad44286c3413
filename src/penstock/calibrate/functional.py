"""Megatron-LM's functional tests, whose launch arguments and peak memory are public, read into what a prediction needs.

Their models are tiny and their figures exact: they tell apart what the framework holds of weights, gradients, state,
activations and logits. The figure is that of the last rank: its stage has the head.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.parts import Norm
from penstock.core.setup import Setup
from penstock.cost.stack import Stack, stack

NODES = {"a100": "dgx-a100-80gb", "h100": "dgx-h100", "gb200": "gb200-nvl72"}
NOT_READ = (
    ("multi-latent-attention", "latent attention"),
    ("hybrid-layer-pattern", "hybrid layers"),
    ("mtp-num-layers", "multi-token heads"),
    ("perform-rl-step", "reinforcement learning"),
    ("pipeline-model-parallel-layout", "a layout of its own"),
    ("defer-embedding-wgrad-compute", "gradients of logits that wait for the end of a step"),
)
"""Arguments that change what is trained in ways that are not read here."""
AGAIN = {
    "core_attn": ("attention.core",),
    "layernorm": ("attention_norm", "mlp_norm"),
    "moe_act": ("experts.activation",),
    "mlp": ("mlp",),
    "moe": ("experts",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One test: what it launched, and the bytes that PyTorch had allocated, at most and between steps."""

    name: str
    model: Architecture
    cluster: Cluster
    setup: Setup
    stack: Stack
    peak_bytes: float
    resting_bytes: float


def read_launches(path: Path) -> tuple[list[Launch], dict[str, str]]:
    """Return the tests of decoders with attention that can be read, and why others cannot, by name."""
    found, left = [], {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            name = f"{row['family']}/{row['test']}/{row['golden_file']}"
            try:
                found.append(_launch(name, row))
            except ValueError as error:
                left[name] = str(error)
    return found, left


def _launch(name: str, row: Mapping[str, str]) -> Launch:
    if row["family"] not in ("gpt", "moe", "mixtral"):
        raise ValueError(f"family {row['family']} is no decoder with attention alone")
    if not row["mem_max_allocated_bytes"]:
        raise ValueError("no memory was recorded")
    arguments = _Arguments(json.loads(row["all_args"]))
    for argument, why in NOT_READ:
        if argument in arguments:
            raise ValueError(f"--{argument}: {why} cannot be read")
    devices = int(row["devices"] or 8)
    node = NODES[row["platform"]]
    model, setup = _model(arguments), _setup(arguments, devices)
    each = min(devices, 4 if row["platform"] == "gb200" else 8)
    return Launch(
        name=name,
        model=model,
        cluster=Cluster.read(f"{node}:{-(-devices // each)}x{each}"),
        setup=setup,
        stack=_stack(arguments),
        peak_bytes=float(row["mem_max_allocated_bytes"]),
        resting_bytes=float(row["mem_allocated_bytes"] or 0),
    )


class _Arguments(dict[str, str]):
    """Launch arguments by name, without dashes in front."""

    def whole(self, name: str, missing: int) -> int:
        """A whole number."""
        return int(self.get(name, missing))

    def says(self, name: str) -> bool:
        """Whether a flag is there."""
        return self.get(name, "false") == "true"


def _model(given: _Arguments) -> Architecture:
    """GPT as the arguments say; a vocabulary is filled up until ranks and kernels divide it."""
    hidden, heads = given.whole("hidden-size", 1), given.whole("num-attention-heads", 1)
    each = given.whole("make-vocab-size-divisible-by", 128) * given.whole("tensor-model-parallel-size", 1)
    gated, rms = given.says("swiglu"), given.get("normalization") == "RMSNorm"
    made = gpt(
        layers=given.whole("num-layers", 1),
        hidden=hidden,
        heads=heads,
        kv_heads=given.whole("num-query-groups", heads) if given.says("group-query-attention") else heads,
        head_dim=given.whole("kv-channels", hidden // heads),
        vocab=-(-given.whole("vocab-size", 50257) // each) * each,
        ffn=given.whole("ffn-hidden-size", 4 * hidden),
        gated=gated,
        tied=not given.says("untie-embeddings-and-output-weights"),
        bias=not given.says("disable-bias-linear"),
        rms=rms,
        positions=given.whole("max-position-embeddings", 1024),
        learned_positions=given.get("position-embedding-type") != "rope",
        experts=given.whole("num-experts", 0),
        topk=given.whole("moe-router-topk", 2),
        expert_ffn=given.whole("moe-ffn-hidden-size", given.whole("ffn-hidden-size", 4 * hidden)),
        shared_ffn=given.whole("moe-shared-expert-intermediate-size", 0),
    )
    if not given.says("qk-layernorm"):
        return made
    width = given.whole("kv-channels", hidden // heads)
    norms = tuple(Norm(width, rms=rms, bias=not rms, over=heads, name=name) for name in ("query", "key"))
    block = made.blocks[0]
    attention = replace(block.attention, norms=norms)  # type: ignore[type-var]
    return replace(made, blocks=(replace(block, attention=attention),) * made.layers)


def _setup(given: _Arguments, devices: int) -> Setup:
    tp, pp, cp = (given.whole(f"{axis}-parallel-size", 1) for axis in ("tensor-model", "pipeline-model", "context"))
    layers, chunks = given.whole("num-layers", 1), given.whole("num-virtual-stages-per-pipeline-rank", 1)
    if "num-layers-per-virtual-pipeline-stage" in given and pp > 1:
        chunks = layers // pp // given.whole("num-layers-per-virtual-pipeline-stage", 1)
    ep, dp = given.whole("expert-model-parallel-size", 1), devices // (tp * pp * cp)
    copies = given.whole("num-distributed-optimizer-instances", 1)
    drops = [float(given.get(f"{name}-dropout", "0.1")) for name in ("hidden", "attention")]
    flash = given.get("transformer-impl") == "transformer_engine" and given.get("attention-backend") != "unfused"
    return Setup(
        seq=given.whole("seq-length", 1),
        batch=given.whole("global-batch-size", 1),
        micro=given.whole("micro-batch-size", 1),
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        ep=ep,
        etp=given.whole("expert-tensor-parallel-size", tp) if "num-experts" in given else 1,
        chunks=chunks,
        schedule="interleaved" if chunks > 1 else "1f1b",
        sp=given.says("sequence-parallel"),
        zero=3 if given.says("use-megatron-fsdp") else int(given.says("use-distributed-optimizer")),
        shards=dp * cp // copies if copies > 1 else 0,
        recompute=_again(given),
        precision="fp8" if "fp8-format" in given else "fp16" if given.says("fp16") else "bf16",
        flash=flash,
        optimizer=given.get("optimizer", "adam"),
        dropout=max(drops) > 0,
        fused_loss=given.says("cross-entropy-loss-fusion"),
        stage_layers=_stage_layers(given, layers, pp * chunks),
    )


def _stage_layers(given: _Arguments, layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each stage, where the first or the last has its own number or an end of the model counts as one."""
    ends = [given.says(f"account-for-{end}-in-pipeline-split") for end in ("embedding", "loss")]
    if any(ends):
        each = [(layers + sum(ends)) // stages] * stages
        return (each[0] - ends[0], *each[1:-1], each[-1] - ends[1])
    first, last = (given.get(f"decoder-{end}-pipeline-num-layers") for end in ("first", "last"))
    if first is None or last is None:
        return ()
    rest = (layers - int(first) - int(last)) // (stages - 2)
    return (int(first), *[rest] * (stages - 2), int(last))


def _again(given: _Arguments) -> str | tuple[str, ...]:
    kind = given.get("recompute-granularity", "none")
    if kind != "selective":
        return kind
    modules = given.get("recompute-modules", "core_attn").strip("[]").replace(",", " ").split()
    return tuple(name for module in modules for name in AGAIN.get(module, ()))


def _stack(given: _Arguments) -> Stack:
    """Megatron-Core; where products do not add to gradients, each gradient passes by itself."""
    base = stack("megatron-core")
    adds = not given.says("no-gradient-accumulation-fusion")
    return base if adds else replace(base, passing_bytes=2.0, scratch_bytes=0.0)
