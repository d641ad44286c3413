"""How much of messages shows, by switches of a setup and what a framework does with them."""

from __future__ import annotations

from typing import Any

from penstock.core.switches import SWITCHES, axis_of
from penstock.cost.stack import Stack

SHOWN = {"tp": "tp_shown", "ep": "ep_shown", "cp": "cp_shown", "pp": "p2p_shown"}
"""Fields of a framework by axis: the share that shows as it is unless told otherwise."""


def on(stack: Stack, axis: str, asked: str) -> bool:
    """Return whether an axis's switch is on, if it is asked to be ``on``, ``off`` or as the framework has it."""
    return axis in stack.hides if asked == "own" else asked == "on"


def turned(stack: Stack, axis: str, asked: str) -> bool:
    """Return whether a switch is other than as the framework has it."""
    return on(stack, axis, asked) != (axis in stack.hides)


def shown(stack: Stack, axis: str, asked: str, part: float = 1.0) -> float:
    """Return the share of an axis's messages that shows; the switch has to do with a ``part`` of them.

    >>> from penstock.cost.stack import stack
    >>> [round(shown(stack("megatron-core"), "tp", asked), 3) for asked in ("own", "on", "off")]
    [0.57, 0.342, 0.57]
    """
    usual = float(getattr(stack, SHOWN[axis]))
    if not turned(stack, axis, asked):
        return usual
    if axis in ("cp", "pp"):
        return 1.0 if asked == "off" else usual
    hides = stack.tp_hides if axis == "tp" else stack.ep_hides
    if asked == "on":
        return usual * (1 - part * hides)
    return usual + part * (min(1.0, usual / (1 - hides)) - usual)


def shown_fields(stack: Stack, axis: str, asked: str) -> tuple[str, ...]:
    """Return the fields of a framework that say so."""
    fields = (SHOWN[axis],)
    return (*fields, f"{axis}_hides") if axis in ("tp", "ep") and turned(stack, axis, asked) else fields


def check_switches_of(stack: Stack, setup: Any) -> None:
    """Do nothing where a framework has the switches that a setup turns.

    Raises:
        ValueError: it lacks one.
    """
    for name, what in SWITCHES.items():
        axis = axis_of(name)
        asked = getattr(setup, name)
        if axis not in stack.switches and turned(stack, axis, asked):
            has = " and ".join(f"{one}_overlap" for one in stack.switches) or "none"
            state = "hidden" if axis in stack.hides else "shown"
            raise ValueError(
                f"{name}={asked}: {stack.name} has no switch for {what}, which are {state}; use {name}=own (it has "
                f"{has}), or another --framework"
            )
