"""Rows of a table of runs as text, and the numbers in them."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Mapping
from pathlib import Path

from penstock.core.words import nearest

NEEDED = ("model_name", "device", "devices", "seq_len", "global_batch")
"""Columns without which nothing can be predicted; all others may be missing or empty."""
COUNTS = ("devices", "seq_len", "global_batch")
"""Those of them that count something."""
EMPTY = frozenset({"", "-", "nan", "na", "n/a", "none given", "null", "?"})
"""What stands for nothing in a cell, in small letters."""


MOST = {"layers": 10_000, "devices": 10_000_000}
"""Beyond these a count is a slip of the pen; beyond ``MOST_ELSE`` in other columns."""
MOST_ELSE = 10**9


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file (``.gz`` too) by column, cells that say nothing as ``""``.

    Every row has an ``id``: its own, else its number, the first below the head being ``row 1``.

    Raises:
        ValueError: the file is no text, or no table of runs, or has none.
    """
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        _check(path, names)
        found = [_cleaned(row, number) for number, row in enumerate(reader, 1)]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from None
    if not found:
        raise ValueError(f"{path} holds no runs, only a head; add a row for each")
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save the table as CSV") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: {error}") from None


def _check(path: Path, names: list[str]) -> None:
    if missing := [name for name in NEEDED if name not in names]:
        alike = nearest(missing[0], [name for name in names if name])
        fix = f"did you mean {alike!r}?" if alike else f"a table of runs has {', '.join(NEEDED)}"
        raise ValueError(f"{path} has no column {', '.join(missing)}; {fix}")


def _cleaned(row: Mapping[str | None, str | list[str] | None], number: int) -> dict[str, str]:
    """The row without cells beyond the head."""
    cells = {name: value.strip() for name, value in row.items() if name and isinstance(value, str)}
    found = {name: "" if value.lower() in EMPTY else value for name, value in cells.items()}
    return found | {"id": found.get("id") or f"row {number}"}


def number(row: Mapping[str, str], name: str) -> float | None:
    """Return the number of a cell, ``None`` if it is empty or not there.

    Raises:
        ValueError: it is no finite number above or equal 0.

    >>> number({"tp": "8"}, "tp"), number({}, "pp")
    (8.0, None)
    """
    text = row.get(name)
    if not text:
        return None
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        raise ValueError(f"{name}={text!r} is no number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={text!r} is no finite number from 0 on")
    return value


def whole(row: Mapping[str, str], name: str) -> int | None:
    """Return the whole number of a cell, ``None`` if it is empty or not there; errors as those of ``number``."""
    value, most = number(row, name), MOST.get(name, MOST_ELSE)
    if value is not None and value != int(value):
        raise ValueError(f"{name}={row[name]!r} is no whole number")
    if value is not None and value > most:
        raise ValueError(f"{name}={row[name]!r} is beyond {most:,}")
    return None if value is None else int(value)


def truth(row: Mapping[str, str], name: str) -> bool | None:
    """Return whether a cell says yes: ``1``, ``true``, ``yes``; ``None`` if it is empty or not there.

    Raises:
        ValueError: it says something else.
    """
    text = (row.get(name) or "").lower()
    if text in ("1", "1.0", "true", "yes"):
        return True
    if text in ("0", "0.0", "false", "no"):
        return False
    if text:
        raise ValueError(f"{name}={row[name]!r} says neither yes nor no; use 1 or 0")
    return None
