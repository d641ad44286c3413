"""``penstock plan --pareto`` and ``--report``: trade-offs as text, and the whole plan as a page, as text or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.cli.progress import Watcher
    from penstock.core.timeline import Timeline
    from penstock.search.choice import Planned
    from penstock.search.space import Space

SUFFIXES = (".html", ".txt", ".json")


def report_files(report: list[Path] | None) -> list[Path]:
    """Return the files of ``--report``, which can be written.

    Raises:
        ValueError: another suffix.
        OSError: the folder is missing, or not writable.
    """
    from penstock.core.files import writable
    from penstock.core.words import suggest

    for path in report or []:
        if path.suffix not in SUFFIXES:
            kind = path.suffix or "a file without suffix"
            raise ValueError(f"--report {path}: cannot write {kind}; {suggest(path.suffix, SUFFIXES)}")
        writable(path)
    return report or []


def reported(
    facts: dict[str, Any], space: Space, found: Planned, reports: list[Path], pareto: bool, watch: Watcher
) -> dict[str, Any]:
    """Return the facts of a plan with ``pareto`` and ``report``, ``None`` unless they are wanted, and write reports."""
    from penstock.search import pareto as trades
    from penstock.search.report import pareto_facts, report_of

    tokens = facts["asked"]["tokens"]
    facts = facts | {"pareto": None, "report": None}
    if pareto or reports:
        facts["pareto"] = pareto_facts(trades.around(space, found, watch.tell), tokens)
        facts["stopped"] = facts["stopped"] or watch.stopped
    one = found.choices[0] if found.choices else found.nearest
    if reports and one is not None:
        facts["report"], timeline = report_of(space, one, tokens, found.headroom)
        for path in reports:
            _write(path, facts, timeline)
    return facts


def _write(path: Path, facts: dict[str, Any], timeline: Timeline) -> None:
    """Write one file, whole or not at all."""
    from penstock.core.files import write_whole
    from penstock.view import report

    made = {".html": report.page, ".txt": report.text}
    text = json.dumps(facts, indent=1) + "\n" if path.suffix == ".json" else made[path.suffix](facts, timeline)
    write_whole(path, text)


def print_trades(facts: dict[str, Any]) -> None:
    """Print the trade-offs, if they were wanted."""
    from penstock.cli.columns import print_listing
    from penstock.view.report_trades import refused, trades

    if facts["pareto"] is None:
        return
    for table in trades(facts["pareto"]):
        print(f"\n{table.title}")
        print_listing(table)
    for line in refused(facts["pareto"]):
        print(f"  {line}")
