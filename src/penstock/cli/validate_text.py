"""What ``penstock validate`` prints: a line for each source, device and framework, and the worst rows opened up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from penstock.units import human_s

if TYPE_CHECKING:
    from rich.table import Table

    from penstock.calibrate.summaries import Choice, Errors, Summary
    from penstock.calibrate.validation import Compared

MOST_NAME = 44
"""Letters of a source's title; where a title is longer, its end says more than its middle."""
LEAST_SHARE = 0.02
"""Of a step: smaller parts are not named."""
MOST_REASONS = 8
MOST_WIDTH = 400
COLUMNS = (
    *("rows", "time", "median", "p90", "bias", "rank", "regret", "inside"),
    *("memory", "median", "p90", "bias", "fits"),
)
MEANING = """\
per cent, but for counts and ranks; time, memory: rows that count; median, p90: of absolute errors
bias: signed median; rank: Spearman's correlation; inside: measured times in their interval
regret: of the setup predicted to be fastest, over the fastest; fits: rows rightly judged to fit or not"""


def print_report(rows: Sequence[Compared], found: dict[str, dict[str, Summary]], worst: int, strict: bool) -> None:
    """Print the tables, why rows are not predicted, and the worst rows."""
    from rich.console import Console

    table = _table()
    for key in ("source", "device", "framework", "all"):
        for name, one in found[key].items():
            table.add_row(shortened(name), *cells(one))
        table.add_section()
    Console(width=max(Console().width, Console(width=MOST_WIDTH).measure(table).maximum)).print(table)
    print(MEANING if strict else f"{MEANING}\nrows whose setup is not sure count too")
    _print_reasons(rows)
    for row in furthest(rows, worst, strict):
        print()
        print("\n".join(opened(row)))


def _table() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def shortened(name: str) -> str:
    """Return a title of at most ``MOST_NAME`` letters, with both its ends.

    >>> shortened("NVIDIA Megatron-Bridge performance summary, 26.04 NeMo Container")
    'NVIDIA Megatron-Bridge…, 26.04 NeMo Container'
    """
    if len(name) <= MOST_NAME:
        return name
    half = MOST_NAME // 2
    return f"{name[:half].rstrip()}…{name[-half:].lstrip()}"


def cells(one: Summary) -> list[str]:
    """Return a summary as texts below ``COLUMNS``."""
    return [
        str(one.rows),
        *_errors(one.time),
        "" if one.spearman is None else f"{one.spearman:.2f}",
        _percent(one.regret),
        _percent(one.inside, 0),
        *_errors(one.memory),
        _percent(one.judged_right),
    ]


def _errors(each: Errors | None) -> list[str]:
    if each is None:
        return ["0", "", "", ""]
    return [str(each.n), _percent(each.median), _percent(each.p90), _percent(each.bias, sign="+")]


def _percent(share: float | None, places: int = 1, sign: str = "") -> str:
    return "" if share is None else f"{100 * share:{sign}.{places}f}"


def _print_reasons(rows: Iterable[Compared]) -> None:
    reasons = Counter(row.why_not or row.unread for row in rows if row.why_not or row.unread)
    for reason, count in reasons.most_common(MOST_REASONS):
        print(f"not compared, {count} {'rows' if count > 1 else 'row'}: {reason}")
    rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(MOST_REASONS))
    if rest:
        print(f"not compared, {rest} more; --json names the reason of each")


def furthest(rows: Iterable[Compared], count: int, strict: bool) -> list[Compared]:
    """Return the rows whose time, or else memory, is furthest off, by how often one holds the other."""
    told = [row for row in rows if _counts(row, strict) and _factor(row) > 1]
    return sorted(told, key=_factor, reverse=True)[:count]


def _counts(row: Compared, strict: bool) -> bool:
    return not strict or (row.strict_time if row.time_error is not None else row.strict_memory)


def _factor(row: Compared) -> float:
    error = row.memory_error if row.time_error is None else row.time_error
    return 1.0 if error is None else max(1 + error, 1 / (1 + error))


def opened(row: Compared) -> list[str]:
    """Return the lines that open up a row: how it is set up, what was measured and predicted, and of what parts."""
    made, run = row.figures, row.run
    given = run.row
    if made is None or run.cluster is None:
        return [f"{given['id']}: {row.why_not}"]
    lines = [
        f"{given['id']}: {given.get('model_name', '')}, {row.source}",
        f"  setup      {run.cluster.name}, {row.framework}, {_setup(row)}",
    ]
    if row.measured_s is not None:
        spread = f"{human_s(made.low_s)} to {human_s(made.high_s)}"
        lines.append(f"  time       measured {human_s(row.measured_s)}, predicted {human_s(made.seconds)} ({spread})")
        parts = sorted(made.parts.items(), key=lambda part: -part[1])
        shown = [f"{name} {human_s(value)}" for name, value in parts if value > LEAST_SHARE * made.seconds]
        lines.append(f"  of it      {', '.join(shown)}")
    if row.measured_gb is not None:
        lines.append(f"  memory     measured {row.measured_gb:.4g}, predicted {made.memory_gb:.4g} GB {made.counts}")
    if made.guessed:
        lines.append(f"  guessed    {', '.join(made.guessed)}")
    return lines


def print_regrets(tasks: Sequence[Choice]) -> None:
    """Print the tasks whose predicted best is not the fastest, the dearest first, and how many there are."""
    wrong = sorted((one for one in tasks if one.regret > 0), key=lambda one: -one.regret)
    for one in wrong:
        given = one.fastest.run.row
        machines = f"{given['devices']} {one.fastest.device}, batch {given['global_batch']} of {given['seq_len']}"
        print(f"\n{_percent(one.regret)} % slower: {given.get('model_name', '')} on {machines}; {one.fastest.source}")
        for name, row in (("fastest", one.fastest), ("picked", one.picked)):
            print(f"  {name:<8} {_seconds(row)}  {row.run.row['id']}: {_setup(row)}")
    print(
        f"\nof {len(tasks)} tasks with several setups, the predicted best is the fastest in {len(tasks) - len(wrong)}"
    )


def _seconds(row: Compared) -> str:
    """A row's step, measured and predicted."""
    return (
        f"measured {human_s(row.measured_s or 0.0)}, predicted {human_s(row.figures.seconds if row.figures else 0.0)}"
    )


def _setup(row: Compared) -> str:
    """The fields of a setup that are not as they are by default."""
    from dataclasses import MISSING, fields

    setup = row.run.setup
    if setup is None:
        return ""
    plain = {field.name: field.default for field in fields(setup)}
    given = ((name, getattr(setup, name)) for name in plain)
    return " ".join(f"{name}={_word(value)}" for name, value in given if plain[name] is MISSING or value != plain[name])


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
