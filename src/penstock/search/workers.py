"""Processes that work for a search, side by side; what they have not finished when it ends is given up."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.pool import AsyncResult, Pool
from typing import Any

from penstock.search.solution import Options


class Workers:
    """Forked processes; leaving the ``with`` block ends them, whatever they do.

    Args:
        processes: how many.
    """

    def __init__(self, processes: int) -> None:
        self._pool: Pool = get_context("fork").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """A call that some process makes as soon as it can."""
        return Job(self._pool.apply_async(function, arguments))

    def map(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        """Results of calls, in their order."""
        return iter([job.result() for job in [self.submit(function, *each) for each in zip(*arguments, strict=True)]])


class Job:
    """A call under way.

    Args:
        under_way: what the pool knows of it.
    """

    def __init__(self, under_way: AsyncResult[Any]) -> None:
        self._under_way = under_way

    def result(self, within_s: float | None = None) -> Any:
        """What the call gives, or raises.

        Raises:
            TimeoutError: it takes longer than so many seconds from now.
        """
        try:
            return self._under_way.get(within_s)
        except multiprocessing.TimeoutError:
            raise TimeoutError(f"not finished within {within_s} s") from None


class Done:
    """A call that was made at once, for searches without processes.

    Args:
        function, arguments: of the call.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._value = function(*arguments)

    def result(self, within_s: float | None = None) -> Any:
        """What the call gave."""
        return self._value


def interleaved(some: list[Any], others: list[Any]) -> list[Any]:
    """Both, evenly mixed, ``some`` first: their own order stays.

    Example:
        >>> interleaved(["a", "b"], [1, 2, 3, 4])
        ['a', 1, 2, 'b', 3, 4]
    """
    placed = [(k / len(one), which, value) for which, one in enumerate((some, others)) for k, value in enumerate(one)]
    return [value for _, _, value in sorted(placed, key=lambda at: at[:2])]


def processes_of(options: Options) -> int:
    """How many work side by side; one where processes cannot fork."""
    return options.processes or os.cpu_count() or 1 if "fork" in get_all_start_methods() else 1


def pool(processes: int) -> AbstractContextManager[Workers | None]:
    """Processes for stints, with the loops already compiled; none if this process is enough."""
    from penstock.search import anneal, tune  # noqa: F401 (before processes fork)

    return nullcontext() if processes == 1 else Workers(processes)
