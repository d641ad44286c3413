"""What the pages say of schedules, ops and passes, from the code."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, Literal, get_args, get_origin

from tables import table

from penstock import SCHEDULES, Costs, Plan, add_sends, add_step, build, simulate, split_vocabulary
from penstock.core.op import NEEDS, Hop, Kind, Need
from penstock.cost import with_parts, with_whole
from penstock.engine.options import WORDS, options_of
from penstock.engine.passes import PASSES
from penstock.schedules import Schedule
from penstock.view import text
from penstock.view.marks import PHRASES

WIDE = 110
_NOTHING = {Kind.STEP: "every other op of every rank"}
"""What a kind waits for whose rule is empty, if not its turn in its lane alone."""
_PLACES = {
    Hop.SAME: "",
    Hop.PREV: " of the stage before",
    Hop.NEXT: " of the stage after",
    Hop.FIRST_HERE: " of the first stage, if that is on its rank",
    Hop.LAST_HERE: " of the last stage, if that is on its rank",
    Hop.PART_OF_FIRST: " of its rank, for the first stage",
    Hop.PART_OF_LAST: " of its rank, for the last stage",
}


def schedules() -> str:
    """The table of schedules with their papers and claims."""
    rows = [
        (f"`{name}`", _source(one), _first(one.idle), _first(one.peak_micros), "yes" if one.gradient_equal else "no")
        for name, one in SCHEDULES.items()
    ]
    return table(("name", "what it is", "idle time per step", "peak memory", "trains as one process"), rows)


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
    rows = [
        (f"`{k.name}`", PHRASES[k], "; ".join(map(_need, rule)) or _NOTHING.get(k, "its turn"))
        for k, rule in NEEDS.items()
    ]
    return table(("kind", "what it is", "needs"), rows)


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
    return table(("pass", "as text", "option"), rows)


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
        if plan.weights != "synced":
            continue
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
    return table(["", "no head", "whole head", "algorithm 1", "algorithm 2", "peak micro-batches"], rows)


def _need(need: Need) -> str:
    made_by = " or ".join(f"`{Kind(kind).name}`" for kind in need.made_by)
    slices = {0: "", -1: " of the slice before", 1: " of the slice after"}[need.slices]
    via = f" (through `{need.via.name}` if that is on another rank)" if need.via is not None else ""
    words = f"{'the last ' if need.latest else ''}{made_by}{_PLACES[need.at]}{slices}{via}"
    return f"{words}, if there is one" if need.if_any else words


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
