"""The same for many things, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(of: Callable[[T], R], items: Sequence[T], processes: int = 0) -> list[R]:
    """Return ``of`` each item, in their order.

    Args:
        of: any function; forked processes know it, so only what it returns is sent.
        items: cut into interleaved shares, one for each process.
        processes: 0 takes as many as there are cores; this one alone where processes cannot fork.

    Raises:
        RuntimeError: a process failed; it has said why.

    >>> side_by_side(abs, [-1, 2, -3], processes=2)
    [1, 2, 3]
    """
    count = min(processes or os.cpu_count() or 1, len(items))
    if count < 2 or "fork" not in get_all_start_methods():
        return [of(item) for item in items]
    context = get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def work(first: int, into: Connection) -> None:
        into.send([of(item) for item in items[first::count]])

    workers = [context.Process(target=work, args=(first, into)) for first, (_, into) in enumerate(pipes)]
    found: list[R] = [None] * len(items)  # type: ignore[list-item]
    for worker in workers:
        worker.start()
    try:
        for first, (out, into) in enumerate(pipes):
            into.close()
            found[first::count] = out.recv()
    except EOFError:
        raise RuntimeError("a process of a fit failed") from None
    finally:
        for worker in workers:
            worker.join()
    return found
