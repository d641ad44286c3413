"""Clocks that stamp ops: the host's, or the GPU's own through events."""

from __future__ import annotations

import socket
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


class Clock:
    """Stamps of one step on the host, whose clock all processes of a machine share.

    Attributes:
        starts, ends: stamps of the ops of the last step, in lane order.
    """

    def __init__(self) -> None:
        self.starts: list[Any] = []
        self.ends: list[Any] = []
        self.stamp = perf_counter_ns

    @staticmethod
    def for_device(device: torch.device) -> Clock:
        """The clock that sees when work on a device runs."""
        return DeviceClock() if device.type == "cuda" else Clock()

    def times_s(self) -> NDArray[np.float64]:
        """Start and end of each op of the last step in seconds of the host's monotonic clock: shape (2, ops)."""
        return np.array([self.starts, self.ends], dtype=np.float64) * 1e-9


class DeviceClock(Clock):
    """Stamps by CUDA events, which tell when the GPU came to an op, not when the host launched it."""

    def __init__(self) -> None:
        super().__init__()
        self.stamp = self._record  # type: ignore[assignment]
        self._zero = self._record()
        self._zero.synchronize()
        self._zero_s = perf_counter_ns() * 1e-9

    def _record(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def times_s(self) -> NDArray[np.float64]:
        """As ``Clock.times_s``; waits for the GPU."""
        torch.cuda.synchronize()
        elapsed_ms = [[self._zero.elapsed_time(event) for event in row] for row in (self.starts, self.ends)]
        return np.array(elapsed_ms, dtype=np.float64) * 1e-3 + self._zero_s


def offset_s(rank: int, ranks: int, device: torch.device, rounds: int = 16) -> float:
    """What to add to this process's clock to get rank 0's; zero where all ranks share a host.

    Each rank asks rank 0 for its time ``rounds`` times and believes the quickest answer, taken at half its delay
    (Cristian 1989). All ranks call it together.
    """
    if ranks == 1:
        return 0.0
    hosts: list[Any] = [None] * ranks
    dist.all_gather_object(hosts, socket.gethostname())
    return ask_offset_s(rank, ranks, device, rounds) if len(set(hosts)) > 1 else 0.0


def ask_offset_s(rank: int, ranks: int, device: torch.device, rounds: int) -> float:
    """The asking of ``offset_s``, whatever the hosts."""
    answers = []
    for asker in range(1, ranks):
        for _ in range(rounds if rank in (0, asker) else 0):
            message = torch.zeros(1, dtype=torch.int64, device=device)
            if rank == 0:
                dist.recv(message, asker)
                dist.send(message.fill_(perf_counter_ns()), asker)
            else:
                begun = perf_counter_ns()
                dist.send(message, 0)
                dist.recv(message, 0)
                told, ended = int(message.item()), perf_counter_ns()
                answers.append((ended - begun, (told - (begun + ended) // 2) * 1e-9))
    return min(answers)[1] if answers else 0.0
