"""The command ``penstock peers``: our schedules beside published figures and beside those of other schedulers."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from penstock.cli.peer_rows import Comparison

VERDICTS = ("equal", "beaten", "worse")
WORSE = 1
"""Exit code if any of our schedules is worse than its peer."""


def peers(
    *files: Path,
    only: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    csv: Path | None = None,
    json: Path | None = None,
) -> None:
    """Build our schedule of the same name, costs, sizes and memory for each row of published figures, and compare.

    Without files: the schedules that existing schedulers produce, and table 5 of the Zero Bubble paper. Exit code 1 if
    any of ours is worse.

    Args:
        files: CSV with the columns w_share, cost, p, m, peer, limit_over_p and figures of span, makespan,
            bubble_span_pct or bubble_sync_pct.
        only: a peer, for example zbv; may be given more than once.
        csv: write every comparison as a table.
        json: write every comparison as a list of JSON objects.
    """
    from penstock.cli import peer_rows as read
    from penstock.core.files import writable, write_whole

    for path, suffix in ((csv, ".csv"), (json, "")):
        if path is not None:
            writable(path, suffix)
    rows = read.rows_of([*files] or read.shipped(), only)
    found = [one for row in rows for one in read.compare(row)]
    facts = [asdict(one) | {"excess": one.excess, "verdict": one.verdict} for one in found]
    if csv is not None:
        from penstock.cli.compare import to_csv

        write_whole(csv, to_csv(facts))
    if json is not None:
        write_whole(json, json_format.dumps(facts, indent=1) + "\n")
    _print(found)
    if any(one.verdict == "worse" for one in found):
        sys.exit(WORSE)


def _print(found: list[Comparison]) -> None:
    """One table per file, a line per peer and schedule of ours."""
    for source in dict.fromkeys(one.source for one in found):
        _print_source(source, [one for one in found if one.source == source])
    print("equal: to the last digit that the peer prints, in no more memory; furthest: where ours is most above it")
    left = sum(one.verdict == "skipped" for one in found)
    if left:
        print(f"{left} of {len(found)} figures were skipped")


def _print_source(source: str, found: list[Comparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(source)
    table = Table(*("peer", "ours", "figures", *VERDICTS, "furthest", "seconds"), box=None, pad_edge=False)
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        groups.setdefault((one.peer, one.ours), []).append(one)
    for names, mine in groups.items():
        counts = [str(sum(one.verdict == verdict for one in mine)) for verdict in VERDICTS]
        seconds = f"{sum(one.seconds for one in mine):.1f}"
        table.add_row(*names, str(len(mine)), *counts, str(max(mine, key=_furthest)), seconds)
    Console().print(table)


def _furthest(one: Comparison) -> tuple[bool, bool, float]:
    """Worse figures first, then by how much; those that were skipped last."""
    return one.excess is not None, one.verdict == "worse", one.excess or 0.0
