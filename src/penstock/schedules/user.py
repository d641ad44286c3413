"""A user's own schedule, from a Python file."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path

from penstock.core.words import suggest
from penstock.schedules.table import LaneFunction


def is_reference(name: str) -> bool:
    """Whether a schedule's name means a function in a file: ``my_schedule.py:lane``."""
    return name.partition(":")[0].endswith(".py")


def load(reference: str) -> LaneFunction:
    """The function that ``FILE.py:NAME`` means (``FILE.py`` alone: its ``lane``). The file is run.

    Raises:
        ValueError: no such file or function, or the file fails; the message names line and reason.
    """
    file, _, name = reference.partition(":")
    name = name or "lane"
    if not Path(file).is_file():
        near = [str(found) for found in sorted(Path(file).parent.glob("*.py"))]
        raise ValueError(f"schedule {reference!r}: no file {file}; {suggest(file, near)}")
    try:
        names = runpy.run_path(file)
    except Exception as error:
        line = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" line {line[-1]}" if line else ""
        raise ValueError(f"schedule {reference!r}: {file}{where} fails: {type(error).__name__}: {error}") from None
    found = names.get(name)
    if not callable(found):
        functions = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"schedule {reference!r}: {file} has no function {name!r}; {suggest(name, functions)}")
    lane: LaneFunction = found
    return lane
