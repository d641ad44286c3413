"""Collectives that run beside a rank's compute, one after the other in the order in which they are started."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.runtime.clock import Clock


class Collectives:
    """Work among all ranks, in a communicator of its own.

    All ranks must make theirs at the same time and start the same work in the same order, which ``engine.check`` makes
    sure of. One piece of work may be several collectives with arithmetic between them. On CPUs a thread runs it, on
    GPUs a stream of its own.

    Args:
        device: where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._alone = not dist.is_initialized() or dist.get_world_size() == 1
        self._group = None if self._alone else dist.new_group()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "collectives") if self._stream is None else None
        self._queued: list[Started] = []

    def start(self, work: Callable[[], tuple[Any, ...]], position: int, clock: Clock) -> Started:
        """Begin ``work`` once all that was started before is done; what it reads must stay as it is until then.

        Args:
            work: gives a tuple of results.
            position: place in the lane of the op that starts it.
            clock: stamps its end.
        """
        started = Started(work, position, clock)
        if self._thread is not None:
            started.done = self._thread.submit(started.run)
            return started
        assert self._stream is not None
        self._queued = [each for each in self._queued if not each.release()]
        self._queued.append(started)
        started.done = torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            started.run()
            started.done.record(self._stream)
        return started

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of rank ``source``, in place; for use within work."""
        if not self._alone:
            dist.broadcast(tensor, source, self._group)
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place; for use within work."""
        if not self._alone:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def sum_to(self, tensor: Tensor, rank: int) -> Tensor:
        """The sum over ranks, in place, on one rank; of no meaning on the others. For use within work."""
        if not self._alone:
            dist.reduce(tensor, rank, group=self._group)
        return tensor

    def most(self, tensor: Tensor) -> Tensor:
        """The greatest value of each entry over ranks, in place; for use within work."""
        if not self._alone:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tensor


class Started:
    """Work on its way.

    Attributes:
        position: place in the lane of the op that started it.
        ended: stamp of the clock when the work was done.
    """

    def __init__(self, work: Callable[[], tuple[Any, ...]], position: int, clock: Clock) -> None:
        self.position = position
        self._work: Callable[[], tuple[Any, ...]] | None = work
        self._clock = clock
        self._found: list[Any] = []
        self.ended: Any = None
        self.done: Future[None] | torch.cuda.Event | None = None

    def run(self) -> None:
        """Do the work."""
        assert self._work is not None
        with torch.no_grad():  # a thread begins with gradients on
            self._found = list(self._work())
        self.ended = self._clock.stamp()
        if not isinstance(self.done, torch.cuda.Event):
            self._work = None  # and with it what it read

    def wait(self) -> None:
        """Until it is done; what a GPU does from now on comes after it."""
        if isinstance(self.done, torch.cuda.Event):
            torch.cuda.current_stream().wait_event(self.done)
        elif self.done is not None:
            self.done.result()

    def release(self) -> bool:
        """Let go of what the work read, if a GPU has done it; whether it has."""
        over = not isinstance(self.done, torch.cuda.Event) or self.done.query()
        if over:
            self._work = None
        return over

    def take(self, place: int) -> Any:
        """One of its results, waiting for it if need be; once."""
        self.wait()
        found, self._found[place] = self._found[place], None
        if isinstance(found, Tensor) and found.is_cuda:
            found.record_stream(torch.cuda.current_stream())  # it may have been made on the other stream
        return found


@dataclass(frozen=True)
class Pending:
    """One result of started work, to be taken once."""

    started: Started
    place: int = 0

    def take(self) -> Any:
        """It, waiting for it if need be."""
        return self.started.take(self.place)
