"""Finding constants within their ranges, and the file that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Shape = Mapping[str, float]

HEAD = (
    "# Constants of the time model, SI units.",
    "# Those of aiconfigurator-core are fitted by python -m penstock.calibrate.fit_kernels; errors are the fit's.",
    "# Levels fitted on published runs: least squares in several passes, rounded, none above 1; errors are about those",
    "# of the fit (3 to 12 %). All else says in its source whether it was measured, estimated or guessed.",
)


def fit(shape: Mapping[str, Any], score: Callable[[Shape], float], source: str) -> dict[str, Any]:
    """Return the constants of one part with values that make ``score`` least, each within its range, and their source.

    By turns, one constant at a time: a pattern search.
    """
    limits = {name: range_of(facts["range"]) for name, facts in shape.items()}
    best = {name: float(facts["value"]) for name, facts in shape.items()}
    least, step, tries = score(best), 0.5, 400
    while step > 0.01 and tries > 0:
        before = least
        for name in best:
            low, high = limits[name]
            for way in (1 + step, 1 / (1 + step)):
                tries -= 1
                value = float(np.clip(best[name] * way, low, high))
                found = score({**best, name: value})
                if found < least:
                    best, least = {**best, name: value}, found
        step = step / 2 if least > before * 0.998 else step
    return {key: {**facts, "source": source, "value": float(f"{best[key]:.4g}")} for key, facts in shape.items()}


def range_of(text: str) -> tuple[float, float]:
    """Return the ends of a range as the tables write it.

    >>> range_of("1e-6 to 1e-4")
    (1e-06, 0.0001)
    """
    low, high = (float(word) for word in text.split(" to "))
    return low, high


def values(part: Mapping[str, Any]) -> dict[str, float]:
    """Return the constants of one part by name."""
    return {key: float(facts["value"]) for key, facts in part.items()}


def write(table: Mapping[str, Any], file: Path) -> None:
    """Write the constants as TOML, one a line, with what each means."""
    lines = list(HEAD)
    flat = {name: facts for name, facts in table.items() if name != "levels"}
    flat |= {f"levels.{name}": facts for name, facts in table.get("levels", {}).items()}
    for name, facts in flat.items():
        lines += ["", f"[{name}]"]
        for key, each in facts.items():
            words = ", ".join(f"{word} = {_toml(value)}" for word, value in each.items())
            lines.append(f"{_toml(key) if ' ' in key else key} = {{ {words} }}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: str | float) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
