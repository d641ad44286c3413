"""What the questions of ``penstock plan`` print."""

from __future__ import annotations

from typing import Any

from penstock.cli.columns import print_columns, print_listing
from penstock.cli.plan_ask import count
from penstock.cli.predict_text import BILLION
from penstock.search.choice import Choice
from penstock.search.misses import too_much
from penstock.units import DAY_S, HOUR_S, human_bytes, human_s
from penstock.view.report_parts import ranking

Facts = dict[str, Any]
Listed = list[tuple[Facts, Choice]]
"""Figures of rows that have a choice, and it."""
EARLY = "stopped early, others may answer better"
"""Where Ctrl-C ended a search."""
MANY = 12
"""Numbers that are listed in a line."""


def need(one: Choice | None, headroom: float) -> str:
    """Return what the strategy that needs least needs, where none fits."""
    return "no strategy divides it" if one is None else f"{one.split} needs least, {too_much(one, headroom)}"


def print_numbers(facts: Facts, listed: Listed) -> None:
    """Print numbers of nodes, and the one that answers."""
    best, low, asked = facts["answer"], facts["cheapest"], facts["asked"]
    tried, took_s = f"{facts['searched']:,} of {len(facts['rows']):,}", facts["search_seconds"]
    some = " of the batches that were tried" if isinstance(asked["batch"], str) else ""
    how = (
        f"no other{some} can answer better"
        if all(row["proven"] for row in facts["rows"])
        else "others may answer better"
    )
    _print_law(facts)
    print(f"{tried} numbers of nodes searched in {took_s:.1f} s; {EARLY if facts['stopped'] else how}\n")
    what = "the fastest"
    if asked["deadline_seconds"] is not None:
        what = f"the fewest nodes for {_limits(asked)}"
    elif asked["budget_usd"] is not None:
        what = f"the fastest for {_limits(asked)}"
    print(f"{what}: {_said(best, asked)}")
    if low is not None:
        print(f"the cheapest: {_said(low, asked)}")
    if facts["beyond"]:
        print(f"  {facts['beyond']}")
    print()
    _print_table("nodes", asked, listed)
    if asked["nodes"] and facts["without"]:
        print(f"no strategy on {', '.join(f'{nodes:,}' for nodes in facts['without'][:MANY])}"
              f"{' and more' * (len(facts['without']) > MANY)} nodes")  # fmt: skip
    print(f"\nthe best\n  {best['choice']['predict']}")


def print_clusters(facts: Facts, listed: Listed) -> None:
    """Print clusters, the cheapest first."""
    rows = facts["rows"]
    _print_law(facts)
    print(f"{len(rows)} clusters in {facts['search_seconds']:.1f} s{f'; {EARLY}' * facts['stopped']}\n")
    _print_table("cluster", facts["asked"], listed)
    for row in rows:
        if row["choice"] is None:
            print(f"{row['cluster']}: {row['why']}")
        elif row["mixed"]:
            print(f"{row['cluster']}: all devices do the same work, so they keep the pace of the {row['device']}")
    for row in (row for row in rows if row["choice"]):
        if what := [what for what in ("cheapest", "fastest") if facts[what] == row["cluster"]]:
            print(f"\nthe {' and '.join(what)}: {_said(row, facts['asked'])}\n  {row['choice']['predict']}")
    if facts["beyond"]:
        print(f"  {facts['beyond']}")
    if any(row["choice"] and row["usd_per_billion_tokens"] is None for row in rows):
        print("\nwhere no rent is known, --usd-per-hour gives it: once for all, or once for each cluster")


def _print_law(facts: Facts) -> None:
    """What the batch is by, where nobody gave one."""
    found = facts["suggested"]
    if found is None:
        return
    law = next(law for law in found["laws"] if law["law"] == found["law"])
    tokens = "20 tokens a parameter" if found["tokens_assumed"] else f"{count(found['tokens'])} tokens"
    print(
        f"no --batch: {count(law['batch_tokens'])} tokens a step, rounded to the devices, as {found['law']} suggests "
        f"for {tokens} ({law['source'].partition(';')[0]}{', beyond its range' if law['times_beyond'] else ''})"
    )


def _limits(asked: Facts) -> str:
    """What the training may take, in words."""
    days, usd = asked["deadline_seconds"], asked["budget_usd"]
    said = [] if days is None else [f"{days / DAY_S:,.4g} days" if days >= DAY_S else f"{days / HOUR_S:,.4g} hours"]
    said += [] if usd is None else [f"$ {usd:,.0f}"]
    return f"{count(asked['tokens'])} tokens in " + " and ".join(said)


def _said(row: Facts, asked: Facts) -> str:
    """A row in words."""
    choice = row["choice"]
    words = [
        f"{row['nodes']:,} {'node' if row['nodes'] == 1 else 'nodes'} ({row['cluster']}), {row['devices']:,} devices"
    ]
    if choice["training_seconds"] is not None:
        low, high = (_days(choice, seconds) for seconds in choice["seconds_interval"])
        whole = _days(choice, choice["seconds"])
        times, unit = (1, "days") if whole >= 1 else (DAY_S / HOUR_S, "hours")
        words.append(f"{times * whole:,.1f} {unit} ({times * low:,.1f} to {times * high:,.1f})")
    else:
        words.append(f"{human_s(choice['seconds'])} a step")
    if _open(asked):
        words.append(f"batch {row['batch']:,} ({count(row['tokens_per_step'])} tokens a step)")
    if choice["training_usd"] is not None:
        words.append(f"$ {choice['training_usd']:,.0f}")
    elif row["usd_per_billion_tokens"] is not None:
        words.append(f"$ {row['usd_per_billion_tokens']:,.0f} per 1e9 tokens")
    return ", ".join(words)


def _open(asked: Facts) -> bool:
    """Whether the batch is not one number that was given."""
    return not isinstance(asked["batch"], int)


def _days(choice: Facts, seconds: float) -> float:
    """Days of the training, at so many seconds a step."""
    return float(choice["training_seconds"] / choice["seconds"] * seconds / DAY_S)


def _print_table(name: str, asked: Facts, listed: Listed) -> None:
    """Rows below a head: ``nodes`` or ``cluster`` first."""
    whole, named = asked["tokens"] is not None, name == "cluster"
    money = "cost" if whole else "$ per 1e9 tokens"
    many = _open(asked)
    head = (
        name,
        "devices",
        *(("batch",) if many else ()),
        "step time",
        *(("days",) if whole else ()),
        money,
        "tokens/s",
        "MFU",
        "left",
        "",
        "split",
    )
    rows = [_cells(row, choice, whole, named, many, asked) for row, choice in listed]
    print_columns([head, *rows], left=(0, len(head) - 2, len(head) - 1) if named else (len(head) - 2, len(head) - 1))


def _cells(row: Facts, one: Choice, whole: bool, named: bool, many: bool, asked: Facts) -> tuple[str, ...]:
    choice = row["choice"]
    usd = choice["training_usd"] if whole else row["usd_per_billion_tokens"]
    return (
        row["cluster"] if named else f"{row['nodes']:,}", f"{row['devices']:,}",
        *((f"{row['batch']:,}",) if many else ()), human_s(one.seconds),
        *((f"{choice['training_seconds'] / DAY_S:,.1f}",) if whole else ()),
        "" if usd is None else f"{usd:,.0f}" if whole else f"{usd:,.2f}",
        f"{one.tokens_per_s_per_device:,.0f}", f"{one.mfu:.1%}", f"{one.headroom:.0%}", _misses(choice, asked),
        one.split,
    )  # fmt: skip


def _misses(choice: Facts, asked: Facts) -> str:
    """What of the limits a row misses."""
    late = asked["deadline_seconds"] is not None and choice["training_seconds"] > asked["deadline_seconds"]
    dear = asked["budget_usd"] is not None and choice["training_usd"] > asked["budget_usd"]
    return " and ".join([*(["too late"] * late), *(["too dear"] * dear)])


def print_longest(facts: Facts) -> None:
    """Print the longest sequence and its plans."""
    more = facts["next"]
    _print_law(facts)
    took = f"({facts['search_seconds']:.1f} s{f'; {EARLY}' * facts['stopped']})"
    print(f"the longest sequence: {facts['seq']:,} tokens, {facts['batch']:,} a step {took}")
    print(f"what limits it: {facts['limit']}")
    if more is not None:
        print(f"  {more['split']}")
    _print_choices(facts)


def print_largest(facts: Facts) -> None:
    """Print the models of a family, from the largest on to the first that fits, and its plans."""
    best, rows = facts["models"][-1], facts["models"]
    _print_law(facts)
    print(
        f"the largest model: {best['model']}, {best['parameters'] / BILLION:,.4g}e9 parameters "
        f"({facts['search_seconds']:.1f} s{f'; {EARLY}' * facts['stopped']})"
    )
    too_large = [row for row in rows if row["needed_bytes"] is not None]
    if len(rows) - 1 > len(too_large):
        print(f"{len(rows) - 1 - len(too_large)} larger ones do not fit either")
    for row in too_large:
        needed = f"{human_bytes(row['needed_bytes'])} of {human_bytes(row['device_memory_bytes'])}"
        size = f"{row['parameters'] / BILLION:,.4g}e9 parameters"
        print(f"too large: {row['model']}, {size}, needs {needed}: {row['nearest']}")
    _print_choices(facts)


def _print_choices(facts: Facts) -> None:
    """The ranking, and the command that predicts the first."""
    print()
    print_listing(ranking(facts))
    print(f"\nthe best\n  {facts['choices'][0]['predict']}")
