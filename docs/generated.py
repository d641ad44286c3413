"""What the pages have from the code: the tables, the commands' help, the figures of a plan."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import generated_schedules as of
from blocks import ROOT
from tables import table

from penstock.cli import machines
from penstock.cli.peer_rows import shipped
from penstock.core.catalogue import catalogue, link_kinds
from penstock.core.cluster import Node
from penstock.core.device import Device
from penstock.core.job import TABLES, RunSpec, Setting, settings
from penstock.core.model import FAMILIES, Model, shipped_models
from penstock.core.optimizers import optimizers
from penstock.core.recipes import Recipe
from penstock.core.recipes import recipes as all_recipes
from penstock.cost.laws import Power
from penstock.cost.laws import laws as published_laws
from penstock.cost.profiles import LETTERS, profiles
from penstock.cost.stack import stacks
from penstock.predict import failures
from penstock.units import HOUR_S

COLUMNS = 96
"""Of the commands' help."""
MARK = re.compile(r"^<!-- generate: ([a-z ]+) -->$", re.MULTILINE)


def generated(name: str) -> str:
    """What takes the place of the mark of that name."""
    first, *command = name.split()
    return command_help(*command) if first == "help" else GENERATORS[name]()


def job_keys() -> str:
    """Every key of a job file, a table of rows for each table of the file."""
    parts = []
    for section, owner in {"": RunSpec, **TABLES}.items():
        ranges = {field.name: field.metadata for field in dataclasses.fields(owner)}
        mine = [setting for setting in settings().values() if setting.table == section]
        rows = [(f"`{s.name}`", s.help, _type(s), _range(ranges[s.name]), _default(s)) for s in mine]
        parts.append(f"### {f'`[{section}]`' if section else 'At the top'}\n")
        parts.append(table(("key", "what it is", "type", "range", "default"), rows))
    return "\n".join(parts)


def models() -> str:
    """The models that come with Penstock."""
    found = {name: Model.read(name) for name in shipped_models()}
    rows = [
        (f"`{name}`", m.family, str(m.layers), str(m.hidden), f"{m.parameters:,}", "yes" if m.tied else "no")
        for name, m in found.items()
    ]
    return table(("name", "family", "layers", "width", "parameters", "tied embeddings"), rows)


def families() -> str:
    """The families of models as words."""
    return f"Families: {', '.join(f'`{family}`' for family in FAMILIES)}.\n"


def benchmarks() -> str:
    """What each benchmark says of itself."""
    rows = []
    for file in sorted((ROOT / "bench").glob("*.py")):
        said = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0].split())
        rows.append((f"`bench/{file.name}`", said))
    return table(("file", "what it measures"), rows)


def cost_profiles() -> str:
    """The shipped profiles of costs."""
    rows = [
        (f"`{name}`", *(f"{number:g}" for number in one.numbers), str(one.ranks or ""), str(one.micros or ""))
        for name, one in profiles().items()
    ]
    source = said_by(ROOT / "src" / "penstock" / "data" / "costs" / "profiles.csv")
    return f"{table(('name', *LETTERS, 'ranks', 'micro-batches'), rows)}\n{source}\n"


def peer_files() -> str:
    """What each file of published figures says of itself."""
    return "\n".join(f"- `{file.stem}`: {said_by(file)}" for file in shipped()) + "\n"


def frameworks() -> str:
    """The frameworks that predictions know, with their other names."""
    rows = [(f"`{one.name}`", ", ".join(one.aliases), one.source) for one in stacks().values()]
    return table(("framework", "also", "source"), rows)


def recipes() -> str:
    """Recipes of low precision: what shares a scale, what casts move, where they run, and published results."""
    return table(
        ("recipe", "scales", "bytes of a cast", "products", "devices", "frameworks", "results published"),
        [_recipe(one) for one in all_recipes().values()],
    )


def _recipe(one: Recipe) -> tuple[str, ...]:
    casts, rates = (_by_value(one, of) for of in (one.cast_bytes, one.rate))
    having = [f"`{name}`" for name, stack in stacks().items() if one.name in stack.recipes]
    results = f"{one.gap} ({one.gap_source})"
    return f"`{one.name}`", one.scaled, casts, rates, ", ".join(one.architectures), ", ".join(having), results


def _by_value(one: Recipe, of: Callable[[str], float]) -> str:
    """A figure of each architecture, those together that have the same."""
    found: dict[float, list[str]] = {}
    for architecture in one.architectures:
        found.setdefault(round(of(architecture), 3), []).append(architecture)
    if len(found) == 1:
        return f"{next(iter(found)):g}"
    return "; ".join(f"{value:g} ({', '.join(names)})" for value, names in found.items())


def moments() -> str:
    """Optimizers, and what they remember of each parameter."""
    rows = [
        (f"`{name}`", f"{one.state_bytes:g}", f"{one.gap} ({one.gap_source})" if one.gap else "")
        for name, one in optimizers().items()
    ]
    return table(("optimizer", "bytes of its state for a parameter", "results published"), rows)


def laws() -> str:
    """The laws that suggest batches and learning rates: formulas, ranges and sources."""
    rows = [
        (
            f"`{one.name}`",
            _power(one.batch, " tokens"),
            _power(one.rate),
            ", ".join(f"{low:g} to {high:g} {name}" for name, (low, high) in one.within.items()),
            one.source,
        )
        for one in published_laws().values()
        if one.tokens is None
    ]
    return table(("law", "batch", "learning rate", "found with", "source"), rows)


def _power(power: Power | None, unit: str = "") -> str:
    """A power of quantities in words."""
    if power is None:
        return ""
    each = [f"({n} / {power.per[n]:,.0f})^{p:g}" if n in power.per else f"{n}^{p:g}" for n, p in power.powers.items()]
    words = " × ".join([f"{power.scale * power.unit:g}", *(word.removesuffix("^1") for word in each)])
    return words + unit


def failure_rates() -> str:
    """Published rates of interruptions, as hours of one device."""
    rows = []
    for name, one in failures.table()["rates"].items():
        counted = "days" in one
        often = f"{one['interruptions']} in {one['days']} days" if counted else f"every {one['hours_between']:g} hours"
        hours = f"{failures.published_mtbf_s(name) / HOUR_S:,.0f}"
        rows.append(
            (f"`{name}`", hours, f"{often} on {one['devices']:,} {one.get('device', 'devices')}", one["source"])
        )
    return table(("name", "hours", "interruptions", "source"), rows)


def prediction_errors() -> str:
    """The recorded errors of predictions by source, in per cent."""
    recorded = json.loads((ROOT / "tests" / "golden" / "prediction_errors.json").read_text())["every 1"]
    names = ("time_n", "time_median", "time_p90", "spearman", "memory_n", "memory_median", "memory_p90", "judged_right")
    rows = [(source, *(_cell(name, one[name]) for name in names)) for source, one in recorded.items()]
    head = ("source", "times", "median", "p90", "rank", "peaks of memory", "median", "p90", "fits judged right")
    return table(head, rows)


def left_out() -> str:
    """The recorded errors of sources that no constant was fitted to, in per cent."""
    recorded = json.loads((ROOT / "tests" / "golden" / "left_out_errors.json").read_text())
    shown, ways = ("median", "p90"), ("after", "alone", "by title", "unknown device")
    head = (
        "runs of",
        "runs",
        *(f"{how}: {what}" for how in ("fitted", "left out", "title left out", "device unknown") for what in shown),
    )
    rows = []
    for name, one in recorded["sources"].items():
        figures = (one["errors"].get(how, (None, None)) for how in ways)
        cells = (_cell(what, share) for each in figures for what, share in zip(shown, each, strict=False))
        rows.append((name.strip(), str(one["runs"]), *cells))
    return f"Of {recorded['date']}:\n\n" + table(head, rows)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if name.endswith("_n") else f"{value:.2f}" if name == "spearman" else f"{value:.1%}"


def devices() -> str:
    """The devices that Penstock knows, with their sources."""
    known = catalogue().devices.values()
    rows = [(f"`{row[0]}`", *row[1:]) for row in machines.device_rows(known)]
    sources = [
        (f"`{one.name}`", ", ".join(f"`{name}`" for name in one.aliases), one.source, _how(one)) for one in known
    ]
    return f"{table(machines.DEVICE_HEAD, rows)}\n{table(('device', 'also', 'source', 'derived'), sources)}"


def nodes() -> str:
    """The nodes that Penstock knows, with their sources."""
    known = catalogue().nodes.values()
    rows = [(f"`{row[0]}`", *row[1:]) for row in machines.node_rows(known)]
    sources = [(f"`{one.name}`", one.source, one.price_source, _how(one)) for one in known]
    return f"{table(machines.NODE_HEAD, rows)}\n{table(('node', 'source', 'price', 'derived'), sources)}"


def links() -> str:
    """The kinds of links."""
    rows = [
        (f"`{name}`", one["shape"], f"{one['latency_s'] * 1e6:g}", one["source"]) for name, one in link_kinds().items()
    ]
    return table(("kind", "shape", "latency, us", "source"), rows)


def _how(one: Device | Node) -> str:
    return "; ".join(f"`{name}`: {how}" for name, how in one.derived.items())


def said_by(file: Path) -> str:
    """The comment at the top of a CSV file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# "))


def json_figures() -> str:
    """The figures that ``penstock schedule --json`` writes."""
    from penstock.cli.main import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / "figures.json"
        main(["schedule", "zb-h1", "--ranks", "4", "--micros", "8", "--json", str(file)])
        figures = re.sub(r'"seconds": [\d.]+', '"seconds": 0.01', file.read_text())
    return f"```json\n{figures}```\n"


def command_help(*command: str) -> str:
    """The help of a command as the command line prints it."""
    from rich.console import Console

    from penstock.cli.main import app

    out = io.StringIO()
    app.help_print(list(command), console=Console(file=out, width=COLUMNS, color_system=None))
    lines = (line.rstrip() for line in out.getvalue().strip().splitlines())
    return "```text\n" + "\n".join(lines) + "\n```\n"


GENERATORS: dict[str, Callable[[], str]] = {
    "job keys": job_keys,
    "schedules": of.schedules,
    "schedule pages": of.schedule_pages,
    "kinds": of.kinds,
    "models": models,
    "families": families,
    "lowered plan": of.lowered,
    "passes": of.passes,
    "split vocabulary": of.split_vocabulary_table,
    "benchmarks": benchmarks,
    "json": json_figures,
    "profiles": cost_profiles,
    "peers": peer_files,
    "frameworks": frameworks,
    "laws": laws,
    "recipes": recipes,
    "moments": moments,
    "failure rates": failure_rates,
    "prediction errors": prediction_errors,
    "left out errors": left_out,
    "devices": devices,
    "nodes": nodes,
    "links": links,
}


def _type(setting: Setting) -> str:
    kind = setting.type
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice!r}`".replace("'", '"') for choice in get_args(kind))
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return names.get(kind, "list of whole numbers")


def _range(metadata: Any) -> str:
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    parts = [f"above {above:g}"] if above is not None else [f"{low:g} or more"] if abs(low) != float("inf") else []
    return ", ".join([*parts, *([f"at most {high:.7g}"] if high < 1e15 else [])])


def _default(setting: Setting) -> str:
    if setting.default is None or setting.default == "":
        return "left out"
    return f"`{str(setting.default).lower() if isinstance(setting.default, bool) else repr(setting.default)}`".replace(
        "'", '"'
    )
