"""What a person at a terminal sees while an answer takes long, and Ctrl-C, which ends a search with the best so far."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.units import human_s

if TYPE_CHECKING:
    from penstock.search.choice import Choice

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


def early(facts: Mapping[str, Any]) -> str:
    """Return what the head of an answer says where Ctrl-C ended its search."""
    return "; stopped early, others may be faster" if facts["stopped"] else ""


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


class Watcher:
    """Says how far an answer is, and whether to look on."""

    def __init__(self, say: Say, stopped: threading.Event) -> None:
        self._say, self._stopped = say, stopped

    @property
    def stopped(self) -> bool:
        """Whether somebody pressed Ctrl-C."""
        return self._stopped.is_set()

    def tell(self, words: str) -> bool:
        """Say what is looked at next; return whether to look at it."""
        self._say(words)
        return not self.stopped

    def __call__(self, done: int, best: Choice | None) -> bool:
        """The same of a search, by the strategies that were looked at and the best of them."""
        said = "" if best is None else f", best {human_s(best.seconds)}: {best.split}"
        return self.tell(f"{done:,} strategies{said}")


@contextmanager
def watching() -> Iterator[Watcher]:
    """Watch an answer: say how far it is, and stop it at the first Ctrl-C, with what is known by then.

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
            yield Watcher(say, stopped)
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
