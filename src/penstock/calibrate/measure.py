"""The first half of ``penstock calibrate``: start the ranks that measure, and read what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.calibrate.settings import ROWS, Settings

WORKER = "penstock.calibrate.bench.worker"
Row = Mapping[str, Any]


def measure(folder: Path, settings: Settings) -> list[Row]:
    """Measure this machine, one process per rank, and return the rows: ``part``, what was measured, ``seconds``.

    The first row holds the facts of the machine; rows with ``failed`` say what could not be measured and why.

    Args:
        folder: where the ranks meet and write; it exists.
        settings: what is measured.

    Raises:
        ValueError: no such device or part; or the ranks ended before they had measured anything.
    """
    settings = replace(settings, ranks=settings.ranks or usual_ranks(settings.device))
    settings.write(folder)
    code = _alone(folder, settings) if settings.ranks == 1 else _together(folder, settings)
    rows = read_rows(folder / ROWS)
    if not any("seconds" in row and row["part"] != "end" for row in rows):
        raise ValueError(f"nothing was measured (exit code {code}); what the ranks said stands above")
    return rows


def usual_ranks(device: str) -> int:
    """Return how many ranks a run here would have: one per GPU, or per core of the CPU up to 8."""
    gpus = 0
    if device != "cpu":
        count = "import torch; print(torch.cuda.device_count())"
        told = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=False).stdout
        gpus = int(told) if told.strip().isdecimal() else 0
    return gpus or min(8, len(os.sched_getaffinity(0)))


def read_rows(file: Path) -> list[Row]:
    """Return the rows that were written whole."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _alone(folder: Path, settings: Settings) -> int:
    """One process without partners, with the threads that a rank of a run has."""
    own = {"OMP_NUM_THREADS": str(settings.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run([sys.executable, "-u", "-m", WORKER, str(folder)], env=kept | own, check=False).returncode


def _together(folder: Path, settings: Settings) -> int:
    from penstock.runtime.launch import launch

    return launch(folder, settings.ranks, settings.threads, 0, WORKER)
