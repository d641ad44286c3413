"""Rows of a table of runs as text, and the numbers in them."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path

from penstock.core.words import nearest

NEEDED = ("model_name", "device", "devices", "seq_len", "global_batch")
"""Columns of every table, whose cells may be empty but for ``device`` and ``seq_len``; all others may be missing."""
EMPTY = frozenset((
    *("", "-", "--", "nan", "na", "n/a", "none given", "null", "?", "auto", "default", "unknown", "unspecified"),
    *("not given", "not printed", "not reported", "not specified", "not stated"),
))  # fmt: skip
"""What stands for nothing in a cell, in small letters."""
NO = frozenset({"none", "no", "0", "0.0", "false", "off", "disabled", "without", "nothing"})
"""Words for "there is none", in small letters."""
YES = frozenset({"1", "1.0", "true", "yes", "on", "enabled"})
GATES = {"swiglu": True, "geglu": True, "reglu": True, "glu": True, "gelu": False, "relu": False, "silu": False}
"""Feed-forwards by name, and whether they have a gate."""
BINARY = ("seq_len", "global_batch", "micro_batch")
"""Columns in which k and M are powers of 1,024, as lengths and batches are chosen; in others they are of 1,000."""
_NUMBER = re.compile(
    r"[~<≈]?\s*(\d[\d,_]*\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*((?:[km](?![a-z]))?)\s*([a-z%/]*)(?:\s+.*)?", re.I
)
_UNITS = re.compile(
    r"|%|g|gi?b|tok\w*|seq\w*|samples?|gpus?|devices?|chips?|cards?|ranks?|nodes?|m?s|secs?|seconds?|tf\w*.*"
)


MOST = {"layers": 10_000, "devices": 10_000_000, "hidden": 1_000_000, "heads": 100_000, "experts": 100_000}
"""Beyond these a count is a slip of the pen; beyond ``MOST_ELSE`` in other columns."""
MOST_ELSE = 10**9


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file (``.gz`` too) by column, cells that say nothing as ``""``.

    Semicolons and tabs may part cells too.

    Every row has an ``id``: its own, else its number, the first below the head being ``row 1``.

    Raises:
        ValueError: the file is no text, or no table of runs, or has none.
    """
    text = _text(path)
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        names = _plain([name.strip() for name in reader.fieldnames or ()])
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


def _plain(names: list[str]) -> list[str]:
    """Names of columns as this package writes them, ``Seq Len`` as ``seq_len``, where no other column has that name."""
    plain = [re.sub(r"[\s-]+", "_", name.lower()) for name in names]
    return [new if new not in names and plain.count(new) == 1 else old for old, new in zip(names, plain, strict=True)]


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

    A unit behind it does not count, but for ``ms``, for ``tokens`` of a batch and for ``nodes`` of devices; ``k`` and
    ``M`` do, as ``BINARY`` says. ``8x8`` devices are so many nodes of so many.

    Raises:
        ValueError: it is no finite number above or equal 0.

    >>> number({"tp": "8"}, "tp"), number({}, "pp"), number({"seq_len": "8k"}, "seq_len")
    (8.0, None, 8192.0)
    >>> number({"global_batch": "4M tokens", "seq_len": "4,096"}, "global_batch")
    1024.0
    """
    text = row.get(name)
    if not text:
        return None
    if name == "devices" and (nodes := re.fullmatch(r"(\d+) ?[x*] ?(\d+)", text)):
        return float(nodes[1]) * float(nodes[2])
    value, unit = _read(text, name)
    if unit == "%" and name != "mfu":
        raise ValueError(f"{name}={text!r} is a share of something that is not said")
    if unit == "ms":
        return value / 1e3
    if name == "global_batch" and in_tokens(text):
        return value / (number(row, "seq_len") or 1.0)
    return value * (number(row, "per_node") or 8.0) if name == "devices" and unit.startswith("node") else value


def in_tokens(text: str) -> bool:
    """Return whether a batch is one of tokens: it says so, or is written in millions."""
    return re.search(r"\d ?m$|tok", text.lower()) is not None


def _read(text: str, name: str) -> tuple[float, str]:
    """The number in a text, and its unit in small letters."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or not _UNITS.fullmatch(unit := found[3].lower()):
        signed = re.fullmatch(r"[-+]?(\d*\.?\d+|inf\w*)", text.lower())
        raise ValueError(f"{name}={text!r} is no {'finite number from 0 on' if signed else 'number'}")
    base = 1024.0 if name in BINARY else 1000.0
    value = float(re.sub("[,_]", "", found[1])) * base ** ("", "k", "m").index(found[2].lower())
    if math.isinf(value):
        raise ValueError(f"{name}={text!r} is no finite number from 0 on")
    return value, unit


def whole(row: Mapping[str, str], name: str) -> int | None:
    """Return the whole number of a cell, ``None`` if it is empty or not there; errors as those of ``number``."""
    value, most = number(row, name), MOST.get(name, MOST_ELSE)
    if value is not None and not math.isclose(value, round(value)):
        raise ValueError(f"{name}={row[name]!r} is no whole number")
    if value is not None and value > most:
        raise ValueError(f"{name}={row[name]!r} is beyond {most:,}")
    return None if value is None else round(value)


def truth(row: Mapping[str, str], name: str) -> bool | None:
    """Return whether a cell says yes: ``1``, ``true``, ``yes``, or ``swiglu`` of a gate; ``None`` if it is empty or not
    there.

    Raises:
        ValueError: it says something else.
    """
    text = (row.get(name) or "").lower()
    if text in YES or text in NO:
        return text in YES
    if name == "gated_mlp" and text in GATES:
        return GATES[text]
    if text:
        raise ValueError(f"{name}={row[name]!r} says neither yes nor no; use 1 or 0")
    return None
