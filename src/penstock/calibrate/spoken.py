"""What words in cells of tables mean as fields of a setup, in whatever way they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from penstock.calibrate.megatron import AGAIN
from penstock.calibrate.rows import NO, YES
from penstock.core.architecture import Architecture
from penstock.core.catalogue import catalogue
from penstock.core.device import plain
from penstock.core.recipes import precisions
from penstock.cost.stack import Stack, stacks
from penstock.schedules import SCHEDULES

MODULES = AGAIN | {
    "norm": AGAIN["layernorm"],
    "act": (*AGAIN["moe_act"], "mlp.activation"),
    "shared_expert": AGAIN["shared_experts"],
    "up_proj": AGAIN["mla_up_proj"],
}
"""Modules of Megatron-Core's selective recompute as tables write them, and our operators."""
FULL = re.compile(r"full|nothing_saveable|uniform|block|per.?layer|gradient|checkpointing|remat$")
"""Words for layers that are made again as a whole; checkpointing without more is that in every framework."""
SAVE_QKV = "save_qkv_proj"
"""A policy of MaxText that keeps results of the first products alone (its ``remat_policy``)."""
AFTER_QKV = ("attention_norm", "attention.rope", "attention.core", "attention.out", "attention.add", "mlp_norm", "mlp")
"""What it makes again."""
SAVED = re.compile(r"minimal|dots?_saveable|dots_with|save_dot|save_out|save_qkv(?!_out)")
"""Policies of JAX that keep results of products."""
PRODUCTS = ("torchtitan", "pytorch", "maxtext", "paxml")
"""Frameworks whose selective recompute keeps results of products; that of others makes attention's core again."""
WORDS = {
    "fp4": ("fp4",),
    "fp8": ("fp8", "float8", "e4m3"),
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("fp16", "float16", "half", "16-"),
    "fp32": ("fp32", "float32", "tf32", "single"),
}
"""Bits of products, and what tables write for them; the first that is there counts."""
PLAIN = NO | {"eager", "math", "naive", "native", "plain", "vanilla", "unfused", "standard"}
"""Attention with scores in memory."""
ORDERS = {
    "zb1p": "zb-h1", "zb2p": "zb-h2", "zerobubble": "zb-h1", "afab": "gpipe", "allforward": "gpipe", "dapple": "1f1b",
    "pipedreamflush": "1f1b", "loopedbfs": "breadth-first", "bfs": "breadth-first", "dualpipe": "dualpipev",
    "chimera": "1f1b",
}  # fmt: skip
"""How names of schedules begin in tables, squeezed, and ours. Fixed orders stand for those that read costs, one copy of
the weights for two."""
Fields = dict[str, Any]


def recomputed(text: str, model: Architecture, framework: Stack, stages: int, guessed: list[str]) -> Fields:
    """Return what a cell says of recompute, by fields of a setup: a policy, operators, or so many first layers of each
    of the ``stages``.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.cost.stack import stack
    >>> model, guesses = read_architecture("llama-3-8b"), []
    >>> recomputed("Full AC", model, stack("torchtitan"), 1, guesses), guesses
    ({'recompute': 'full'}, [])
    >>> recomputed("block, 4 layers", model, stack("megatron-core"), 2, guesses)["recompute_layers"]
    (4,)
    """
    if not text:
        again = framework.recompute
        guessed.append(f"recompute={again if isinstance(again, str) else ','.join(again)}")
        return {"recompute": again}
    small, known = text.lower(), "qkv_out" in text.lower()
    if small == SAVE_QKV:
        return {"recompute": AFTER_QKV}
    kind, colon, modules = small.partition(":")
    if kind in NO:
        return {"recompute": "none"}
    if known:
        return {"recompute": stacks()["maxtext"].recompute}
    if count := _layers(small, model, stages):
        return {"recompute": "none", "recompute_layers": (count,), "recompute_first": "full"}
    if kind == "selective" and colon:
        return {"recompute": _operators(modules)}
    if names := _operators(small):
        return {"recompute": names}
    if re.search(r"\bsel|\bsac\b|\bop\b", small):
        return {"recompute": "selective" if framework.name in PRODUCTS else ("attention.core",)}
    if kind in YES or kind == "all" or FULL.search(small) or re.search(r"\bac\b", small):
        if "full" not in small:
            guessed.append(f"full recompute for {text!r}")
        return {"recompute": "full"}
    guessed.append(f"selective recompute for {text!r}" + ("" if SAVED.search(small) else ", which is not known"))
    return {"recompute": "selective"}


def _operators(text: str) -> tuple[str, ...]:
    """Those of the modules that a text lists."""
    keys = re.split(r"[^a-z_]+", re.sub(r"\(.*?\)", "", text))
    return tuple(dict.fromkeys(name for key in keys for name in MODULES.get(key, ())))


def _layers(text: str, model: Architecture, stages: int) -> int:
    """How many layers of a stage are made again, where a text gives a number or a share of them; else 0."""
    each = -(-model.layers // stages)
    if said := re.search(r"(\d+) layers?\b", text):
        some = "every" in text and int(said[1]) > 1
        count = -(-each // int(said[1])) if some else int(said[1])
        return count if "dense" not in text and 0 < count < each else 0
    if said := re.search(r"(\d+) ?%", text):
        return round(each * int(said[1]) / 100) if int(said[1]) < 100 else 0
    return each // 2 if re.search(r"\bhalf\b", text) else 0


def sharded(text: str, replicas: int, per_node: int, guessed: list[str]) -> Fields:
    """Return what a cell says of ZeRO or FSDP, by fields of a setup.

    >>> sharded("Zero Stage 3", 16, 8, []), sharded("HSDP", 16, 8, []), sharded("SHARD_GRAD_OP", 16, 8, [])
    ({'zero': 3}, {'zero': 3, 'shards': 8}, {'zero': 2})
    """
    small = text.lower()
    if not text:
        guessed.append("zero=0")
        return {"zero": 0}
    if re.search(r"hsdp|hybrid", small):
        wide = re.search(r"\d+", small)
        return {"zero": 3, **_shards(int(wide[0]) if wide else per_node, replicas)}
    if said := re.search(r"(?:zero|stage|(?<![a-z])z)[-_ ]*(?:stage)?[-_ ]*([0-3])(?!\d)|^([0-3])\b", small):
        return {"zero": int(said[1] or said[2])}
    if re.search(r"shard_grad_op|optim_grads(?!_params)|zero-?offload", small):
        return {"zero": 2}
    if small in NO or re.search(r"no_shard|^ddp", small):
        return {"zero": 0}
    if re.search(r"fsdp|full_shard|optim_grads_params|zero", small):
        wide = re.search(r"fsdp ?= ?(\d+)", small)
        return {"zero": 3, **(_shards(int(wide[1]), replicas) if wide else {})}
    if re.search(r"dist\w*[-_ ]*opt|^optim$|\bos\b", small):
        return {"zero": 1}
    guessed.append(f"zero=0, since {text!r} is not known")
    return {"zero": 0}


def _shards(wide: int, replicas: int) -> Fields:
    return {"shards": wide} if 1 < wide < replicas and replicas % wide == 0 else {}


def precision(text: str, guessed: list[str]) -> str:
    """Return the precision of products that a cell says."""
    small = text.lower()
    for name, words in WORDS.items():
        if any(word in small for word in words):
            if "tf32" in small:
                guessed.append("fp32 for tf32")
            return name
    if small in precisions():
        return small
    guessed.append("precision bf16" + (f" for {text!r}" if text else ""))
    return "bf16"


def schedule_of(text: str) -> str:
    """Return the name of the schedule that a cell means; empty if it is none that is known, or many stages on a rank
    without more.

    >>> [schedule_of(words) for words in ("ZB-1p", "1F1B", "PipeDream-flush", "DualPipe", "interleaved 1F1B")]
    ['zb-h1', '1f1b', '1f1b', 'dualpipev', '']
    """
    small = _squeezed(re.split(r"[+,(;]", text)[0])
    if "interleav" in small or small.startswith("1f1bi"):
        return ""
    starts = {_squeezed(name): name for name, one in SCHEDULES.items() if one.copies == 1} | ORDERS
    mine = [start for start in starts if small.startswith(start)]
    return starts[max(mine, key=len)] if mine else ""


def stands_for_itself(text: str, name: str) -> bool:
    """Return whether a text names this schedule, not one that it stands for."""
    return _squeezed(name) in _squeezed(text)


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def flash(text: str, framework: Stack, guessed: list[str]) -> bool:
    """Return whether attention is one kernel."""
    if not text:
        guessed.append(f"flash={framework.kernels.attention}")
        return framework.kernels.attention
    return text.lower() not in PLAIN


def device_within(text: str) -> str:
    """Return the name of a device, else of a node, of which all words stand in a text with others; of several the one
    with most words, "" if there is none.

    >>> device_within("Trn1 (AWS Trainium)"), device_within("HPU Gaudi2 HL-225"), device_within("MLU590")
    ('trainium1', 'gaudi2', '')
    """
    wanted = {*plain(text).split("-")}
    for shelf in (catalogue().devices, catalogue().nodes):
        words = [({*plain(name).split("-")}, one.name) for one in shelf.values() for name in (one.name, *one.aliases)]
        if within := [(len(mine), name) for mine, name in words if mine <= wanted]:
            return max(within, key=lambda found: found[0])[1]
    return ""


def any_of(text: str, words: Sequence[str]) -> bool:
    """Return whether a text has any of some words, whatever the case of its letters."""
    return any(word in text.lower() for word in words)
