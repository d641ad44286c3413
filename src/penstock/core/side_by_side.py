"""The same for many things, on all cores."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import current_process, get_all_start_methods, get_context
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return how many processes may work side by side: as many as there are cores, one where processes cannot fork."""
    if not _forks():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forks() -> bool:
    """Whether this process may have others beside it: not one that is itself beside another."""
    return "fork" in get_all_start_methods() and not current_process().daemon


def side_by_side(of: Callable[[T], R], items: Sequence[T], processes: int = 0) -> list[R]:
    """Return ``of`` each item, in their order.

    Args:
        of: any function; forked processes know it, so only what it returns is sent.
        items: cut into interleaved shares, one for each process, of which this one is the first.
        processes: 0 takes as many as there are cores; this one alone where processes cannot fork.

    Raises:
        RuntimeError: a process failed; it has said why.

    >>> side_by_side(abs, [-1, 2, -3], processes=2)
    [1, 2, 3]
    """
    count = min(processes or cores(), len(items)) if _forks() else 1
    if count < 2:
        return [of(item) for item in items]
    context = get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(1, count)]

    def work(first: int, into: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        into.send([of(item) for item in items[first::count]])

    workers = [
        context.Process(target=work, args=(first, into), daemon=True) for first, (_, into) in enumerate(pipes, 1)
    ]
    found: list[R] = [None] * len(items)  # type: ignore[list-item]
    try:
        for worker, (_, into) in zip(workers, pipes, strict=True):
            worker.start()
            into.close()
        found[::count] = [of(item) for item in items[::count]]
        for first, (out, _) in enumerate(pipes, 1):
            found[first::count] = out.recv()
    except EOFError:
        raise RuntimeError("a process that worked beside this one failed") from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return found
