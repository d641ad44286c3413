"""``penstock schedule all``: every schedule of the table at the same sizes, ranked."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penstock.cli.figures import Files, facts_of, write_files
from penstock.cli.tries import Candidate, Sizes, candidates

DRAWN = 6
"""How many of the best schedules a page shows."""
Row = tuple[Candidate, dict[str, Any]]


def compare(sizes: Sizes, csv_file: Path | None, files: Files) -> None:
    """Rank every schedule, best first, and say why the others cannot be had.

    Files hold the best of each schedule and number of chunks; the text and the picture the best of each schedule.

    Raises:
        ValueError: none can be had.
    """
    found = list(candidates(sizes))
    key = "makespan" if sizes.objective == "sync" else "span"
    rows = [(one, facts_about(one, sizes)) for one in found if one.timeline is not None]
    if not rows:
        raise ValueError(f"no schedule fits: {'; '.join(f'{one} {one.reason}' for one in _nearest(found))}")
    rows.sort(key=lambda row: (row[1][key], row[1]["peak_over_p"]))
    ranked = _first_of(rows, lambda one: (one.name, one.chunks))
    best = _first_of(ranked, lambda one: one.name)
    facts = [row for _, row in ranked]
    shown = [row for _, row in best]
    title = f"{sizes.ranks} ranks, {sizes.micros} micro-batches"
    timelines = [one.timeline for one, _ in best[:DRAWN] if one.timeline is not None]

    def picture(path: Path) -> None:
        from penstock.view import ranking

        ranking.save(shown, key, path, title, sizes.memory)

    outputs = {csv_file: to_csv(facts)} if csv_file else {}
    write_files(files, outputs, facts, timelines, title, picture)
    _print_ranking(shown, key)
    _print_rest(found, {one.name for one, _ in best}, len(ranked) - len(best))


def facts_about(one: Candidate, sizes: Sizes) -> dict[str, Any]:
    """The figures of a schedule by the names that scripts read, with its knobs."""
    assert one.timeline is not None
    facts = facts_of(one.timeline, sizes.pricing, sizes.memory, one.seconds, sizes.passes)
    return {"name": one.name, "options": one.options} | facts


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header; lists and knobs with blanks, what is not known empty.

    Example:
        >>> to_csv([{"a": [1, 2], "b": {"group": 4}, "c": None}])
        'a,b,c\\n1 2,group=4,\\n'
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{name}={entry}" for name, entry in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _first_of(rows: Iterable[Row], group: Any) -> list[Row]:
    """The first row of each group, in order."""
    seen: dict[Any, Row] = {}
    for row in rows:
        seen.setdefault(group(row[0]), row)
    return list(seen.values())


def _print_ranking(ranked: list[dict[str, Any]], key: str) -> None:
    from rich.console import Console
    from rich.table import Table

    bubble = "bubble_sync" if key == "makespan" else "bubble_span"
    with_bytes = ranked[0]["message_bytes"] is not None
    volume = ("messages", "bytes") if with_bytes else ("messages",)
    table = Table("schedule", "chunks", key, "bubble", "gap", "peak", *volume, "copies", box=None, pad_edge=False)
    for facts in ranked:
        table.add_row(
            " ".join([facts["name"], *(f"{name}={value}" for name, value in facts["options"].items())]),
            str(facts["chunks"]),
            f"{facts[key]:.6g}",
            f"{facts[bubble]:.2f} %",
            f"{facts[f'gap_{key}']:.2f} %",
            f"{facts['peak_over_p']:.4g}",
            str(facts["messages"]),
            *([f"{facts['message_bytes']:.4g}"] if with_bytes else []),
            str(facts["weight_copies"]),
        )
    Console().print(table)
    late = [facts["name"] for facts in ranked if not facts["gradient_equal"]]
    if late:
        print(f"not gradient-equal, weights move while micro-batches are in flight: {', '.join(late)}")
    sliced = [facts["name"] for facts in ranked if facts["slices"] > 1]
    if sliced:
        print(f"each of k slices of a sequence is taken to cost 1/k, whatever it attends to: {', '.join(sliced)}")


def _print_rest(found: list[Candidate], fitting: set[str], more: int) -> None:
    """What the columns mean, and why schedules are not in the table."""
    print("gap: over what no order beats in the same memory; peak: as a fraction of 1F1B's; messages: sent by one rank")
    if more:
        print(f"the best of each schedule; --csv and --json hold {more} more, with other numbers of chunks")
    for one in _nearest(each for each in found if each.name not in fitting):
        print(f"not {one}: {one.reason}")


def _nearest(failed: Iterable[Candidate]) -> list[Candidate]:
    """Of each schedule that does not fit, the candidate that needs least."""
    least: dict[str, Candidate] = {}
    for one in failed:
        least[one.name] = min(least.get(one.name, one), one, key=lambda each: each.peak)
    return list(least.values())
