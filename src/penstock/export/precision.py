"""A setup's precision in the words of Megatron-Core: recipes, what they leave wide, and states of Adam."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.calibrate.megatron_precision import FP4, MOMENTS, RECIPES
from penstock.core.cluster import Cluster
from penstock.core.recipes import UNNAMED
from penstock.core.setup import Setup
from penstock.export.written import Left

BLOCKS = "adam-8bit"
"""The optimizer whose moments have a scale for each block; Megatron-Core has one for a tensor."""


def precision_of(cluster: Cluster, setup: Setup) -> str:
    """Return the precision that is written: for bits without a recipe, the recipe that suits the device."""
    if setup.precision not in UNNAMED:
        return setup.precision
    if setup.precision == "fp4":
        return "nvfp4"
    return "mxfp8" if cluster.device.architecture.startswith("blackwell") else "fp8-current"


def moments_of(setup: Setup) -> str | None:
    """Return in what moments of Adam are kept, ``None`` for those in fp32."""
    return MOMENTS.get("adam-fp8" if setup.optimizer == BLOCKS else setup.optimizer)


def precision_problems(layers: int, setup: Setup) -> dict[str, bool]:
    """Return why Megatron-Core has no such precision for a model of so many layers, and whether each is so."""
    wide = setup.wide_first > 0 or setup.wide_last > 0
    most = layers // setup.pp
    return {
        f"it leaves at most the {most} blocks of a pipeline rank in bf16 at either end": (
            max(setup.wide_first, setup.wide_last) > most
        ),
        "it has no rowwise scaling; use fp8-current or fp8-block": setup.precision == "fp8-row",
        "delayed scaling leaves no blocks in bf16; use fp8-current": setup.precision == "fp8-delayed" and wide,
        "weights in 8 or 4 bits need ZeRO 1 to 3": setup.low_weights and setup.zero == 0,
        f"with weights in 8 bits the optimizer is offloaded by fp8-delayed alone, not {setup.precision}": (
            setup.low_weights and setup.optimizer_offload > 0 and setup.precision != "fp8-delayed"
        ),
    }


def precision_left(setup: Setup) -> Iterator[Left]:
    """Give what of a setup's precision is written only nearly."""
    if setup.precision in UNNAMED:
        recipe = f"{'8' if setup.precision == 'fp8' else '4'}-bit recipe"
        yield Left("precision", f"which {recipe} is for you to choose; the one that suits the device is written")
    if setup.optimizer == BLOCKS:
        yield Left("optimizer", "moments in 8 bits have one scale a tensor, not one for each block")


def precision_words(cluster: Cluster, setup: Setup) -> Iterator[tuple[str, ...]]:
    """Give Megatron-LM's arguments for the precision of products."""
    precision = precision_of(cluster, setup)
    if precision != "fp32":
        yield ("--fp16",) if precision == "fp16" else ("--bf16",)
    if precision in RECIPES:
        form, recipe = RECIPES[precision]
        yield "--fp8-format", form
        yield "--fp8-recipe", recipe
    elif precision == "nvfp4":
        form, recipe = FP4
        yield "--fp4-format", form
        yield "--fp4-recipe", recipe
    if setup.wide_first or setup.wide_last:
        yield ("--first-last-layers-bf16",)
        yield "--num-layers-at-start-in-bf16", str(setup.wide_first)
        yield "--num-layers-at-end-in-bf16", str(setup.wide_last)
    if setup.low_weights:
        yield (f"--{'fp4' if precision == 'nvfp4' else 'fp8'}-param-gather",)
        if precision == "mxfp8" and setup.zero == 1:
            yield ("--reuse-grad-buf-for-mxfp8-param-ag",)
