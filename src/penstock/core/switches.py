"""Switches of a setup: whether messages inside of blocks, and between stages, hide behind compute."""

from __future__ import annotations

from typing import Any

from penstock.core.words import suggest

SWITCHES = {
    "tp_overlap": "tensor parallel sums",
    "ep_overlap": "turns of tokens to their experts",
    "cp_overlap": "keys and values of context parallelism",
    "pp_overlap": "messages between stages",
}
"""Fields of a setup, and what they hide."""
WAYS = ("own", "on", "off")
"""Of each: as the framework does unless told otherwise, hidden, or not."""


def axis_of(name: str) -> str:
    """Return the axis of a switch: how its field begins."""
    return name.partition("_")[0]


def in_the_way(setup: Any, tp_on: Any, ep_on: Any, whole: Any) -> dict[str, Any]:
    """Return what makes switches that are on impossible, and whether each is so: of a setup, or of a grid.

    Args:
        setup: one, or many.
        tp_on, ep_on: whether ``tp_overlap`` and ``ep_overlap`` are on.
        whole: whether whole blocks are made again.
    """
    pairs = ep_on & (setup.ep > 1)  # a forward hides the messages of another micro-batch's backward, and it those of it
    return {
        "tp_overlap=on hides sums of tokens that ranks share; it needs sp": tp_on & (setup.tp > 1) & (setup.sp == 0),
        "ep_overlap=on pairs forwards with backwards whose blocks are there; use another recompute than full": pairs
        & whole,
        "ep_overlap=on pairs forwards with backwards of other chunks; with pp use chunks of 2 or more": pairs
        & (setup.pp > 1)
        & (setup.chunks == 1),
        "ep_overlap=on pairs two micro-batches, and there is one; use a smaller micro": pairs & (setup.micros == 1),
    }


def check_switches(setup: Any) -> None:
    """Do nothing where the switches of a setup can be as they are.

    Raises:
        ValueError: an unknown word, or something else of the setup is in the way.
    """
    for name in SWITCHES:
        if (value := getattr(setup, name)) not in WAYS:
            raise ValueError(f"{name}={value!r} is unknown; {suggest(value, WAYS)}")
    if setup.cp_overlap != "own" and setup.cp_turned > 1:
        raise ValueError(
            f"cp_overlap={setup.cp_overlap} is of keys in a ring; cp_heads={setup.cp_heads}, "
            f"cp_inner={setup.cp_inner} exchange heads, use cp_overlap=own or a ring alone"
        )
    whole = setup.recompute == "full" or bool(setup.recompute_layers and setup.recompute_first == "full")
    for why, so in in_the_way(setup, setup.tp_overlap == "on", setup.ep_overlap == "on", whole).items():
        if so:
            raise ValueError(why)
