"""The noun ``Optimizer``: what it remembers of each parameter, and what was published of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from penstock.core.tables import made, read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer.

    Args:
        state_bytes: of its state, for a parameter.
        source: where this is from.
        gap: what was published of results beside those with a state in 32 bits, and ``gap_source`` where; empty for one
            that has that.
    """

    name: str
    state_bytes: float
    source: str
    gap: str = ""
    gap_source: str = ""


@cache
def optimizers() -> Mapping[str, Optimizer]:
    """Return all optimizers by name, as ``data/optimizers.toml`` has them."""
    tables = read_toml(files("penstock") / "data" / "optimizers.toml")
    return {name: made(Optimizer, f"optimizer {name}", table | {"name": name}) for name, table in tables.items()}


def moments_bytes(name: str) -> float:
    """Return what an optimizer remembers of each parameter, in bytes.

    >>> moments_bytes("adam")
    8.0
    """
    return optimizers()[name].state_bytes
