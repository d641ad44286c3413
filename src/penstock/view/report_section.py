"""The nouns of a report: ``Section``, a part of it, and ``Listing``, a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]
Row = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table: cells are text, the first column names the rows. Columns of words are ``left``; a page has it ``folded``
    away."""

    title: str
    head: Row
    rows: Sequence[Row]
    left: Collection[int] = (0,)
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report.

    Args:
        name: short, for links.
        title: over it.
        lines: sentences.
        heading, items: lines of a list and what is over them; they stand below tables.
        code: a command.
        figures: charts by what is over them.
        legend: colours by what they stand for.
        tables: below.
        tree: seconds, opened.
    """

    name: str
    title: str
    lines: Sequence[str] = ()
    heading: str = ""
    items: Sequence[str] = ()
    code: str = ""
    figures: Mapping[str, str] | None = None
    legend: Mapping[str, str] | None = None
    tables: Sequence[Listing] = ()
    tree: Facts | None = None
