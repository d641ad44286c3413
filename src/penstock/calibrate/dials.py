"""What a fit to measured runs may turn: constants of frameworks, and shares of rates that last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.calibrate.fitting import range_of
from penstock.cost.constants import table
from penstock.cost.stack import Stack, tables

Floats = NDArray[np.float64]
SUSTAINED = "sustained"
MARK = "fit_stacks"
"""Levels whose source says this are fitted."""
LEAST = 1e-3
"""Of the upper end of a range that begins at 0: nearer to 0 no logarithm goes."""

USUAL: Mapping[str, tuple[float, float]] = {
    "launch_s": (5e-5, 1.5),
    "micro_s": (1e-3, 1.5),
    "step_s": (1e-2, 1.5),
    "experts_s": (1e-3, 1.5),
    "fused_experts_s": (1e-3, 1.5),
    "expert_s": (1e-5, 1.0),
    "tp_shown": (0.9, 0.7),
    "ep_shown": (0.8, 0.7),
    "ep_hides": (0.37, 0.7),
    "cp_shown": (0.8, 0.7),
    "p2p_shown": (0.5, 0.7),
    "dp_hidden": (0.8, 0.5),
    "fsdp_shown": (0.1, 1.0),
    "moves": (1.4, 0.4),
    "casts": (4 / 3, 0.3),
    "routing": (3.0, 0.5),
    "fused_routing": (1.0, 0.5),
    "dropped_routing": (6.0, 0.5),
}
"""Fields of a stack that say how long things take: a usual value, and how far it may be off (one standard deviation, in
logarithms). Judgement, from what hosts, eager frameworks and collectives are known to do; runs outweigh it where they
say more. A framework that is like another is drawn to that one's value instead, as far as that one has its own. Casts:
one kernel reads 2 bytes of a value and writes a copy by rows and one by columns, 4 bytes where a plain cast moves 3."""
OWN = ("launch_s",)
"""Fields in which a framework is not drawn to the one that it is like: what the host takes for an operator is up to the
modules that a framework builds layers from (Transformer Engine's in Megatron-Core, its own in forks of older ones)."""
USUAL_SHARE = (0.85, 0.15)
"""The same of shares of rates that last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """A constant that a fit may turn.

    Args:
        owner: the framework whose table sets it, or ``SUSTAINED``.
        name: the field of a ``Stack``, or the key of a share.
        value: where it stands, SI units.
        low, high: within what it stays.
        usual, give: to where it is drawn, and how far it may go from there (one standard deviation, in logarithms).
        takers: frameworks that have it from there.
        kin: the framework to whose value of it this one is drawn, and that value; none: to what is usual.
    """

    owner: str
    name: str
    value: float
    low: float
    high: float
    usual: float
    give: float
    takers: tuple[str, ...] = ()
    kin: str = ""


def _within(text: str) -> tuple[float, float]:
    """The ends of a range of the tables, for logarithms."""
    low, high = range_of(text)
    return max(low, LEAST * high), high


def stack_dial(owner: str, name: str, value: float, takers: tuple[str, ...]) -> Dial:
    """Return the dial of a field of a framework."""
    low, high = _within(tables()["ranges"][name]["range"])
    usual, give = USUAL[name]
    known = tables()
    kin = (None if name in OWN else _owner(known, known.get(owner, {}).get("like"), name)) or ""
    if kin:
        usual = float(np.clip(known[kin][name], low, high))
    return Dial(owner=owner, name=name, value=value, low=low, high=high, usual=usual, give=give, takers=takers, kin=kin)


def of_tables() -> list[Dial]:
    """Return what the shipped tables set: fields of frameworks that say how long things take, and fitted shares.

    A 0 says that there is no such thing, and stays.
    """
    return [*_of_frameworks(tables()), *_of_shares()]


def of_stack(stack: Stack) -> list[Dial]:
    """Return all fields of a framework that say how long things take, as its own."""
    known = [field.name for field in fields(stack) if field.name in USUAL]
    return [stack_dial(stack.name, name, value, (stack.name,)) for name in known if (value := getattr(stack, name))]


def _of_frameworks(known: Mapping[str, Any]) -> Iterator[Dial]:
    for owner, own in known.items():
        for name in USUAL.keys() & own.keys() if owner != "ranges" else ():
            takers = tuple(other for other in known if other != "ranges" and _owner(known, other, name) == owner)
            if own[name]:
                yield stack_dial(owner, name, own[name], takers)


def _owner(known: Mapping[str, Any], framework: str | None, name: str) -> str | None:
    """Whose table a framework has a field from."""
    while framework is not None and name not in known[framework]:
        framework = known[framework].get("like")
    return framework


def _of_shares() -> Iterator[Dial]:
    low, high = _within(table()["about"][SUSTAINED]["range"])
    usual, give = USUAL_SHARE
    for key, facts in table()["levels"][SUSTAINED].items():
        if MARK in facts["source"]:
            value = facts["level"]
            yield Dial(owner=SUSTAINED, name=key, value=value, low=low, high=high, usual=usual, give=give)


def turned(
    dials: Sequence[Dial], values: Sequence[float] | Floats, stacks: Mapping[str, Stack]
) -> tuple[dict[str, Stack], dict[str, float]]:
    """Return the frameworks and the shares with the dials at these values."""
    shares, said = {}, {name: {} for name in stacks}  # type: dict[str, float], dict[str, dict[str, Any]]
    for dial, value in zip(dials, values, strict=True):
        if dial.owner == SUSTAINED:
            shares[dial.name] = float(value)
        for taker in dial.takers:
            said[taker][dial.name] = float(value)
    return {name: replace(stack, **said[name]) for name, stack in stacks.items()}, shares
