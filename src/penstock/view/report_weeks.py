"""What a report says of energy, of weeks with failures, and of what would change a plan."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.predict.energy import JOULES_PER_KWH
from penstock.units import DAY_S, human_s
from penstock.view.report_section import Facts, Listing, Section

BILLION = 1e9
HEAD = ("what if", "step time", "tokens/s", "the best then")


def efficiency(one: Facts) -> str:
    """HFU of a choice, and the energy it takes, where that is known."""
    said, joules = f"HFU {one['hfu']:.1%}", one["joules_per_step"]
    if joules is None:
        return said
    tokens = one["setup"]["seq"] * one["setup"]["batch"]
    whole = "" if one["training_kwh"] is None else f", {one['training_kwh']:,.0f} kWh in all"
    return f"{said}, {joules / JOULES_PER_KWH / tokens * BILLION:,.4g} kWh per billion tokens{whole}"


def weeks(over: Facts) -> str:
    """How much of the time trains, with failures as published."""
    whole = over["training"]
    days = "" if whole is None else f", {whole['seconds'] / DAY_S:,.1f} days"
    every = f"checkpoints every {human_s(over['every_s'])}"
    return f"with failures as published {trains(over, 1)}{days}, {every}"


def trains(over: Facts, places: int) -> str:
    """The share of the time that trains, with how many spare nodes."""
    spares = {0: "", 1: " with a spare node"}.get(over["spares"], f" with {over['spares']} spare nodes")
    return f"{over['share']:.{places}%} of the time trains{spares}"


def what_if(answers: Sequence[Facts]) -> Listing:
    """The table of what would change."""
    return Listing(title="What would change", head=HEAD, rows=[*map(_row, answers)], left=(0, 3))


def _row(answer: Facts) -> tuple[str, ...]:
    now_s, now = answer["now_s"], answer["now_tokens_per_s"]
    split = ("", "")
    if answer["seconds"] is not None:
        split = (f"{answer['seconds'] / now_s - 1:+.1%}", f"{answer['tokens_per_s'] / now - 1:+.1%}")
    if answer["same"]:
        return (answer["what"], *split, "the same")
    best = "" if not answer["best"] else f"{answer['best_tokens_per_s'] / now - 1:+.1%} tokens/s: {answer['best']}"
    why = f"this split: {answer['why']}" if best and answer["why"] else answer["why"]
    return (answer["what"], *split, "; ".join(filter(None, (best, why))))


def section(facts: Facts) -> Section:
    """The part of the report, of the best; there must be one that fits."""
    over, best = facts["goodput"], facts["choices"][0]
    lines = [f"{efficiency(best)}."]
    rows = []
    if over is not None:
        lines.append(f"{weeks(over).capitalize()}.")
        rows = [(name, f"{share:.2%}") for name, share in over["parts"].items()]
    tables = [Listing(title="Where the weeks go", head=("", "share of the time"), rows=rows)] if rows else []
    if facts["what_if"] is not None:
        tables.append(what_if(facts["what_if"]))
    return Section(
        name="weeks", title="Energy, and weeks with failures", lines=lines, tables=tables,
        code="" if over is None else over["command"],
    )  # fmt: skip
