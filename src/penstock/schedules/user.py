"""A user's own schedule, from a Python file."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from penstock.core.placement import Placement
from penstock.core.words import suggest
from penstock.schedules.table import LaneFunction

T = TypeVar("T")


def is_reference(name: str) -> bool:
    """Whether a schedule's name means a function in a file: ``my_schedule.py:lane``."""
    return name.partition(":")[0].endswith(".py")


def load(reference: str) -> tuple[LaneFunction, Callable[[int, int], Placement]]:
    """The function that ``FILE.py:NAME`` means (``FILE.py`` alone: its ``lane``), and where stages live: what the
    file's ``placement(p, v)`` gives, else a loop. The file is run.

    Raises:
        ValueError: no such file or function, or the file fails; the message names line and reason.
    """
    file, _, name = reference.partition(":")
    name = name or "lane"
    if not Path(file).is_file():
        near = [str(found) for found in sorted(Path(file).parent.glob("*.py"))]
        raise ValueError(f"schedule {reference!r}: no file {file}; {suggest(file, near)}")
    names = _of_user(reference, file, lambda: runpy.run_path(file))
    found = names.get(name)
    if not callable(found):
        functions = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"schedule {reference!r}: {file} has no function {name!r}; {suggest(name, functions)}")
    place = names.get("placement", Placement.loop)
    if not callable(place):
        raise ValueError(
            f"schedule {reference!r}: placement is a {type(place).__name__}; make it a function placement(p, v)"
        )

    @wraps(found)
    def lane(*sizes: Any, **options: Any) -> Any:
        given = _of_user(reference, file, lambda: _whole(found(*sizes, **options)))
        if not isinstance(given, Iterable):
            raise ValueError(f"schedule {reference!r}: {name} gave {given!r}; return phases, for example [(8, 'F B')]")
        return given

    return lane, lambda p, v: _placement(_of_user(reference, file, lambda: place(p, v)), reference, p, v)


def _whole(given: Any) -> Any:
    """What a user's function gave; a generator has run to its end."""
    return list(given) if isinstance(given, Iterator) else given


def _of_user(reference: str, file: str, work: Callable[[], T]) -> T:
    """What the user's file gives; its errors with the line."""
    try:
        return work()
    except Exception as error:
        line = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" line {line[-1]}" if line else ""
        raise ValueError(f"schedule {reference!r}: {file}{where} fails: {type(error).__name__}: {error}") from None


def _placement(given: Any, reference: str, p: int, v: int) -> Placement:
    """What a user's ``placement(p, v)`` gave: a ``Placement``, or the rank of each stage in the order of the model."""
    said = f"schedule {reference!r}: placement({p}, {v})"
    place = given
    if not isinstance(place, Placement):
        if not isinstance(given, list | tuple) or not all(isinstance(rank, int) for rank in given):
            ranks = list(range(p)) * v
            raise ValueError(f"{said} gave {given!r}; return the rank of each stage, for example {ranks}")
        try:
            place = Placement(tuple(given))
        except ValueError as error:
            raise ValueError(f"{said}: {error}") from None
    if place.ranks != p:
        raise ValueError(f"{said} gave stages to {place.ranks} ranks, not to {p}; each of them needs one")
    return place
