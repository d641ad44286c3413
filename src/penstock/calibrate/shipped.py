"""The tables of measured runs that come with Penstock."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def launches_file() -> Path:
    """Return the table of Megatron-LM's functional tests of decoders: launch arguments and memory."""
    return Path(str(resources.files("penstock") / "data" / "measured" / "megatron_launches.csv"))


def runs_file() -> Path:
    """Return the table of published training runs; its README names what it holds."""
    return Path(str(resources.files("penstock") / "data" / "measured" / "training_runs.csv"))
