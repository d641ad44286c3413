"""The command ``penstock goodput``: a predicted step over weeks, with failures, checkpoints, spares and stragglers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli.json import json_file, write_facts
from penstock.cli.predict import NO_FLAGS, READ_COUNT, Flags, asked_for, check_tokens
from penstock.units import HOUR_S

if TYPE_CHECKING:
    from penstock.predict.failures import Failures

UNITS_S = {"hours": HOUR_S, "minutes": 60.0, "seconds": 1.0}
FIELDS = {
    "checkpoint_minutes": "every_s",
    "write_mb_per_s": "write_bytes_per_s",
    "load_mb_per_s": "load_bytes_per_s",
}
"""Flags that are not called like the field of the failures that they set, but for its unit."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Weeks:
    """What happens in weeks; ``None`` where the user said nothing."""

    mtbf_hours: float | None = None
    """mean time between two interruptions of one device; left out, that of --failures."""
    restart_minutes: float | None = None
    """from an interruption until all processes run again: detection, another node, start [default: 11]."""
    load_minutes: float | None = None
    """to read the checkpoint; left out, by --load-mb-per-s."""
    warm_up_minutes: float | None = None
    """from then until steps are as fast as before [default: 0]."""
    checkpoint_minutes: float | None = None
    """training between two checkpoints; left out, as is best."""
    write_seconds: float | None = None
    """until a checkpoint is written; left out, by --write-mb-per-s."""
    write_mb_per_s: float | None = None
    """to storage that outlives nodes, of one device, all at once [default: 79.4]."""
    load_mb_per_s: float | None = None
    """from there, likewise [default: 298.6]."""
    stop_seconds: float | None = None
    """of that, what training stands still; left out, all of it."""
    spares: int | None = None
    """nodes that wait to stand in; left out, as many as make a training cheapest."""
    node_share: float | None = None
    """share of interruptions that take a node away [default: 0.78]."""
    repair_hours: float | None = None
    """until such a node is back [default: 2.2]."""
    slow_share: float | None = None
    """share of nodes that are slow at a time [default: 0]."""
    slow_by: float | None = None
    """by how much their steps take longer, and with them everybody's: 0.1 for a tenth."""


NO_WEEKS = Weeks()


def goodput(
    *,
    model: str | None = None,
    cluster: str,
    framework: str | None = None,
    flags: Annotated[Flags, Parameter(name="*")] = NO_FLAGS,  # type: ignore[valid-type]
    tokens: Annotated[float | None, READ_COUNT] = None,
    failures: str | None = None,
    weeks: Weeks = NO_WEEKS,
    usd_per_hour: float | None = None,
    json: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    start: Annotated[Path | None, Parameter(name="--from")] = None,
) -> None:
    """Predict a training over weeks: the share of time that trains, how often to write checkpoints, spare nodes.

    Args:
        model: as for penstock predict; left out, that of --from.
        cluster: as for penstock predict.
        framework: as for penstock predict.
        tokens: of the whole training, for its time, cost and energy; for example 15T.
        failures: a published rate of interruptions: llama-3-405b, meta-rsc-1, lablup-b200 or nebius; left out,
            llama-3-405b.
        usd_per_hour: rent of one node, in place of the catalogue's.
        json: print all figures as one JSON object in place of the text, or write them to a file beside it.
        start: a file of another framework, as for penstock predict.
    """
    from penstock.cli import goodput_text as text

    json_file(json)
    check_tokens(tokens)
    assumed = failures_of(failures, weeks)
    asked = asked_for(model, cluster, framework, flags, usd_per_hour, start)
    found = asked.predicted()
    named = model or asked.model.name
    facts = {"asked": {"model": named, "cluster": cluster, "framework": asked.framework.name, "tokens": tokens}}
    facts |= text.facts_of(found, asked, assumed, tokens)
    write_facts(facts, json, lambda: text.print_goodput(facts, asked.setup, text.sources(failures, weeks)))


def failures_of(rate: str | None, weeks: Weeks) -> Failures:
    """Return what a published rate and flags say of failures.

    Raises:
        ValueError: a name is unknown, a number cannot be, or two say the same.
    """
    from penstock.predict.failures import ABOVE_ZERO, MB, Failures, published_mtbf_s

    given = {each.name: value for each in fields(Weeks) if (value := getattr(weeks, each.name)) is not None}
    if rate is not None and "mtbf_hours" in given:
        raise ValueError(f"--failures {rate} and --mtbf-hours {given['mtbf_hours']:g} say the same; give one")
    found: dict[str, Any] = {} if rate is None else {"mtbf_s": published_mtbf_s(rate)}
    for name, value in given.items():
        first, _, unit = name.rpartition("_")
        field = FIELDS.get(name, f"{first}_s" if unit in UNITS_S else name)
        flag = f"--{name.replace('_', '-')} {value:g}"
        if not 0 <= value < inf:
            raise ValueError(f"{flag}: give a number that is not below 0")
        if value == 0 and field in ABOVE_ZERO:
            raise ValueError(f"{flag}: give a number above 0")
        size = MB if name.endswith("_mb_per_s") else UNITS_S.get(unit, 1)
        found[field] = value * size
    return Failures(**found)
