"""Switches of messages that hide behind compute, in words of Megatron-LM and Megatron-Bridge, and read from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from penstock.calibrate.megatron import Arguments
from penstock.core.setup import Setup
from penstock.core.switches import SWITCHES, axis_of
from penstock.export.written import Left

TP, EP, P2P = "tp-comm-overlap", "overlap-moe-expert-parallel-comm", "no-overlap-p2p-communication"
"""Arguments of Megatron-LM."""
GATHERED = "all_gather"
"""The value of ``--cp-comm-type`` by which keys are gathered."""


def switch_words(setup: Setup) -> Iterator[tuple[str, ...]]:
    """Give the arguments of Megatron-LM that say what is not as it is without them."""
    if setup.tp_overlap == "on" and setup.tp > 1:
        yield (f"--{TP}",)
    if setup.ep_overlap == "on" and setup.ep > 1:
        yield (f"--{EP}",)
    if setup.pp_overlap == "off" and setup.chunks > 1:
        yield (f"--{P2P}",)


def switch_keys(setup: Setup, table: str) -> dict[str, bool]:
    """Return the keys of Megatron-Bridge that say so, in its table ``comm_overlap`` or ``model``."""
    found: dict[str, bool] = {}
    if setup.tp_overlap != "own" and setup.tp > 1:
        found[f"{table}.tp_comm_overlap"] = setup.tp_overlap == "on"
    if setup.ep_overlap != "own" and setup.ep > 1:
        found[f"{table}.overlap_moe_expert_parallel_comm"] = setup.ep_overlap == "on"
    if setup.ep_overlap == "on" and setup.ep > 1:
        found["model.moe_shared_expert_overlap"] = False
    if setup.pp_overlap == "off" and setup.chunks > 1:
        found |= {f"{table}.overlap_p2p_comm": False, f"{table}.batch_p2p_comm": True}
    return found


def idle(setup: Setup, names: Iterable[str]) -> Iterator[Left]:
    """Give those of some switches that are turned while their axis has one rank."""
    for name in names:
        if getattr(setup, name) != "own" and getattr(setup, axis_of(name)) == 1:
            yield Left(name, f"it has no meaning with {axis_of(name)}=1")


def switches_left(setup: Setup) -> Iterator[Left]:
    """Give the switches that say nothing in a setup of Megatron-LM."""
    yield from idle(setup, SWITCHES)
    if setup.pp_overlap != "own" and setup.pp > 1 and setup.chunks == 1:
        yield Left("pp_overlap", "messages between stages hide with chunks of 2 or more alone")


def switch_problems(setup: Setup, predictors: int, experts_again: bool) -> dict[str, bool]:
    """Return why Megatron-Core cannot train with switches as they are, and whether each is so.

    Args:
        setup: all of it.
        predictors: multi-token heads that are trained.
        experts_again: whether whole experts are made again.
    """
    pairs = setup.ep_overlap == "on" and setup.ep > 1
    return {
        "ep_overlap=on goes with bf16 or fp16, and 8-bit recipes over them, not fp32": pairs
        and setup.precision == "fp32",
        "ep_overlap=on goes with one multi-token head at most": pairs and predictors > 1,
        "ep_overlap=on does not go with experts made again": pairs and experts_again,
        f"pp_overlap=off with chunks={setup.chunks} needs pp above 2": setup.pp_overlap == "off"
        and setup.chunks > 1
        and setup.pp == 2,
    }


def switches_said(given: Arguments) -> dict[str, Any]:
    """Return the switches that Megatron-LM's arguments say; what they do not say is the framework's own."""
    found = {field: "on" if given.says(word) else "off" for field, word in (("tp_overlap", TP), ("ep_overlap", EP))
             if word in given}  # fmt: skip
    if given.says(P2P):
        found["pp_overlap"] = "off"
    if given.get("cp-comm-type", "").replace("-", "_") == GATHERED:
        found["cp_overlap"] = "off"
    return found
