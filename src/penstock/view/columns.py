"""Tables as lines of text, as wide as they need to be, whatever the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence


def columns(rows: Iterable[Sequence[str]], left: Container[int] = (0,)) -> Iterator[str]:
    """Give rows of equally many cells, those of the columns ``left`` set to the left, all others to the right.

    >>> print(*columns([("blocks", "9 s"), ("bubble", "10 s")]), sep="\\n")
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
        yield "  ".join(cells).rstrip()
