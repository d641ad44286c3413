"""What a calibration measures, and for how long."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from penstock.core.curves import COLUMNS
from penstock.core.words import suggest

DeviceType = Literal["auto", "cpu", "cuda"]
SETTINGS = "settings.json"
ROWS = "measured.jsonl"
"""Names of the files in the folder of a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One calibration.

    Args:
        device: ``auto`` takes the GPU where there is one.
        ranks: processes that compute at the same time, as those of a run do; on GPUs one each. 0: all GPUs, and on the
            CPU as many as it has cores, at most 8.
        threads: compute threads of each rank.
        seconds: about how long it may take, without starting up.
        parts: which parts of ``core.curves.COLUMNS``; empty for all.

    Raises:
        ValueError: a value is out of its range.
    """

    device: DeviceType = "auto"
    ranks: int = 0
    threads: int = 1
    seconds: float = 150.0
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.device not in get_args(DeviceType):
            raise ValueError(f"device={self.device!r} is unknown; use auto, cpu or cuda")
        if self.ranks < 0 or self.threads < 1:
            raise ValueError(f"ranks={self.ranks}, threads={self.threads}: use at least 1 (ranks=0 takes all)")
        for part in self.parts:
            if part not in COLUMNS:
                raise ValueError(f"part {part!r} is unknown; {suggest(part, COLUMNS)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds={self.seconds:g} must be above 0")

    def write(self, folder: Path) -> None:
        """Leave the settings in the folder for the ranks."""
        (folder / SETTINGS).write_text(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def read(folder: Path) -> Settings:
        """Return the settings that ``write`` left in a folder."""
        given = json.loads((folder / SETTINGS).read_text())
        return Settings(**given | {"parts": tuple(given["parts"])})
