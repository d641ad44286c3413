"""What the user sees while this machine is measured."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any


class Bar:
    """A bar over the time a calibration may take on a terminal, one line per part elsewhere; silent if not shown.

    Args:
        shown: rank 0 shows it.
        seconds: of the whole calibration.
    """

    def __init__(self, shown: bool, seconds: float) -> None:
        self._shown, self._seconds, self._begun = shown, seconds, monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("measuring {task.fields[part]:<10}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("measure", total=self._seconds, part="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def part(self, name: str) -> None:
        """The next part begins."""
        if self._bar is not None:
            self._bar.update(self._task, part=name)
        elif self._shown:
            print(f"measuring {name} ({monotonic() - self._begun:.0f} s so far)", file=sys.stderr, flush=True)

    def update(self) -> None:
        """One measurement is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=min(self._seconds, monotonic() - self._begun))
