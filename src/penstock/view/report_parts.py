"""What a report of a plan says, section by section, from its facts: sentences, tables, trees and charts; ``report``
makes a page or text of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from penstock.cost.origins import shown
from penstock.units import DAY_S, human_bytes, human_s
from penstock.view import charts, report_trades, report_weeks
from penstock.view.columns import training_cells
from penstock.view.report_numbers import by_numbers, notes
from penstock.view.report_section import Facts, Listing, Section
from penstock.view.roofline import COLOURS


def title(facts: Facts) -> str:
    """What the report is of."""
    asked = facts["asked"]
    return f"{asked['model']} on {facts['devices']:,} {facts['device']}"


def best(facts: Facts) -> Facts:
    """The strategy that the report opens: the fastest, or where nothing fits the one that needs least."""
    found: Facts = facts["choices"][0] if facts["choices"] else facts["nearest"]
    return found


def figures(facts: Facts) -> dict[str, str]:
    """The answer in a few figures."""
    one, more = best(facts), facts["report"]
    found = {
        "step time": f"{human_s(one['seconds'])} ({' to '.join(map(human_s, one['seconds_interval']))})",
        "tokens per second": f"{more['tokens_per_s']:,.0f}",
        "of one device": f"{one['tokens_per_s_per_device']:,.0f}",
        "MFU, HFU": f"{one['mfu']:.1%}, {one['hfu']:.1%}",
        "bubble": f"{one['bubble']:.1%}",
        "messages": human_s(one["messages_s"]),
        "memory": f"{human_bytes(one['memory_bytes']['needed'])} of {human_bytes(one['device_memory_bytes'])}",
        "left": f"{one['headroom']:.0%}",
    }
    if one["training_seconds"] is not None:
        found["days"] = f"{one['training_seconds'] / DAY_S:,.1f}"
    usd = one["training_usd"] or one["usd_per_step"]
    if usd is not None:
        found["cost" if one["training_usd"] else "cost of a step"] = charts.dollars(usd)
    return found


def sections(facts: Facts, timeline_note: str) -> list[Section]:
    """All parts, in order.

    Args:
        facts: what ``penstock plan --json`` writes, with ``report`` and ``pareto``.
        timeline_note: what is said of the timeline.
    """
    return [
        _plan(facts),
        _memory(facts),
        Section(name="timeline", title="The pipeline's timeline", lines=[timeline_note]),
        _time(facts),
        _roofline(facts),
        _others(facts),
        report_trades.section(facts["pareto"]),
        *([report_weeks.section(facts)] if facts["choices"] else []),
        _assumptions(facts),
    ]


def proof(facts: Facts) -> str:
    """Whether others may be faster, in words."""
    if facts["stopped"]:
        return "stopped early, others may be faster"
    return "none can be faster" if facts["proven"] else "others may be as fast"


def _plan(facts: Facts) -> Section:
    more = facts["report"]
    counts = (
        f"{facts['considered']:,} strategies were looked at: {facts['impossible']:,} do not divide the model, "
        f"{facts['too_large']:,} need too much memory, {facts['too_slow']:,} are too slow by their work alone, "
        f"{facts['scored']:,} were scored, {facts['predicted']:,} "
        f"predicted with their timelines; {proof(facts)}."
        if facts["choices"]
        else f"Nothing fits: of {facts['considered']:,} strategies this one needs least, and that is too much."
    )
    return Section(
        name="plan", title="The question and the plan", lines=[*more["question"], counts],
        heading="The plan", items=more["strategy"], code=best(facts)["predict"],
    )  # fmt: skip


def _memory(facts: Facts) -> Section:
    ranks, device_bytes = facts["report"]["memory_by_rank_bytes"], best(facts)["device_memory_bytes"]
    held = [name for name in charts.HELD if any(rank[name] for rank in ranks)]
    rows = [
        (str(r), *(human_bytes(rank[name]) for name in held), human_bytes(rank["total"]), human_bytes(rank["needed"]))
        for r, rank in enumerate(ranks)
    ]
    return Section(
        name="memory", title="Memory of a device",
        lines=["One bar for a device of each pipeline rank, at its peak. The reserve of the allocator is given back "
               "before anything fails: without it is what is needed."],
        figures={"": charts.memory(ranks, device_bytes)},
        legend={name: charts.HELD[name] for name in held},
        tables=[Listing(title="Memory by rank", head=("rank", *held, "all", "needed"), rows=rows, folded=True)],
    )  # fmt: skip


def _time(facts: Facts) -> Section:
    tree = facts["report"]["time"]
    how = f"Seconds {tree['how']}. Each is the sum of those below it, down to operators and their formulas."
    return Section(name="time", title="Where the time goes", lines=[how], tree=tree)


def _roofline(facts: Facts) -> Section:
    found = facts["report"]["roofline"]
    whole = sum(point["seconds"] for point in found["operators"])
    rows = [
        (
            point["name"], point["kind"].replace("_", " "), human_s(point["seconds"]),
            f"{point['seconds'] / whole:.1%}", f"{point['flops_per_byte']:,.1f}", f"{point['flops_per_s'] / 1e12:,.2f}",
        )
        for point in found["operators"]
    ]  # fmt: skip
    head = ("operator", "kind", "time", "share", "FLOPs per byte", "TFLOP/s")
    kinds = dict.fromkeys(point["kind"] for point in found["operators"])
    return Section(
        name="roofline", title="Operators under the roofline",
        lines=["An operator stands where its FLOPs per byte and its rate meet; its area is its time. Full lines are "
               "peaks of the datasheet, dashed ones what large work reaches of them through a step."],
        figures={"": charts.roofline(found)},
        legend={kind.replace("_", " "): COLOURS[kind] for kind in kinds},
        tables=[Listing(title="Operators of the rank that ends last", head=head, rows=rows, left=(0, 1), folded=True)],
    )  # fmt: skip


def _others(facts: Facts) -> Section:
    tables = [ranking(facts), _commands(facts)] if facts["choices"] else []
    if facts["why"] is not None:
        tables.append(beside(facts["why"], best(facts)))
    numbers = facts["numbers"]
    tables[1:1] = [by_numbers(numbers)] if len(numbers) > 1 else []
    if facts["choices"]:
        lines = ["The strategies that were predicted to be fastest, and why neighbours of the first lost."]
        lines += [line.strip() for line in notes(numbers)]
        return Section(name="others", title="Alternatives", lines=lines, heading="Why not", items=facts["rejected"],
                       tables=tables)  # fmt: skip
    lines = ["With each of these a strategy would fit." if facts["changes"] else "No single change would do."]
    return Section(name="others", title="What would fit", lines=lines, items=facts["changes"], tables=tables)


def ranking(facts: Facts) -> Listing:
    """Return the table of choices; days and cost only of a training whose length is known."""
    whole = facts["asked"]["tokens"] is not None
    head = ("", "step time", "interval", "tokens/s", "MFU", "bubble", "messages", "memory", "left")
    rows = []
    for place, one in enumerate(facts["choices"], 1):
        rows.append((
            str(place), human_s(one["seconds"]), " to ".join(map(human_s, one["seconds_interval"])),
            f"{one['tokens_per_s_per_device']:,.0f}", f"{one['mfu']:.1%}", f"{one['bubble']:.1%}",
            human_s(one["messages_s"]), human_bytes(one["memory_bytes"]["needed"]), f"{one['headroom']:.0%}",
            *training_cells(one["training_seconds"], one["training_usd"]), one["split"],
        ))  # fmt: skip
    head = (*head, *(("days", "cost") if whole else ()), "split")
    return Listing(title="The fastest that fit", head=head, rows=rows, left=(len(head) - 1,))


def _commands(facts: Facts) -> Listing:
    rows = [(str(place), one["predict"]) for place, one in enumerate(facts["choices"], 1)]
    return Listing(title="Commands that predict them", head=("", "command"), rows=rows, left=(0, 1), folded=True)


def beside(mine: Facts, other: Facts) -> Listing:
    """Return the table of a user's own choice beside the best, part by part, the largest difference first."""
    names = {**mine["parts_s"], **other["parts_s"]}
    parts = {name: (mine["parts_s"].get(name, 0.0), other["parts_s"].get(name, 0.0)) for name in names}
    order = sorted(parts, key=lambda name: -abs(parts[name][0] - parts[name][1]))
    seconds = {"step time": (mine["seconds"], other["seconds"])} | {name: parts[name] for name in order}
    needed = mine["memory_bytes"]["needed"], other["memory_bytes"]["needed"]
    rows = [
        *((name, human_s(a), human_s(b), _signed(a, b, human_s)) for name, (a, b) in seconds.items()),
        ("memory", *map(human_bytes, needed), _signed(*needed, human_bytes)),
        ("fits", *("yes" if one["headroom"] >= 0 else "no" for one in (mine, other)), ""),
    ]
    return Listing(title=f"Your own choice: {mine['split']}", head=("", "yours", "best", "difference"), rows=rows)


def _signed(a: float, b: float, word: Callable[[float], str]) -> str:
    return f"{'+' if a >= b else ''}{word(a - b)}"


def _assumptions(facts: Facts) -> Section:
    found, whole = facts["report"]["assumptions"], best(facts)["seconds"]
    stack = found["framework"]
    made = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [f"Made on {found['made']} with {made}.", *_machines(found)]
    lines.append(f"Framework {stack['name']}{': ' if stack['source'] else ''}{stack['source']}".rstrip(".") + ".")
    head = ("constant", "value", "part of the step", "error", "", "meaning", "source")
    constants = [
        (
            one["name"], shown(one["value"]), f"{one['part_s'] / whole:.1%}" if one["part_s"] else "",
            "" if one["error"] is None else f"{one['error']:.0%}", _guessed(one), one["meaning"], one["source"],
        )
        for one in sorted(found["constants"], key=lambda one: -one["part_s"])
    ]  # fmt: skip
    table = [(one["name"], shown(one["value"]), _guessed(one), one["meaning"], one["source"])
             for one in stack["constants"]]  # fmt: skip
    words = [f"guessed: {text}" for text in found["guessed"]]
    words += [f"guessed: {one['name']} = {shown(one['value'])}, {one['source']}, in {one['part_s'] / whole:.1%} of "
              "the step" for one in found["constants"] if one["guessed"] and one["part_s"]]  # fmt: skip
    return Section(
        name="assumptions", title="What this stands on", lines=lines, heading="Guessed", items=words,
        tables=[
            Listing(title="Constants that have a part in these figures", head=head, rows=constants,
                    left=(0, 4, 5, 6), folded=True),
            Listing(title=f"The table of {stack['name']}", head=("field", "value", "", "meaning", "source"),
                    rows=table, left=(0, 2, 3, 4), folded=True),
        ],
    )  # fmt: skip


def _machines(found: Facts) -> Iterator[str]:
    yield from (f"Device {one['name']}: {one['source']}." for one in found["devices"])
    for one in found["measured"]:
        about = ", ".join(f"{name} {value}" for name, value in one.items() if name != "what")
        yield f"Measured, {one['what']}: {about}."
    for node in found["nodes"]:
        if node["usd_per_hour"] is not None:
            said = ", ".join(word for word in (node["price_date"], node["price_source"]) if word)
            yield f"Rent of a {node['name']}: $ {node['usd_per_hour']:,.2f} per hour ({said})."


def _guessed(one: Facts) -> str:
    return "guessed" if one["guessed"] else ""
