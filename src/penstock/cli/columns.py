"""Columns on the standard output, as wide as they need to be, whatever the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from penstock.units import HOUR_S
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


def training(
    tokens: float | None, tokens_per_s: float, usd_per_hour: float | None
) -> tuple[float | None, float | None]:
    """Return the seconds and the rent of a training on so many tokens; ``None`` for what is not known.

    >>> training(3.6e9, 1e6, 10.0)
    (3600.0, 10.0)
    """
    if tokens is None:
        return None, None
    seconds = tokens / tokens_per_s
    return seconds, None if usd_per_hour is None else seconds / HOUR_S * usd_per_hour
