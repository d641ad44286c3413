"""A rank in which one op goes wrong: ``break_op``, or ``python -m faulty_worker FOLDER`` with FAULT="how rank op step".

``how``: raise, kill (SIGKILL to itself), sleep.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.runtime import worker
from penstock.runtime.execute import Executor


def fail() -> None:
    raise KeyError("injected")


HOW: dict[str, Callable[[], None]] = {
    "raise": fail,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": lambda: time.sleep(1000),
}


def break_op(how: Callable[[], None], rank: int, op: str, step: int) -> None:
    """Let ``how`` happen before an op of a rank in a step of the training."""
    make = Executor._action

    def broken(self: Executor, row: int, which: Any) -> Callable[[], None]:
        action, count = make(self, row, which), 0
        if not self.plan.trains or self.rank != rank or str(which) != op:
            return action

        def misbehave() -> None:
            nonlocal count
            count += 1
            if count == step:
                how()
            action()

        return misbehave

    Executor._action = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    how, rank, op, step = os.environ["FAULT"].split()
    break_op(HOW[how], int(rank), op, int(step))
    worker.end(worker.launched(Path(sys.argv[1])))
