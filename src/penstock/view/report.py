"""Reports of plans: one page that needs no network, or the same as text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from penstock.core.timeline import Timeline
from penstock.units import human_s
from penstock.view import text as as_text
from penstock.view.columns import columns
from penstock.view.html import drawn_table, filled, head, part, viewer
from penstock.view.report_parts import figures, sections, title
from penstock.view.report_section import Facts, Listing, Section
from penstock.view.window import beginning

MOST_OPS = 40_000
"""Of a timeline in a page."""
LEGIBLE = 60
"""Passes of a rank at which a page opens."""
COLUMNS = 100
"""Of a timeline in text."""
DEPTH = 3
"""Of the tree of seconds in text."""


def page(facts: Facts, timeline: Timeline) -> str:
    """The report as a page; write it to a file that ends in ``.html``.

    Args:
        facts: what ``penstock plan --json`` writes, with ``report`` and ``pareto``.
        timeline: of the pipeline of the strategy that is opened.
    """
    shown, until_s = beginning(timeline, MOST_OPS), _legible_s(timeline)
    drawn, note = viewer([shown], until_s=until_s), _note(timeline, shown, until_s)
    parts = sections(facts, note)
    words = {
        "head": head(title(facts), "report.css"),
        "title": escape(title(facts)),
        "figures": "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in figures(facts).items()),
        "contents": "".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in parts),
        "sections": "".join(_section(one, drawn if one.name == "timeline" else "") for one in parts),
        "script": part("report.js"),
    }
    return filled("report.html", words)


def _legible_s(timeline: Timeline) -> float | None:
    """When a rank has done as many passes as can be read beside each other; ``None`` if none does more."""
    most = max(map(len, timeline.plan.lanes))
    if most <= LEGIBLE:
        return None
    return min(
        float(timeline.end_s[first + LEGIBLE - 1])
        for first, lane in zip(timeline.plan.first, timeline.plan.lanes, strict=False)
        if len(lane) == most
    )


def _note(timeline: Timeline, shown: Timeline, until_s: float | None = None) -> str:
    plan = timeline.plan
    micros = f"{plan.micros:,} micro-batch{'es' if plan.micros > 1 else ''}"
    said = f"{plan.placement.ranks} pipeline rank{'s' if plan.placement.ranks > 1 else ''}, {micros}, "
    said += f"{len(plan):,} passes; {human_s(timeline.step_s)} until gradients are summed."
    if shown is not timeline:
        said += f" To stay small, the page has the first {human_s(shown.step_s)} of it, {len(shown.plan):,} passes."
    if until_s is not None:
        said += f" It opens at the first {human_s(until_s)}; zoom out, or press fit, for the rest."
    return said


def _section(one: Section, drawn: str) -> str:
    inside = [f"<p>{escape(line)}</p>" for line in one.lines]
    if one.figures:
        inside.append(f'<div class="figures">{"".join(map(_figure, one.figures.items()))}</div>')
    if one.legend:
        inside.append(f'<p class="legend">{"".join(map(_swatch, one.legend.items()))}</p>')
    inside += map(_table, one.tables)
    if one.items:
        heading = f"<h3>{escape(one.heading)}</h3>" if one.heading else ""
        inside.append(f"{heading}<ul>{''.join(f'<li>{escape(item)}</li>' for item in one.items)}</ul>")
    if one.code:
        inside.append(f"<pre><code>{escape(one.code)}</code></pre>")
    if one.tree is not None:
        inside.append(f'<div class="tree">{_tree(one.tree, one.tree["seconds"], True)}</div>')
    return f'<section id="{one.name}"><h2>{escape(one.title)}</h2>{"".join(inside)}{drawn}</section>'


def _figure(named: tuple[str, str]) -> str:
    name, chart = named
    return f"<figure>{f'<figcaption>{escape(name)}</figcaption>' if name else ''}{chart}</figure>"


def _swatch(named: tuple[str, str]) -> str:
    name, colour = named
    return f'<span><i style="background:{colour}"></i>{escape(name)}</span>'


def _table(table: Listing) -> str:
    drawn = drawn_table("" if table.folded else table.title, table.head, table.rows, table.left)
    return f"<details><summary>{escape(table.title)}</summary>{drawn}</details>" if table.folded else drawn


def _tree(figure: Facts, whole: float, opened: bool = False) -> str:
    share = figure["seconds"] / whole
    words = f"<span>{escape(figure['name'])}</span><b>{human_s(figure['seconds'])}</b><i>{share:.1%}</i>"
    bar = f'<u style="width:{100 * max(share, 0):.2f}%"></u>'
    how = f"<p>{escape(figure['how'])}</p>" if figure["how"] and not opened else ""
    below = "".join(_tree(part, whole) for part in figure.get("parts", ()))
    if not below and not how:
        return f'<div class="leaf">{words}{bar}</div>'
    return f"<details{' open' if opened else ''}><summary>{words}{bar}</summary>{how}{below}</details>"


def text(facts: Facts, timeline: Timeline) -> str:
    """The report as text."""
    lines = [title(facts), "=" * len(title(facts)), ""]
    lines += columns(figures(facts).items(), (0, 1))
    for one in sections(facts, _note(timeline, timeline)):
        lines += ["", one.title, "-" * len(one.title), *_lines(one)]
        if one.name == "timeline":
            lines += as_text.gantt(timeline, COLUMNS).splitlines()
    return "\n".join(lines) + "\n"


def _lines(one: Section) -> Iterator[str]:
    yield from one.lines
    for table in one.tables:
        yield from ("", table.title, *columns([table.head, *table.rows], table.left))
    if one.items:
        yield from ("", *([one.heading] if one.heading else []), *(f"- {item}" for item in one.items))
    if one.code:
        yield f"\n  {one.code}"
    if one.tree is not None:
        rows = [
            (f"{'  ' * depth}{part['name']}", human_s(part["seconds"]), f"{part['seconds'] / one.tree['seconds']:.1%}")
            for depth, part in _down(one.tree, DEPTH)
        ]
        yield from columns([("", "time", "share"), *rows])


def _down(tree: Facts, most: int, depth: int = 0) -> Iterator[tuple[int, Facts]]:
    """A figure of seconds and those below it, with how deep each is."""
    yield depth, tree
    if depth < most:
        for part in tree.get("parts", ()):
            yield from _down(part, most, depth + 1)
