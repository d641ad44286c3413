"""Constants of the time model, read from ``data/constants.toml``: each has a meaning, a source and a fitted range."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from penstock.core.tables import read_toml


@cache
def table() -> Mapping[str, Any]:
    """Return ``data/constants.toml`` as it stands: part of the model -> constant -> value, meaning, source, range."""
    return read_toml(files("penstock") / "data" / "constants.toml")


@cache
def constants(part: str) -> Mapping[str, float]:
    """Return the constants of one part of the model by name, in SI units.

    >>> sorted(constants("memory"))
    ['latency_s']
    """
    return {name: float(facts["value"]) for name, facts in table()[part].items()}


@cache
def levels(part: str) -> Mapping[str, tuple[float, float]]:
    """Return architecture, or architecture and precision -> (level, relative error) of one part of the model.

    A level is the measured rate over what the structured model says; ``"default"`` is a guess for the rest.
    """
    return {name: (float(facts["level"]), float(facts["error"])) for name, facts in table()["levels"][part].items()}
