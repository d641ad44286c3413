"""One rank of a calibration: ``python -m penstock.calibrate.bench.worker FOLDER``, alone or under the launcher.

Rank 0 writes one row per measurement to ``FOLDER/measured.jsonl`` as it goes, so that what was measured outlives a
crash. A measurement that fails leaves a row that says why. ``FOLDER/settings.json`` holds the ``Settings``.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import IO

import torch
import torch.distributed as dist

from penstock.calibrate.bench import attending, blocks, launches, moving, products, talking
from penstock.calibrate.bench.bar import Bar
from penstock.calibrate.bench.machine import facts
from penstock.calibrate.bench.pieces import Facts, Machine, Piece
from penstock.calibrate.settings import ROWS, Settings
from penstock.core.words import suggest

LEAST = 4
"""Measurements of a part that are made whatever time is left."""
Make = Callable[[Machine, float], list[Piece]]


@dataclass(frozen=True)
class Part:
    """One part of a calibration, its share of the time, and where there is something to measure."""

    name: str
    share: float
    make: Make
    there: Callable[[Machine], bool] = lambda machine: True


def parts(folder: Path) -> list[Part]:
    """All parts in their order, the cheap ones first."""
    return [
        Part("launch", 0.04, launches.pieces),
        Part("memory", 0.16, moving.pieces),
        Part("transfer", 0.06, moving.transfers, lambda machine: machine.cuda),
        Part("sustained", 0.06, products.sustained),
        Part("block", 0.2, blocks.pieces, lambda machine: not machine.cuda),
        Part("attention", 0.2, attending.pieces),
        Part("matmul", 0.4, products.pieces),
        Part("collective", 0.25, talking.pieces, lambda machine: machine.ranks > 1),
        Part("disk", 0.03, lambda machine, seconds: moving.disk(folder, seconds)),
    ]


class Ranks:
    """The ranks that measure together; of one rank, only itself."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._control = dist.new_group(backend="gloo") if ranks > 1 else None

    def agree(self, go: bool) -> bool:
        """What rank 0 says, once all have come here."""
        if self._control is None:
            return go
        told = torch.tensor([go and self.rank == 0], dtype=torch.int64)
        dist.all_reduce(told, group=self._control)
        return bool(told.item())

    def median(self, value: float) -> float:
        """Median over the ranks that have a number; the same on all."""
        if self._control is None:
            return value
        own = torch.tensor([value], dtype=torch.float64)
        each = [torch.zeros_like(own) for _ in range(self.ranks)]
        dist.all_gather(each, own, group=self._control)
        numbers = [found.item() for found in each if math.isfinite(found.item())]
        return statistics.median(numbers) if numbers else math.nan


class Rows:
    """What rank 0 writes."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    def write(self, part: str, row: Facts) -> None:
        """One row, on the disk at once."""
        if self._file is not None:
            self._file.write(json.dumps({"part": part, **row}) + "\n")
            self._file.flush()


def measure(folder: Path, settings: Settings, machine: Machine, ranks: Ranks) -> None:
    """Measure all parts in turn; each has its share of what time is left."""
    chosen = [part for part in parts(folder) if part.there(machine)]
    known = [part.name for part in chosen]
    for name in settings.parts:
        if name not in known:
            raise ValueError(f"part {name!r} cannot be measured here; {suggest(name, known)}")
    chosen = [part for part in chosen if not settings.parts or part.name in settings.parts]
    left, ends = sum(part.share for part in chosen), monotonic() + settings.seconds
    with (
        open(folder / ROWS if ranks.rank == 0 else os.devnull, "w", encoding="utf-8") as file,
        Bar(ranks.rank == 0, settings.seconds) as bar,
    ):
        rows = Rows(file)
        rows.write("facts", facts(machine, settings.threads))
        for part in chosen:
            seconds = max(0.1, (ends - monotonic()) * part.share / left)
            left -= part.share
            bar.part(part.name)
            _measure_part(part, seconds, machine, ranks, rows, bar)
        rows.write("end", {"seconds": round(settings.seconds + monotonic() - ends, 1)})


def _measure_part(part: Part, seconds: float, machine: Machine, ranks: Ranks, rows: Rows, bar: Bar) -> None:
    ends, pieces = monotonic() + seconds, []
    try:
        pieces = part.make(machine, seconds)
    except Exception as error:  # a part that cannot even begin must not end the others
        rows.write(part.name, {"failed": _why(error)})
    for number, piece in enumerate(pieces):
        left_s = ends - monotonic()
        if not ranks.agree(left_s > 0 or number < LEAST):
            rows.write(part.name, {"failed": f"out of time: the last {len(pieces) - number} were left out"})
            return
        machine.timer.target_s = min(0.5, max(0.005, 0.5 * left_s / (len(pieces) - number)))
        _measure_piece(part.name, piece, machine, ranks, rows)
        bar.update()


def _measure_piece(part: str, piece: Piece, machine: Machine, ranks: Ranks, rows: Rows) -> None:
    """One measurement on all ranks at once: as many numbers as the piece gives, or why there are none."""
    failed = ""
    found: list[tuple[Facts, float]] = []
    try:
        found = list(piece.run())
    except Exception as error:  # out of memory, no such operator, ...: said in the file
        failed = _why(error)
        with suppress(Exception):  # a GPU in a broken state refuses this too
            machine.let_go()
    seconds = ranks.median(found[-1][1] if found else math.nan)
    if math.isnan(seconds):
        rows.write(part, {**piece.facts, "failed": failed or "no rank measured it"})
        return
    for number, (more, own) in enumerate(found):
        rows.write(part, {**piece.facts, **more, "seconds": seconds if number == len(found) - 1 else own})


def _why(error: Exception) -> str:
    """The first line of an error, as a person would want it."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}"[:300]


def main(folder: Path) -> int:
    """Measure; the exit code of the rank."""
    settings = Settings.read(folder)
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(settings.threads)
    try:
        device = _device(settings.device, rank)
        if count > 1:
            _meet(rank, count, device)
        measure(folder, settings, Machine.of(device, rank, count), Ranks(rank, count))
    except ValueError as error:
        if rank == 0:
            print(f"penstock: {error}", file=sys.stderr)
        return 2
    return 0


def _device(wanted: str, rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device=cuda, but PyTorch sees no GPU here; use cpu")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def _meet(rank: int, count: int, device: torch.device) -> None:
    """Join the other ranks, where the runtime's ranks meet."""
    from penstock.runtime.transport import backend
    from penstock.runtime.worker import connect

    limit = timedelta(seconds=120)
    dist.init_process_group(backend(device), store=connect("main"), rank=rank, world_size=count, timeout=limit)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # after collectives a normal exit can abort
