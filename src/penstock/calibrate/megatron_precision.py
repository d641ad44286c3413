"""Precisions in Megatron-LM's words: recipes, what they leave wide, weights in a recipe's bits, and states of Adam.

Names as in ``megatron/core/transformer/transformer_config.py`` and ``megatron/training/arguments.py`` (August 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.core.recipes import UNNAMED, WIDE

if TYPE_CHECKING:
    from penstock.calibrate.megatron import Arguments

RECIPES: Mapping[str, tuple[str, str]] = {
    "fp8-delayed": ("hybrid", "delayed"),
    "fp8-current": ("hybrid", "tensorwise"),
    "fp8-block": ("e4m3", "blockwise"),
    "mxfp8": ("e4m3", "mxfp8"),
}
"""Recipes in 8 bits, and what ``--fp8-format`` and ``--fp8-recipe`` say of each."""
FP4 = ("e2m1", "nvfp4")
"""The same of ``nvfp4``, for ``--fp4-format`` and ``--fp4-recipe``."""
USUAL = "delayed"
"""The recipe that is meant where ``--fp8-recipe`` is missing."""
MOMENTS = {"adam-bf16": "bf16", "adam-fp8": "fp8"}
"""Values of ``--exp-avg-dtype`` and ``--exp-avg-sq-dtype`` for an optimizer of ours."""


def precision_fields(given: Arguments) -> dict[str, Any]:
    """Return fields of a setup: precision and what belongs to it, and the optimizer."""
    precision = _precision(given)
    found: dict[str, Any] = {"precision": precision, "optimizer": _optimizer(given)}
    if precision in WIDE:
        return found
    if given.says("first-last-layers-bf16"):
        found |= {
            f"wide_{ours}": given.whole(f"num-layers-at-{theirs}-in-bf16", 1)
            for ours, theirs in (("first", "start"), ("last", "end"))
        }
    gathers = [given.says(f"{bits}-param-gather") for bits in UNNAMED]
    return found | {"low_weights": any(gathers) and precision not in UNNAMED}


def _precision(given: Arguments) -> str:
    if "fp4-format" in given:
        return "nvfp4" if given.get("fp4-recipe", FP4[1]) == FP4[1] else "fp4"
    if "fp8-format" in given:
        said = given.get("fp8-recipe", USUAL)
        return next((ours for ours, (_, theirs) in RECIPES.items() if theirs == said), "fp8")
    return next((name for name in ("fp16", "bf16") if given.says(name)), "fp32")


def _optimizer(given: Arguments) -> str:
    named, moments = given.get("optimizer", "adam"), given.get("exp-avg-dtype", "fp32")
    return next((ours for ours, theirs in MOMENTS.items() if named == "adam" and theirs == moments), named)
