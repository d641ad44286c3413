"""What stands for a layout that a row does not say: that which the planner would take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from penstock.calibrate.rows import whole
from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.predict import predict
from penstock.search.choice import Choice
from penstock.search.planner import HEADROOM, first_choice
from penstock.search.space import Space
from penstock.search.wishes import SEARCHED

SAID = {
    "tp": "tp", "cp": "cp", "pp": "pp", "dp": "dp", "ep": "ep", "micro": "micro_batch", "chunks": "vpp", "sp": "sp",
    "zero": "zero_stage_or_fsdp", "recompute": "recompute", "schedule": "schedule",
}  # fmt: skip
"""Fields of a setup that a row's cells say, and their columns."""
NUMBERS = ("tp", "cp", "pp", "dp", "ep", "micro_batch", "vpp")
"""Those of these columns that hold numbers; 0 says nothing."""
GUESSES = ("micro_batch=1", "zero=0", "recompute=", "sp=", "schedule 1F1B")
"""How guesses begin that a layout stands in place of."""
SPLITS = ("tp", "cp", "pp", "dp", "zero_stage_or_fsdp")
"""Columns of which a row that says none gives no layout at all."""
LONG = 32_768
"""Tokens of a sequence from which on tables do not leave out context parallelism where there is none."""
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Setup)}
LAYOUT_SPREAD = 0.3
"""Of runs around a prediction whose layout is guessed: as for a framework that is not known."""


def laid_out(
    row: Mapping[str, str], setup: Setup, model: Architecture, cluster: Cluster, stack: Stack, guessed: list[str]
) -> Setup:
    """Return a setup with the layout that a row gives, or where it gives none, or leaves out some of it and the rest
    does not fit, with the best that a planner finds at once; what a cell says stays.

    ``guessed`` grows by the layout in words. Of a row that says some of it and has no long sequences, context
    parallelism that is left out is none.
    """
    bare, devices = says_none(row), whole(row, "devices") or setup.devices
    if not bare and (not _leaves_out(row, model) or _fits(setup, model, cluster, stack)):
        return setup
    kept = tuple((name, _said(row, setup, name, column)) for name, column in SAID.items() if _counts(row, column))
    if not bare and setup.seq < LONG and not _counts(row, "cp"):
        kept = (*kept, ("cp", 1))
    found = _planned(model, cluster, stack, setup, kept, devices)
    if found is None:
        return replace(setup, dp=devices) if bare else setup
    if "micro" not in dict(kept):
        found = _larger(found, model, cluster, stack)
    guessed[:] = [one for one in guessed if not one.startswith(GUESSES)]
    names = ("tp", "pp", "dp", *(name for name in SAID if getattr(found, name) != DEFAULTS[name]))
    words = [f"{name}={getattr(found, name)}" for name in dict.fromkeys(names) if name not in dict(kept)]
    guessed.append(f"{' '.join(words)}, as a planner would choose")
    return found


def says_none(row: Mapping[str, str]) -> bool:
    """Return whether a row gives no layout at all."""
    return not any(_counts(row, name) for name in SPLITS)


def _counts(row: Mapping[str, str], column: str) -> bool:
    return bool(whole(row, column)) if column in NUMBERS else bool(row.get(column))


def _said(row: Mapping[str, str], setup: Setup, name: str, column: str) -> Any:
    return whole(row, column) if column in NUMBERS and name != "dp" else getattr(setup, name)


def _leaves_out(row: Mapping[str, str], model: Architecture) -> bool:
    """Whether a row leaves out an axis that the model has."""
    routed = any(isinstance(block.mlp, Experts) for block in model.kinds())
    return not all(_counts(row, name) for name in ("tp", "cp", "pp", "zero_stage_or_fsdp", *("ep",) * routed))


def _fits(setup: Setup, model: Architecture, cluster: Cluster, stack: Stack) -> bool:
    try:
        return predict(model, cluster, setup, stack).fits
    except ValueError:
        return False


def _larger(setup: Setup, model: Architecture, cluster: Cluster, stack: Stack) -> Setup:
    """The same with the micro-batch doubled as often as that makes it faster and it fits: first choices have small
    ones, and short sequences gain by larger ones."""
    best = Choice.of(setup, predict(model, cluster, setup, stack))
    while True:
        try:
            more = replace(best.setup, micro=2 * best.setup.micro)
            choice = Choice.of(more, predict(model, cluster, more, stack))
        except ValueError:
            return best.setup
        if choice.headroom < HEADROOM or choice.seconds >= best.seconds:
            return best.setup
        best = choice


@lru_cache(maxsize=1024)
def _planned(
    model: Architecture,
    cluster: Cluster,
    stack: Stack,
    setup: Setup,
    kept: tuple[tuple[str, Any], ...],
    devices: int,
) -> Setup | None:
    """The best of a small part of all layouts with what is kept of them, as soon as there is one."""
    apart = {name: DEFAULTS[name] for name in SEARCHED if not name.endswith("offload")}
    fixed = {name: (value,) for name, value in kept}
    if setup.recompute_layers:
        apart |= {"recompute_layers": setup.recompute_layers}
        fixed |= {"recompute": (setup.recompute,), "recompute_layers": (setup.recompute_layers,)}
    space = Space(model, cluster, stack, replace(setup, **apart), fixed, {}, used=devices)
    try:
        found = first_choice(space, HEADROOM) or first_choice(space, 0.0)
    except ValueError:
        return None
    return found.setup if found else None
