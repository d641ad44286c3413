"""Columns on the standard output, as wide as they need to be, whatever the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable


def print_columns(rows: Iterable[tuple[str, ...]], left: Container[int] = (0,)) -> None:
    """Print rows of equally many cells, those of the columns ``left`` set to the left, all others to the right.

    >>> print_columns([("blocks", "9 s"), ("bubble", "10 s")])
    blocks   9 s
    bubble  10 s
    """
    lines = [*rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
