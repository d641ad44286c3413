"""What a person at a terminal sees while an answer takes long, and Ctrl-C, which ends a search with the best so far."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.units import human_s

if TYPE_CHECKING:
    from penstock.search.choice import Choice
    from penstock.search.finals import Watch

Say = Callable[[str], None]
"""Shows how far something is."""
QUIET_S = 1.0
"""Seconds in which nothing is shown."""
BETWEEN_S = 0.25
"""Seconds between two states of the line, at least."""


def note(words: str) -> None:
    """Print a line that stays, if a person is there to read it."""
    if sys.stderr.isatty():
        print(words, file=sys.stderr)


@contextmanager
def line() -> Iterator[Say]:
    """Give a function that shows on a terminal how far something is, once that takes long; the line goes at the end."""
    shown, due = sys.stderr.isatty(), time.monotonic() + QUIET_S

    def say(words: str) -> None:
        nonlocal due
        if shown and time.monotonic() > due:
            due = time.monotonic() + BETWEEN_S
            print(f"\r\033[K{words}"[:200], end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch a search: say how far it is, and stop it at the first Ctrl-C.

    A second Ctrl-C ends the program.
    """
    stopped = threading.Event()

    def stop(_: int, __: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if here else None
    try:
        with line() as say:

            def watch(done: int, best: Choice | None) -> bool:
                said = "" if best is None else f", best {human_s(best.seconds)}: {best.split}"
                say(f"{done:,} strategies{said}")
                return not stopped.is_set()

            yield watch
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
