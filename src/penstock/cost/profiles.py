"""The shipped profiles: measured times by name, from ``data/costs/profiles.csv``, which states their source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

LETTERS = ("F", "I", "W", "link")
"""In this order times are written as text."""


@dataclass(frozen=True)
class Profile:
    """Times of one rank for one micro-batch, all its chunks together, and of a message; milliseconds if measured.

    Example:
        >>> profiles()["6.2B"].numbers
        (29.718, 29.444, 19.927, 0.527)
    """

    name: str
    numbers: tuple[float, float, float, float]
    """F, I, W and link."""
    ranks: int | None
    micros: int | None
    """Sizes of the measurement; ``None`` for times that nobody measured."""


def profiles() -> dict[str, Profile]:
    """Every shipped profile by its name."""
    text = (resources.files("penstock") / "data" / "costs" / "profiles.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["name"]: _profile(row) for row in rows}


def _profile(row: dict[str, str]) -> Profile:
    f, i, w, link = (float(row[letter]) for letter in LETTERS)
    ranks, micros = (int(row[key]) if row[key] else None for key in ("ranks", "micros"))
    return Profile(row["name"], (f, i, w, link), ranks, micros)
