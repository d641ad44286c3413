"""Tables as lines of text, as wide as they need to be, whatever the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from penstock.units import DAY_S


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


def training_cells(seconds: float | None, usd: float | None) -> tuple[str, ...]:
    """Return the cells of a training's days and cost; none where no tokens were given."""
    if seconds is None:
        return ()
    return f"{seconds / DAY_S:,.1f}", "" if usd is None else f"$ {usd:,.0f}"
