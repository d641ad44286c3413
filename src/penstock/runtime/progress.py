"""What the user sees while a run trains."""

from __future__ import annotations

import sys
import time
from typing import Any

QUIET_S = 10.0
"""Between lines where there is no terminal to draw a bar on."""


class Progress:
    """A bar with loss, speed and remaining time on a terminal, a line every ten seconds elsewhere; silent if not shown.

    Args:
        steps: of the whole run.
        shown: rank 0 shows it.
    """

    def __init__(self, steps: int, shown: bool) -> None:
        self._steps, self._shown = steps, shown
        self._bar: Any = None
        self._task: Any = None
        self._begun = self._said = time.monotonic()
        self._first = 0

    def begin(self, done: int, held_out: float) -> None:
        """Training starts."""
        if not self._shown:
            return
        self._first, self._begun = done, time.monotonic()
        if sys.stderr.isatty():
            self._bar = self._make_bar(done)
        print(f"step {done}: held-out loss {held_out:.3f}", file=sys.stderr, flush=True)

    def step(self, done: int, row: dict[str, Any]) -> None:
        """One step is done."""
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, loss=row["loss"], speed=row["tokens_per_s"])
        elif time.monotonic() - self._said > QUIET_S or done == self._steps:
            self._said = time.monotonic()
            left_s = (self._said - self._begun) / max(1, done - self._first) * (self._steps - done)
            print(
                f"step {done}/{self._steps}: loss {row['loss']:.3f}, {row['tokens_per_s']:,.0f} tokens/s, "
                f"{left_s:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()

    def _make_bar(self, done: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = bar.add_task("train", total=self._steps, completed=done, loss=float("nan"), speed=0.0)
        bar.start()
        return bar
