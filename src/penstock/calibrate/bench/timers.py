"""Seconds of calls, on the host's clock or the GPU's own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, thread_time

import torch

Call = Callable[[], object]
BATCHES = 5
"""Samples of which the median is taken."""
_MOST_QUEUED = 64
"""Launches that wait on the device at once, well below what drivers queue."""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of a call, and how far samples lie apart for their median: the largest and the smallest, or quartiles."""

    seconds: float
    spread: float


def _of(samples: Sequence[float]) -> Took:
    middle = statistics.median(samples)
    return Took(middle, (max(samples) - min(samples)) / middle if middle else 0.0)


def working_clock() -> Callable[[], float]:
    """Return the clock of what this process computes: where it has one thread, that thread's own, which stands still
    while other programs have its core; where several compute, the wall's."""
    return thread_time if torch.get_num_threads() == 1 else perf_counter


class HostTimer:
    """Times calls that are done when they return: the lower quartile, as what else runs here only makes them longer.

    Args:
        now: its clock, in seconds.

    Attributes:
        target_s: about how long one measurement takes.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.target_s, self._now = 0.1, now

    def time(self, calls: Sequence[Call]) -> Took:
        """Return the time of one call; several calls, alike but on other data, take turns."""
        begun = perf_counter()
        for call in calls:
            call()
            if perf_counter() - begun > self.target_s:
                break
        begun = self._now()
        calls[0]()
        once_s = max(self._now() - begun, 1e-7)
        inner = max(1, math.ceil(100e-6 / once_s))
        rounds = min(100, max(3, round(self.target_s / (once_s * inner))))
        samples = []
        for at in range(rounds):
            begun = self._now()
            for number in range(inner):
                calls[(at * inner + number) % len(calls)]()
            samples.append((self._now() - begun) / inner)
        low, middle, high = statistics.quantiles(samples, n=4)
        return Took(low, (high - low) / middle)

    def settle(self) -> None:
        """Wait for what is under way: nothing here."""


class DeviceTimer:
    """Times what calls launch on a GPU: many in a row behind a kernel that only waits, so that no launch is waited for.

    Two events enclose the row; gaps between kernels on the device count, the host's launches do not.
    """

    def __init__(self) -> None:
        self.target_s = 0.05

    def time(self, calls: Sequence[Call]) -> Took:
        """As ``HostTimer.time``."""
        for call in calls:
            call()
        self.settle()
        begun = perf_counter()
        calls[0]()
        launch_s = perf_counter() - begun
        self.settle()
        once_s = max(self._row(calls, 0, 2, launch_s), 1e-7)
        count = min(_MOST_QUEUED, max(2, round(self.target_s / BATCHES / once_s)))
        return _of([self._row(calls, at * count, count, launch_s) for at in range(BATCHES)])

    def _row(self, calls: Sequence[Call], at: int, count: int, launch_s: float) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._hold(min(0.02, 1.5 * count * launch_s + 50e-6))
        start.record()
        for number in range(count):
            calls[(at + number) % len(calls)]()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / count

    def _hold(self, seconds: float) -> None:
        """Keep the device waiting for at least so long at clocks up to 2 GHz."""
        torch.cuda._sleep(int(seconds * 2e9))

    def settle(self) -> None:
        """Wait for what is under way."""
        torch.cuda.synchronize()


Timer = HostTimer | DeviceTimer
