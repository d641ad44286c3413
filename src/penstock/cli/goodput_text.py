"""What ``penstock goodput`` prints and writes: a training over weeks by names for scripts, and as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from penstock.cli.columns import print_columns
from penstock.cli.goodput import Weeks
from penstock.cli.predict import Asked
from penstock.cli.predict_text import head, usd_of
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.predict import Prediction
from penstock.predict.energy import JOULES_PER_KWH, joules
from penstock.predict.failures import Failures, published_mtbf_s, table
from penstock.predict.goodput import Goodput, goodput
from penstock.units import DAY_S, HOUR_S, human_bytes, human_s
from penstock.view.report_weeks import trains

SPARES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
INSTEAD = {"write_mb_per_s": "write_seconds", "load_mb_per_s": "load_minutes"}
"""Flags with which a default is not needed."""
ENOUGH = 0.001
"""Share of time that waits for nodes, with which more spare nodes are not tried."""


def facts_of(found: Prediction, asked: Asked, failures: Failures, tokens: float | None) -> dict[str, Any]:
    """Return a training over weeks by the names that scripts read, in SI units and shares."""
    over = goodput(found, asked.cluster, failures)
    unbroken_s = None if tokens is None else tokens / found.tokens * found.seconds
    return {
        "model": asked.model.name,
        "parameters": asked.model.parameters,
        "devices": found.devices,
        "device": asked.cluster.device.name,
        "framework": asked.framework.name,
        "setup": asdict(asked.setup),
        "fits": found.fits,
        "step_seconds": found.seconds,
        "mfu": found.mfu,
        "tokens_per_s": over.share * found.tokens_per_s,
        "checkpoint_bytes": found.checkpoint_bytes,
        "failures": asdict(failures),
        "goodput": asdict(over),
        "training_seconds_unbroken": unbroken_s,
        "training": training(over, unbroken_s, found.devices, asked.cluster),
        "by_spares": [*_by_spares(found, asked.cluster, failures, over.spares, unbroken_s)],
    }


def training(over: Goodput, unbroken_s: float | None, devices: int, cluster: Cluster) -> dict[str, Any] | None:
    """Return what the whole of a training takes that would take ``unbroken_s`` without failures, ``None`` if nobody
    said how long it is; spare nodes and those that stand still cost and draw as if they trained."""
    if unbroken_s is None:
        return None
    seconds = unbroken_s / over.share
    times = 1 + over.spares / over.nodes
    usd, energy = usd_of(cluster, devices, seconds), joules(cluster, devices, seconds)
    return {
        "seconds": seconds,
        "interruptions": seconds * over.failures_per_s,
        "usd": None if usd is None else usd * times,
        "kwh": None if energy is None else energy / JOULES_PER_KWH * times,
    }


def _by_spares(
    found: Prediction, cluster: Cluster, failures: Failures, least: int, unbroken_s: float | None
) -> Iterator[dict[str, Any]]:
    """The same with more and more spare nodes, the ``least`` among them, until hardly any time waits for one."""
    for spares in sorted({*SPARES, least}):
        over = goodput(found, cluster, replace(failures, spares=spares))
        waiting = over.parts["waiting for nodes"]
        whole = training(over, unbroken_s, found.devices, cluster) or {}
        yield {"spares": spares, "goodput": over.share, "waiting": waiting, **whole}
        if waiting < ENOUGH and spares >= least:
            return


def print_goodput(facts: dict[str, Any], setup: Setup, assumed: list[tuple[str, ...]]) -> None:
    """Print a training over weeks for people."""
    print_columns(head(facts, setup), left=(0, 1))
    print()
    print_columns(_share(facts), left=(0, 1))
    print("\nwhere the time goes")
    parts = sorted(facts["goodput"]["parts"].items(), key=lambda part: -part[1])
    whole = facts["training"]
    print_columns(
        (f"  {name}", f"{part:.2%}", *([f"{whole['seconds'] * part / DAY_S:,.1f} days"] if whole else []))
        for name, part in parts
    )
    print("\nspare nodes")
    print_columns(_spares(facts["by_spares"]))
    if facts["failures"]["spares"] is None:
        print(f"  with {facts['goodput']['spares']} of them a training is cheapest")
    if assumed:
        print("\nassumed")
        print_columns(assumed, left=(0, 1, 2))


def _share(facts: dict[str, Any]) -> list[tuple[str, str]]:
    over, per_s = facts["goodput"], facts["tokens_per_s"]
    mfu = f"MFU {facts['mfu']:.1%} in a step, {over['share'] * facts['mfu']:.1%} of all time"
    written = f"{human_bytes(facts['checkpoint_bytes'])} written in {human_s(over['write_s'])}"
    stopped = "" if over["stop_s"] == over["write_s"] else f", {human_s(over['stop_s'])} of it standing still"
    every = f"every {human_s(over['every_s'])}, {over['every_steps']:,} steps of {human_s(over['step_s'])}"
    best = (human_s(over[f"{who}_s"]) for who in ("best", "young", "daly"))
    rows = [] if facts["fits"] else [("memory", "does not fit; see penstock predict")]
    rows += [
        ("goodput", f"{trains(over, 2)}, {per_s:,.0f} tokens per second; {mfu}"),
        ("interrupted", f"every {human_s(over['mtbf_s'])} of running"),
        ("checkpoint", f"{every}; {written}{stopped}"),
        ("best interval", "{}; by Young {}, by Daly {}".format(*best)),
    ]
    if whole := facts["training"]:
        without = facts["training_seconds_unbroken"] / DAY_S
        often = f"{whole['interruptions']:,.0f} interruptions"
        rows.append(("training", f"{whole['seconds'] / DAY_S:,.1f} days, {without:,.1f} without failures; {often}"))
        if whole["usd"] is not None:
            rows.append(("cost", f"$ {whole['usd']:,.0f}"))
        if whole["kwh"] is not None:
            rows.append(("energy", f"{whole['kwh']:,.0f} kWh, standing still as in steps"))
    return rows


def _spares(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    whole, priced = "seconds" in rows[0], rows[0].get("usd") is not None
    yield ("  nodes", "goodput", "waiting", *(("days",) if whole else ()), *(("cost",) if priced else ()))
    for row in rows:
        days = (f"{row['seconds'] / DAY_S:,.1f}",) if whole else ()
        cost = (f"$ {row['usd']:,.0f}",) if priced else ()
        yield (f"  {row['spares']}", f"{row['goodput']:.2%}", f"{row['waiting']:.2%}", *days, *cost)


def sources(rate: str | None, weeks: Weeks) -> list[tuple[str, ...]]:
    """Return what the user did not say: the flag, the value and its source."""
    known = table()
    named = rate or str(known["defaults"]["rate"]["value"])
    found: list[tuple[str, ...]] = []
    if weeks.mtbf_hours is None:
        hours = f"{published_mtbf_s(named) / HOUR_S:,.0f} of a device"
        found.append(("  mtbf-hours", hours, known["rates"][named]["source"]))
    for name, facts in known["defaults"].items():
        if name != "rate" and getattr(weeks, name) is None and getattr(weeks, INSTEAD.get(name, name)) is None:
            found.append((f"  {name.replace('_', '-')}", f"{facts['value']:g}", facts["source"]))
    return found
