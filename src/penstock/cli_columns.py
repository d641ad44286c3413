"""Columns on the standard output, as wide as they need to be, whatever the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from penstock.view.columns import columns
from penstock.view.report_section import Listing


def print_columns(rows: Iterable[Sequence[str]], left: Container[int] = (0,)) -> None:
    """Print rows of equally many cells, those of the columns ``left`` set to the left, all others to the right.

    >>> print_columns([("blocks", "9 s"), ("bubble", "10 s")])
    blocks   9 s
    bubble  10 s
    """
    for line in columns(rows, left):
        print(line)


def print_listing(table: Listing) -> None:
    """Print a table of a report, without its title."""
    print_columns([table.head, *table.rows], left=table.left)
