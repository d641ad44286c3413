"""The noun ``Piece``: one measurement, made only when its turn comes; and what all of them need."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penstock.calibrate.bench.timers import Call, DeviceTimer, HostTimer, Timer, working_clock

Facts = dict[str, Any]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
DTYPES |= {"fp64": torch.float64}
_MOST_SETS = 64


@dataclass(frozen=True)
class Machine:
    """What is measured.

    Args:
        device: where.
        timer: its clock.
        cache_bytes: of its last cache; operands of calls in a row are spread over twice as much.
        memory_bytes: what one measurement may take.
        rank, ranks: of the processes that measure at once.
    """

    device: torch.device
    timer: Timer
    cache_bytes: int
    memory_bytes: int
    rank: int = 0
    ranks: int = 1

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> str:
        """That in which most is measured."""
        return "bf16" if self.cuda else "fp32"

    @staticmethod
    def of(device: torch.device, rank: int, ranks: int) -> Machine:
        """The machine behind a device."""
        if device.type == "cuda":
            facts = torch.cuda.get_device_properties(device)
            cache = int(getattr(facts, "L2_cache_size", 0)) or 64 << 20
            free, _ = torch.cuda.mem_get_info(device)
            return Machine(device, DeviceTimer(), cache, free // 2, rank, ranks)
        return Machine(device, HostTimer(working_clock()), 16 << 20, host_memory_bytes() // (4 * ranks), rank, ranks)

    def let_go(self) -> None:
        """Give back memory that nothing holds any more."""
        if self.cuda:
            torch.cuda.empty_cache()

    def random(self, *shape: int, precision: str = "bf16") -> Tensor:
        """Normal numbers: power, and with it the clock, depends on the data."""
        return torch.randn(*shape, device=self.device, dtype=DTYPES[precision])

    def sets(self, of_bytes: float) -> int:
        """How many operands of this size take turns, so that no call finds its own in the cache.

        Raises:
            MemoryError: even one does not fit.
        """
        if of_bytes > self.memory_bytes:
            raise MemoryError(f"needs {of_bytes / 1e9:.2f} GB, more than the {self.memory_bytes / 1e9:.2f} GB to use")
        most = max(1, int(self.memory_bytes // of_bytes))
        return max(1, min(_MOST_SETS, most, math.ceil(2 * self.cache_bytes / of_bytes)))


@dataclass(frozen=True)
class Piece:
    """One measurement.

    Args:
        facts: columns of its row besides the time.
        run: measures, and gives more columns and the time, once or more often; what it makes is let go when it returns.
    """

    facts: Facts
    run: Callable[[], Iterable[tuple[Facts, float]]]


def timed(facts: Facts, machine: Machine, make: Callable[[], Sequence[Call]], *, grad: bool = False) -> Piece:
    """A piece that makes its calls and times them."""

    def run() -> list[tuple[Facts, float]]:
        with torch.set_grad_enabled(grad):
            took = machine.timer.time(make())
        return [({"spread": round(took.spread, 3)}, took.seconds)]

    return Piece(facts, run)


def host_memory_bytes() -> int:
    """Memory of this machine that is free to use, in bytes; all of it where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
