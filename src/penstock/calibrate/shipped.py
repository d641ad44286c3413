"""The table of measured runs that comes with Penstock."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def runs_file() -> Path:
    """Return the table of published training runs; its README names what it holds."""
    return Path(str(resources.files("penstock") / "data" / "measured" / "training_runs.csv"))
