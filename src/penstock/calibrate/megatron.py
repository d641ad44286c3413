"""Megatron-LM's launch arguments by their names: what they say of a model and of a setup.

Names as in ``megatron/training/arguments.py`` and the dataclasses that it makes arguments of (August 2026).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from penstock.calibrate.megatron_precision import precision_fields
from penstock.calibrate.printed import OFFLOADED
from penstock.core.architecture import Architecture
from penstock.core.config import gpt
from penstock.core.mesh import ORDER, STAGES_NEAR
from penstock.core.parts import Norm
from penstock.core.setup import even

N = TypeVar("N", int, float)
AGAIN = {
    "core_attn": ("attention.core",),
    "layernorm": ("attention_norm", "mlp_norm"),
    "moe_act": ("experts.activation",),
    "mlp": ("mlp",),
    "moe": ("experts",),
    "shared_experts": ("shared",),
    "mla_up_proj": ("attention.query_up", "attention.kv_up"),
}
"""Modules of the selective recompute, and our operators."""
SHORT = {"recompute-activations": "selective", "checkpoint-activations": "full"}
"""Flags that stand for ``--recompute-granularity``, today's and that of older versions."""
SHARDING = ("no_shard", "optim", "optim_grads", "optim_grads_params")
"""Values of ``--data-parallel-sharding-strategy`` by ZeRO's stage."""
PADDED = 128
"""A vocabulary is filled up to a multiple of it times the tensor-parallel ranks, unless told otherwise."""
LACKS = {
    "multi-latent-attention": "latent attention",
    "hybrid-layer-pattern": "hybrid layers",
    "mtp-num-layers": "multi-token heads",
}
"""Arguments that make a model which ``model_of`` does not, and what it has."""


class Arguments(dict[str, str]):
    """Launch arguments by name, without dashes in front; a flag has the value ``true``."""

    def whole(self, name: str, missing: int) -> int:
        """A whole number.

        Raises:
            ValueError: it is none.
        """
        return self._read(int, name, missing, "whole number")

    def share(self, name: str, missing: float) -> float:
        """A number, whole or not.

        Raises:
            ValueError: it is none.
        """
        return self._read(float, name, missing, "number")

    def _read(self, of: Callable[[str | float], N], name: str, missing: N, wanted: str) -> N:
        value = self.get(name)
        try:
            return missing if value is None else of(value)
        except ValueError:
            raise ValueError(f"--{name} {value} is no {wanted}") from None

    def says(self, name: str) -> bool:
        """Whether a flag is there; a variable behind it is not its value."""
        value = self.get(name, "false")
        return value == "true" or value.startswith("$")


def model_of(given: Arguments) -> Architecture:
    """GPT as the arguments say; a vocabulary is filled up until ranks and kernels divide it.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    hidden, heads = given.whole("hidden-size", 1), given.whole("num-attention-heads", 1)
    each = given.whole("make-vocab-size-divisible-by", PADDED) * given.whole("tensor-model-parallel-size", 1)
    gated, rms = given.says("swiglu"), given.get("normalization") == "RMSNorm"
    width = given.whole("kv-channels", hidden // heads)
    made = gpt(
        layers=given.whole("num-layers", 1),
        hidden=hidden,
        heads=heads,
        kv_heads=given.whole("num-query-groups", heads) if given.says("group-query-attention") else heads,
        head_dim=width,
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
        dense_layers=dense_layers(given) or 0,
    )
    if not given.says("qk-layernorm"):
        return made
    norms = tuple(Norm(width, rms=rms, bias=not rms, over=heads, name=name) for name in ("query", "key"))
    normed = tuple(
        replace(block, attention=replace(block.attention, norms=norms))  # type: ignore[type-var]
        for block in made.blocks
    )
    return replace(made, blocks=normed)


def dense_layers(given: Arguments) -> int | None:
    """How many layers have no experts, where they are the first ones; ``None`` where they lie in another way.

    >>> dense_layers(Arguments({"moe-layer-freq": "([0]*3+[1]*29)"})), dense_layers(Arguments({"moe-layer-freq": "2"}))
    (3, None)
    """
    said = re.fullmatch(r"1|\(?(?:\[0\]\*(\d+)\+)?\[1\]\*\d+\)?", given.get("moe-layer-freq", "1").replace(" ", ""))
    return int(said[1] or 0) if said else None


def fields_of(given: Arguments, devices: int) -> dict[str, Any]:
    """Fields of a setup, by name, on so many devices.

    Raises:
        ValueError: a value that cannot be read.
    """
    tp, pp, cp = (given.whole(f"{axis}-parallel-size", 1) for axis in ("tensor-model", "pipeline-model", "context"))
    layers, micro = given.whole("num-layers", 1), given.whole("micro-batch-size", 1)
    sizes = layout_sizes(given["pipeline-model-parallel-layout"]) if "pipeline-model-parallel-layout" in given else ()
    if len(sizes) % pp:
        raise ValueError(f"--pipeline-model-parallel-layout has {len(sizes)} stages; give a multiple of {pp}")
    chunks = len(sizes) // pp if sizes else _chunks(given, layers, pp)
    dp = max(1, devices // (tp * pp * cp))
    copies = given.whole("num-distributed-optimizer-instances", 1)
    return {
        "seq": given.whole("seq-length", 1),
        "batch": given.whole("global-batch-size", micro * dp),
        "micro": micro,
        "tp": tp,
        "cp": cp,
        "pp": pp,
        "dp": dp,
        "ep": given.whole("expert-model-parallel-size", 1),
        "etp": given.whole("expert-tensor-parallel-size", tp) if "num-experts" in given else 1,
        "chunks": chunks,
        "schedule": "interleaved" if chunks > 1 else "1f1b",
        "sp": given.says("sequence-parallel"),
        **_context(given, cp),
        "zero": _zero(given),
        "shards": dp * cp // copies if copies > 1 else 0,
        "recompute": "none" if (first := _block_layers(given)) else _again(given),
        "recompute_layers": first,
        "offload": _offload(given, layers),
        "optimizer_offload": given.share("optimizer-offload-fraction", 1.0) * given.says("optimizer-cpu-offload"),
        **precision_fields(given),
        "multi_token": given.whole("mtp-num-layers", 0) > 0,
        "order": STAGES_NEAR if given.says("use-tp-pp-dp-mapping") else ORDER,
        "stage_layers": _uneven(sizes, layers) if sizes else _stage_layers(given, layers, pp, chunks),
        **_kernels(given),
    }


def _context(given: Arguments, cp: int) -> dict[str, Any]:
    """How context parallelism talks: by heads, in a ring, or by heads among the first of its hierarchical sizes."""
    how, sizes = given.get("cp-comm-type", "p2p"), given.get("hierarchical-context-parallel-sizes", "")
    if how != "a2a+p2p":
        return {"cp_heads": how == "a2a", "cp_inner": 0}
    found = [int(word) for word in re.findall(r"\d+", sizes)]
    if len(found) != 2 or found[0] * found[1] != cp:
        raise ValueError(
            f"--hierarchical-context-parallel-sizes {sizes or 'is missing'}: a2a+p2p takes two sizes, whose product is "
            f"the context-parallel size {cp}"
        )
    return {"cp_heads": 1 < found[0] == cp, "cp_inner": found[0] if 1 < found[0] < cp else 0}


def _kernels(given: Arguments) -> dict[str, bool]:
    """Which kernels run, and how they are launched."""
    drops = [given.share(f"{name}-dropout", 0.1) for name in ("hidden", "attention")]
    modern = given.get("transformer-impl", "transformer_engine") == "transformer_engine"
    return {
        "flash": modern and given.get("attention-backend") != "unfused",
        "graphs": given.get("cuda-graph-impl", "none") != "none" or given.says("enable-cuda-graph"),
        "dropout": max(drops) > 0,
        "fused_loss": given.says("cross-entropy-loss-fusion"),
    }


def layout_sizes(layout: str) -> tuple[int, ...]:
    """Layers of each stage by ``--pipeline-model-parallel-layout``.

    Raises:
        ValueError: it is no layout.

    >>> layout_sizes("Et|(tt|)*2,tL")
    (1, 2, 2, 1)
    """
    plain = layout.replace(",", "").replace(" ", "")
    plain = re.sub(r"\(([^)]+)\)\*(\d+)", lambda found: found[1] * int(found[2]), plain)
    plain = re.sub(r"(.)\*(\d+)", lambda found: found[1] * int(found[2]), plain)
    if not plain or set(plain) - set("EtmL|"):
        raise ValueError(f"--pipeline-model-parallel-layout {layout}: write E, t, m, L and |, for example 'Et|ttL'")
    return tuple(stage.count("t") for stage in plain.split("|"))


def layout_of(sizes: tuple[int, ...], mtp: int = 0) -> str:
    """The layout of stages with so many layers, embedding first and the loss last, behind ``mtp`` multi-token heads.

    >>> layout_of((1, 2, 2, 1))
    'Et|tt|tt|tL'
    """
    stages = ["t" * size for size in sizes]
    stages[0] = "E" + stages[0]
    stages[-1] += "m" * mtp + "L"
    return "|".join(stages)


def _chunks(given: Arguments, layers: int, pp: int) -> int:
    if "num-layers-per-virtual-pipeline-stage" in given and pp > 1:
        return layers // pp // given.whole("num-layers-per-virtual-pipeline-stage", 1)
    return given.whole("num-virtual-stages-per-pipeline-rank", 1)


def _uneven(sizes: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """These sizes, or none where they are those of an even split."""
    return () if sizes == even(layers, len(sizes)) else sizes


def _zero(given: Arguments) -> int:
    if not given.says("use-megatron-fsdp"):
        return int(given.says("use-distributed-optimizer"))
    named = given.get("data-parallel-sharding-strategy", SHARDING[-1])
    return SHARDING.index(named) if named in SHARDING else 3


def _stage_layers(given: Arguments, layers: int, pp: int, chunks: int) -> tuple[int, ...]:
    """Layers of each stage, where an end of the model counts as one or the first or the last rank has its own number,
    which its chunks share."""
    ends = [given.says(f"account-for-{end}-in-pipeline-split") for end in ("embedding", "loss")]
    if any(ends):
        each = [(layers + sum(ends)) // (pp * chunks)] * (pp * chunks)
        return (each[0] - ends[0], *each[1:-1], each[-1] - ends[1])
    first, last = (given.whole(f"decoder-{end}-pipeline-num-layers", 0) for end in ("first", "last"))
    if not first and not last:
        return ()
    between = max(0, pp - bool(first) - bool(last))
    ranks = [first] * bool(first) + [(layers - first - last) // max(1, between)] * between + [last] * bool(last)
    return tuple(rank // chunks for rank in ranks) * chunks


def _offload(given: Arguments, layers: int) -> float | tuple[str, ...]:
    """What waits in host memory: inputs of modules, or all of some layers, whose share of all layers it is."""
    if given.says("fine-grained-activation-offloading"):
        modules = given.get("offload-modules", "").strip("[]").replace(",", " ").split()
        return tuple(dict.fromkeys(name for module in modules for name in OFFLOADED.get(module, ())))
    return given.whole("cpu-offloading-num-layers", 0) / layers


def _block_layers(given: Arguments) -> tuple[int, ...]:
    """How many first layers of each stage are made again in full, where not all are (``--recompute-method block``)."""
    block = _again(given) == "full" and given.get("recompute-method") == "block"
    return (given.whole("recompute-num-layers", 1),) if block else ()


def _again(given: Arguments) -> str | tuple[str, ...]:
    short = [kind for name, kind in SHORT.items() if given.says(name)]
    kind = given.get("recompute-granularity", short[0] if short else "none")
    if kind != "selective":
        return kind
    modules = given.get("recompute-modules", "core_attn").strip("[]").replace(",", " ").split()
    return tuple(name for module in modules for name in AGAIN.get(module, ()))
