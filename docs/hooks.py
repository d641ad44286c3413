"""What MkDocs builds from the code: the tables, the commands' help, the styles of code.

A line ``<!-- generate: NAME -->`` in a page gives way to what ``GENERATORS[NAME]`` makes, ``<!-- api: NAMES -->`` to
the docstrings of these names. So no fact stands twice.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from penstock import SCHEDULES, Costs, Plan, add_sends, add_step, build, cli_machines, simulate, split_vocabulary
from penstock.cli_peer_rows import shipped
from penstock.core.catalogue import catalogue, link_kinds
from penstock.core.cluster import Node
from penstock.core.device import Device
from penstock.core.job import TABLES, RunSpec, Setting, settings
from penstock.core.model import FAMILIES, Model, shipped_models
from penstock.core.op import NEEDS, Hop, Kind, Need
from penstock.cost import with_parts, with_whole
from penstock.cost.laws import Power
from penstock.cost.laws import laws as published_laws
from penstock.cost.profiles import LETTERS, profiles
from penstock.cost.stack import stacks
from penstock.engine.options import WORDS, options_of
from penstock.engine.passes import PASSES
from penstock.schedules import Schedule
from penstock.view import text
from penstock.view.marks import PHRASES

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 96
WIDE = 110
CODE_CSS = "code.css"
_MARK = re.compile(r"^<!-- generate: ([a-z ]+) -->$", re.MULTILINE)
_API = re.compile(r"^<!-- api: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page."""
    markdown = _API.sub(lambda match: "\n\n".join(map(_documented, match[1].split())), markdown)
    return _MARK.sub(lambda match: GENERATORS[match[1]](), markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the styles of code, for the light and the dark."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    light = HtmlFormatter(style="tango").get_style_defs(".highlight")
    dark = HtmlFormatter(style="nord").get_style_defs("[data-bs-theme=dark] .highlight")
    files.append(File.generated(config, CODE_CSS, content=f"{light}\n{dark}\n"))
    return files


def job_keys() -> str:
    """Every key of a job file, a table of rows for each table of the file."""
    parts = []
    for table, owner in {"": RunSpec, **TABLES}.items():
        ranges = {field.name: field.metadata for field in dataclasses.fields(owner)}
        mine = [setting for setting in settings().values() if setting.table == table]
        rows = [(f"`{s.name}`", s.help, _type(s), _range(ranges[s.name]), _default(s)) for s in mine]
        parts.append(f"### {f'`[{table}]`' if table else 'At the top'}\n")
        parts.append(_table(("key", "what it is", "type", "range", "default"), rows))
    return "\n".join(parts)


def schedules() -> str:
    """The table of schedules with their papers and claims."""
    rows = [
        (f"`{name}`", _source(one), _first(one.idle), _first(one.peak_micros), "yes" if one.gradient_equal else "no")
        for name, one in SCHEDULES.items()
    ]
    return _table(("name", "what it is", "idle time per step", "peak memory", "trains as one process"), rows)


def schedule_pages() -> str:
    """Each schedule drawn on four ranks, with what its rank does."""
    parts = []
    for name, one in SCHEDULES.items():
        plan = build(name, ranks=4, micros=8, chunks=2 if one.chunks else 1)
        timeline = simulate(plan, Costs.uniform(plan.placement), "F, I and W take 1 each")
        parts += [f"## `{name}` {{#schedule-{name}}}\n", f"{_source(one)}.\n", f"{_first(one.lane)}\n"]
        parts += [f"{_sizes(one)}\n", f"```text\n{text.gantt(timeline, WIDE, unit='')}```\n"]
    return "\n".join(parts)


def kinds() -> str:
    """Kinds of ops and what each needs: the one dependency rule."""
    rows = [(f"`{k.name}`", PHRASES[k], "; ".join(map(_need, rule)) or _EVERYTHING) for k, rule in NEEDS.items()]
    return _table(("kind", "what it is", "needs"), rows)


def models() -> str:
    """The models that come with Penstock."""
    found = {name: Model.read(name) for name in shipped_models()}
    rows = [
        (f"`{name}`", m.family, str(m.layers), str(m.hidden), f"{m.parameters:,}", "yes" if m.tied else "no")
        for name, m in found.items()
    ]
    return _table(("name", "family", "layers", "width", "parameters", "tied embeddings"), rows)


def families() -> str:
    """The families of models as words."""
    return f"Families: {', '.join(f'`{family}`' for family in FAMILIES)}.\n"


def lowered() -> str:
    """A small plan as text, with sends and steps."""
    plan: Plan = add_step(add_sends(build("zb-h1", ranks=2, micros=2)))
    return f"```text\n{plan.to_text()}```\n"


def passes() -> str:
    """The passes of ``--pass`` and their options, from the functions themselves."""
    rows = []
    for name, function in PASSES.items():
        said = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", f"{inspect.getdoc(function)}\n", re.M | re.S))
        for place, (option, (kind, _)) in enumerate(options_of(function).items()):
            text = f"{name}={_form(kind)}" if place == 0 else f"{option}={_form(kind)}"
            rows.append((_first(function) if place == 0 else "", f"`{text}`", " ".join(said[option].split())))
        if not options_of(function):
            rows.append((_first(function), f"`{name}`", ""))
    return _table(("pass", "as text", "option"), rows)


def _form(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "/".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "N+N+..."
    return "/".join(WORDS) if kind is bool else "NUMBER"


def split_vocabulary_table() -> str:
    """Makespans and peaks with a head of 1.6 forwards, whole and split."""
    rows = []
    for name, schedule in SCHEDULES.items():
        chunks = schedule.least_chunks(8, 32)
        if schedule.placement(8, chunks).chains > 1 or schedule.valid(8, 32, chunks):
            continue
        plan = build(name, 8, 32, chunks)
        bare = Costs.uniform(plan.placement)
        whole = simulate(plan, with_whole(bare, plan.placement, 1.6))
        row = [f"`{name}`", f"{simulate(plan, bare).makespan_s:.4g}", f"{whole.makespan_s:.4g}"]
        peaks = [f"{whole.peak_bytes.max():.3g}"]
        for algorithm in (1, 2):
            costs = with_parts(bare, plan.placement, algorithm, 1.6)
            split = simulate(split_vocabulary(plan, algorithm, costs=costs), costs)
            row.append(f"{split.makespan_s:.4g}")
            peaks.append(f"{split.peak_bytes.max():.3g}")
        rows.append([*row, " / ".join(peaks)])
    return _table(["", "no head", "whole head", "algorithm 1", "algorithm 2", "peak micro-batches"], rows)


def benchmarks() -> str:
    """What each benchmark says of itself."""
    rows = []
    for file in sorted((ROOT / "bench").glob("*.py")):
        said = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0].split())
        rows.append((f"`bench/{file.name}`", said))
    return _table(("file", "what it measures"), rows)


def cost_profiles() -> str:
    """The shipped profiles of costs."""
    rows = [
        (f"`{name}`", *(f"{number:g}" for number in one.numbers), str(one.ranks or ""), str(one.micros or ""))
        for name, one in profiles().items()
    ]
    source = said_by(ROOT / "src" / "penstock" / "data" / "costs" / "profiles.csv")
    return f"{_table(('name', *LETTERS, 'ranks', 'micro-batches'), rows)}\n{source}\n"


def peer_files() -> str:
    """What each file of published figures says of itself."""
    return "\n".join(f"- `{file.stem}`: {said_by(file)}" for file in shipped()) + "\n"


def frameworks() -> str:
    """The frameworks that predictions know, with their other names."""
    rows = [(f"`{one.name}`", ", ".join(one.aliases), one.source) for one in stacks().values()]
    return _table(("framework", "also", "source"), rows)


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
    return _table(("law", "batch", "learning rate", "found with", "source"), rows)


def _power(power: Power | None, unit: str = "") -> str:
    """A power of quantities in words."""
    if power is None:
        return ""
    each = [f"({n} / {power.per[n]:,.0f})^{p:g}" if n in power.per else f"{n}^{p:g}" for n, p in power.powers.items()]
    words = " × ".join([f"{power.scale * power.unit:g}", *(word.removesuffix("^1") for word in each)])
    return words + unit


def prediction_errors() -> str:
    """The recorded errors of predictions by source, in per cent."""
    recorded = json.loads((ROOT / "tests" / "golden" / "prediction_errors.json").read_text())["every 1"]
    names = ("time_n", "time_median", "time_p90", "spearman", "memory_n", "memory_median", "memory_p90", "judged_right")
    rows = [(source, *(_cell(name, one[name]) for name in names)) for source, one in recorded.items()]
    head = ("source", "times", "median", "p90", "rank", "peaks of memory", "median", "p90", "fits judged right")
    return _table(head, rows)


def left_out() -> str:
    """The recorded errors of sources that no constant was fitted to, in per cent."""
    recorded = json.loads((ROOT / "tests" / "golden" / "left_out_errors.json").read_text())
    head = (
        "runs of",
        "runs",
        *(f"{how}: {what}" for how in ("fitted", "left out", "title left out") for what in ("median", "p90")),
    )
    rows = []
    for name, one in recorded["sources"].items():
        cells = (f"{share:.1%}" for how in ("after", "alone", "by title") for share in one["errors"][how][:2])
        rows.append((name.strip(), str(one["runs"]), *cells))
    return f"Of {recorded['date']}:\n\n" + _table(head, rows)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if name.endswith("_n") else f"{value:.2f}" if name == "spearman" else f"{value:.1%}"


def devices() -> str:
    """The devices that Penstock knows, with their sources."""
    known = catalogue().devices.values()
    rows = [(f"`{row[0]}`", *row[1:]) for row in cli_machines.device_rows(known)]
    sources = [
        (f"`{one.name}`", ", ".join(f"`{name}`" for name in one.aliases), one.source, _how(one)) for one in known
    ]
    return f"{_table(cli_machines.DEVICE_HEAD, rows)}\n{_table(('device', 'also', 'source', 'derived'), sources)}"


def nodes() -> str:
    """The nodes that Penstock knows, with their sources."""
    known = catalogue().nodes.values()
    rows = [(f"`{row[0]}`", *row[1:]) for row in cli_machines.node_rows(known)]
    sources = [(f"`{one.name}`", one.source, one.price_source, _how(one)) for one in known]
    return f"{_table(cli_machines.NODE_HEAD, rows)}\n{_table(('node', 'source', 'price', 'derived'), sources)}"


def links() -> str:
    """The kinds of links."""
    rows = [
        (f"`{name}`", one["shape"], f"{one['latency_s'] * 1e6:g}", one["source"]) for name, one in link_kinds().items()
    ]
    return _table(("kind", "shape", "latency, us", "source"), rows)


def _how(one: Device | Node) -> str:
    return "; ".join(f"`{name}`: {how}" for name, how in one.derived.items())


def said_by(file: Path) -> str:
    """The comment at the top of a CSV file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# "))


def json_figures() -> str:
    """The figures that ``penstock schedule --json`` writes."""
    from penstock.cli import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / "figures.json"
        main(["schedule", "zb-h1", "--ranks", "4", "--micros", "8", "--json", str(file)])
        figures = re.sub(r'"seconds": [\d.]+', '"seconds": 0.01', file.read_text())
    return f"```json\n{figures}```\n"


def command_help(*command: str) -> Callable[[], str]:
    """The help of a command as the command line prints it."""

    def give() -> str:
        from rich.console import Console

        from penstock.cli import app

        out = io.StringIO()
        app.help_print(list(command), console=Console(file=out, width=COLUMNS, color_system=None))
        lines = (line.rstrip() for line in out.getvalue().strip().splitlines())
        return "```text\n" + "\n".join(lines) + "\n```\n"

    return give


GENERATORS: dict[str, Callable[[], str]] = {
    "job keys": job_keys,
    "schedules": schedules,
    "schedule pages": schedule_pages,
    "kinds": kinds,
    "models": models,
    "families": families,
    "lowered plan": lowered,
    "passes": passes,
    "split vocabulary": split_vocabulary_table,
    "benchmarks": benchmarks,
    "json": json_figures,
    "profiles": cost_profiles,
    "peers": peer_files,
    "help": command_help(),
    "help run": command_help("run"),
    "help schedule": command_help("schedule"),
    "help simulate": command_help("simulate"),
    "help check": command_help("check"),
    "help solve": command_help("solve"),
    "help peers": command_help("peers"),
    "help machines": command_help("machines"),
    "help plan": command_help("plan"),
    "help predict": command_help("predict"),
    "help explain": command_help("explain"),
    "frameworks": frameworks,
    "laws": laws,
    "prediction errors": prediction_errors,
    "left out errors": left_out,
    "help validate": command_help("validate"),
    "devices": devices,
    "nodes": nodes,
    "links": links,
}
HOMES = {"SCHEDULES": "penstock.schedules.table.SCHEDULES"}
"""Where names that do not know it themselves are defined."""
_EVERYTHING = "every other op of every rank"
_PLACES = {Hop.SAME: "", Hop.PREV: " of the stage before", Hop.NEXT: " of the stage after"}


def _documented(name: str) -> str:
    """The directive that documents a public name, by the place where it is defined."""
    module, _, last = (name if "." in name else f"penstock.{name}").rpartition(".")
    found = getattr(importlib.import_module(module), last)
    home = f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else HOMES[name]
    return f"::: {home}\n    options:\n      heading: {last}"


def _need(need: Need) -> str:
    made_by = " or ".join(f"`{Kind(kind).name}`" for kind in need.made_by)
    via = f" (through `{need.via.name}` if that is on another rank)" if need.via is not None else ""
    return f"{made_by}{_PLACES[need.at]}{via}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in lines) + "\n"


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


def _source(schedule: Schedule) -> str:
    """First line of the schedule's own file, its papers as links."""
    said = (sys.modules[schedule.lane.__module__].__doc__ or "").strip().partition("\n\n")[0].rstrip(".")
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", " ".join(said.split()))


def _first(function: Any) -> str:
    return " ".join((function.__doc__ or "").strip().partition("\n\n")[0].split())


def _sizes(schedule: Schedule) -> str:
    chunks = "Any number of chunks per rank" if schedule.chunks else "One chunk per rank"
    reason = next((why for m in range(1, 9) if (why := schedule.valid(4, m, 2 if schedule.chunks else 1))), "")
    sizes = f"Not every size, for example {reason}" if reason else "Any number of ranks and micro-batches"
    return f"{chunks}. {sizes}."
