"""The line that shows how far a search for plans is, and Ctrl-C, which ends it with the best so far."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.units import human_s

if TYPE_CHECKING:
    from penstock.search.choice import Choice
    from penstock.search.finals import Watch

QUIET_S = 1.0
"""Seconds in which nothing is shown."""


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch a search: show a line on a terminal when it takes long, and stop it at the first Ctrl-C.

    A second Ctrl-C ends the program.
    """
    began, shown = time.perf_counter(), sys.stderr.isatty()
    stopped = threading.Event()

    def stop(_: int, __: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    def watch(done: int, best: Choice | None) -> bool:
        if shown and time.perf_counter() - began > QUIET_S:
            said = "" if best is None else f", best {human_s(best.seconds)}: {best.split}"
            print(f"\r\033[K{done:,} strategies{said}"[:200], end="", file=sys.stderr, flush=True)
        return not stopped.is_set()

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if here else None
    try:
        yield watch
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
