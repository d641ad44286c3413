"""The noun ``Failures``: how often training is interrupted, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from math import inf
from typing import Any

from penstock.core.tables import read_toml
from penstock.core.words import suggest
from penstock.units import HOUR_S

MINUTE_S = 60.0
MB = 1e6
ABOVE_ZERO = ("mtbf_s", "write_bytes_per_s", "load_bytes_per_s", "every_s")
SHARES = ("node_share", "slow_share")
"""All other figures may be 0 or more."""


@cache
def table() -> dict[str, Any]:
    """Return ``data/failures.toml`` as it stands."""
    return read_toml(files("penstock") / "data" / "failures.toml")


def default(name: str) -> Any:
    """Return a default by its name in that file, as it stands there."""
    return table()["defaults"][name]["value"]


def published_mtbf_s(name: str) -> float:
    """Return the mean time between interruptions of one device that a published rate gives.

    Raises:
        ValueError: no rate is called so.

    >>> round(published_mtbf_s("llama-3-405b") / HOUR_S)
    50677
    """
    rates = table()["rates"]
    if name not in rates:
        raise ValueError(f"no published rate of failures is called {name!r}; {suggest(name, rates)}")
    rate = rates[name]
    hours = rate["hours_between"] if "hours_between" in rate else rate["days"] * 24 / rate["interruptions"]
    return float(rate["devices"] * hours * HOUR_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often training is interrupted and what that takes; defaults are published figures.

    Args:
        mtbf_s: mean time between two interruptions of one device; a job on n devices has n times as many.
        restart_s: from an interruption until all processes run again: detection, another node, start.
        load_s: to read the checkpoint; ``None``: by ``load_bytes_per_s``.
        warm_up_s: from then until steps are as fast as before.
        write_s: until a checkpoint is written; ``None``: by ``write_bytes_per_s``.
        write_bytes_per_s, load_bytes_per_s: of one device, all at once, to and from storage that outlives nodes.
        stop_s: of that, what training stands still; ``None``: all of it.
        every_s: training between two checkpoints; ``None``: as is best.
        spares: nodes that wait to stand in; ``None``: as many as make a training cheapest, all nodes costing the same.
        node_share: share of interruptions that take a node away.
        repair_s: until such a node is back.
        slow_share: share of nodes that are slow at a time.
        slow_by: by how much their steps take longer, and with them everybody's.
    """

    mtbf_s: float = field(default_factory=lambda: published_mtbf_s(default("rate")))
    restart_s: float = field(default_factory=lambda: default("restart_minutes") * MINUTE_S)
    load_s: float | None = None
    warm_up_s: float = field(default_factory=lambda: default("warm_up_minutes") * MINUTE_S)
    write_s: float | None = None
    write_bytes_per_s: float = field(default_factory=lambda: default("write_mb_per_s") * MB)
    load_bytes_per_s: float = field(default_factory=lambda: default("load_mb_per_s") * MB)
    stop_s: float | None = None
    every_s: float | None = None
    spares: int | None = None
    node_share: float = field(default_factory=lambda: default("node_share"))
    repair_s: float = field(default_factory=lambda: default("repair_hours") * HOUR_S)
    slow_share: float = 0.0
    slow_by: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None:
                continue
            if each.name in SHARES:
                if not 0 <= value <= 1:
                    raise ValueError(f"{each.name}={value:g} is no share; use 0 to 1")
            elif not 0 <= value < inf or (value == 0 and each.name in ABOVE_ZERO):
                least = "above 0" if each.name in ABOVE_ZERO else "0 or more"
                raise ValueError(f"{each.name}={value:g} must be {least}, and finite")
        if bool(self.slow_share) != bool(self.slow_by):
            raise ValueError(
                f"slow_share={self.slow_share:g}, slow_by={self.slow_by:g}: "
                "say which share of nodes is slow, and by how much"
            )
