"""What stands for a framework that is not known: the known one that is most alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from penstock.calibrate.rows import whole
from penstock.cost.stack import Stack, stack, stacks

LIKE = {
    "maxtext": r"\bjax\b|t5x|easylm|levanter|praxis|xla|\btpu",
    "llm-foundry": "composer|mosaic",
    "pytorch": r"fsdp|torchtune|fairscale|olmo|lit-?gpt|lightning",
    "transformers": "hugging|axolotl|llama-?factory|unsloth|accelerate|swift|xtuner|trl",
}
"""Frameworks that stand for others, by what names of these have in them."""
OWN = ("maxtext", "llm-foundry")
"""Those of them that stand for others whatever shards their weights."""
UNKNOWN_SPREAD = 0.3
"""Of runs around a prediction for a framework that is not known."""


def framework_of(row: Mapping[str, str], guessed: list[str]) -> Stack:
    """Return the framework of a row; for one that is not known, the most alike with a wider interval, and the guess in
    words.

    >>> guesses = []
    >>> framework_of({"system": "FlagScale on Megatron-LM 0.6"}, guesses).name, guesses
    ('megatron-core', ["framework 'FlagScale on Megatron-LM 0.6' is taken to be like megatron-core"])
    """
    system = row.get("system", "")
    try:
        return stack(system)
    except ValueError:
        like = stack(_likely(system.lower(), row))
    said = f"framework {system!r}" if system else "framework, which is not said,"
    guessed.append(f"{said} is taken to be like {like.name}")
    return replace(like, spread=max(like.spread, UNKNOWN_SPREAD))


def _likely(system: str, row: Mapping[str, str]) -> str:
    """A known name within the given one, the longest; else by how the run is split: only Megatron and its like split
    layers, and shards of weights are PyTorch's."""
    known = {name: one.name for one in stacks().values() for name in (one.name, *one.aliases)}
    within = [name for name in known if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", system)]
    if within:
        return known[max(within, key=len)]
    if any((whole(row, axis) or 1) > 1 for axis in ("pp", "cp", "ep")):
        return "megatron-core"
    like = next(
        (name for name, words in LIKE.items() if re.search(words, f"{system} {row.get('device', '')}", re.I)), ""
    )
    if like in OWN or (like and not row.get("zero_stage_or_fsdp")):
        return like
    if (whole(row, "tp") or 1) > 1:
        return "megatron-core"
    return "deepspeed" if "zero" in row.get("zero_stage_or_fsdp", "").lower() else "pytorch"
