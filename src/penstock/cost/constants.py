"""Constants of the time model, read from ``data/constants.toml``, where each has its source.

Those of a part have a meaning and the range within which a fit looks for them; levels have an error, and the number of
measured shapes that they were fitted to, if they were.
"""

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
def levels(part: str) -> Mapping[str, tuple[float, float, bool]]:
    """Return architecture, or architecture and precision -> (level, relative error, whether measured) of one part.

    A level is the reached rate over what the structured model says. Its error is the mean over measured shapes that no
    constant was fitted to, else an estimate.
    ``"default"`` stands for all others.
    """
    return {
        name: (float(facts["level"]), float(facts["error"]), "shapes" in facts)
        for name, facts in table()["levels"][part].items()
    }
