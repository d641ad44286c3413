"""The report of a plan: what it says is what the plan found, and its sums are right."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import ASKED, FIX, made, timeline_of

from penstock import Costs, build, simulate
from penstock.cli.main import main
from penstock.core.setup import Setup
from penstock.search.in_words import strategy
from penstock.view import report
from penstock.view.charts import HELD
from penstock.view.svg import Axis
from penstock.view.window import beginning

EVIL = '</script><script>alert(1)</script> & "quoted" <b> {{data}}'
VOID = {"meta", "input", "br"}


class _Reader(HTMLParser):
    """Collects elements with their attributes and words, by the section they stand in; tags must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.section = str(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.setdefault(self.section, []).append(data)

    def of(self, section: str) -> str:
        return " ".join(self.words[section])


def test_every_part_of_the_plan_is_there() -> None:
    facts, page, text, _ = made()
    read = _Reader(page)
    links = [attrs["href"] for tag, attrs in read.tags if tag == "a"]
    assert links == [f"#{name}" for name in read.words if name]
    assert facts["choices"][0]["predict"] in read.of("plan")
    for said in (read.of("others"), text):
        assert all(choice["split"] in said and choice["predict"] in said for choice in facts["choices"])
        assert all(line in said for line in facts["rejected"])
        assert facts["why"]["split"] in said
        assert "why neighbours of the first lost" in said
    for name in ("time_memory", "time_devices", "time_cost"):
        assert all(point["split"] in read.of("trades") for point in facts["pareto"][name])
    assert f"HFU {facts['choices'][0]['hfu']:.1%}" in read.of("weeks")
    assert facts["goodput"]["command"] in read.of("weeks")
    constants = facts["report"]["assumptions"]["constants"]
    assert len(constants) > 20
    assert all(one["source"] in read.of("assumptions") for one in constants)
    assert all(f"{one['name']} = " in read.of("assumptions") for one in constants if one["guessed"] and one["part_s"])
    assert set(facts["report"]["question"]) <= set(read.words["plan"])


def test_sums_are_those_of_the_prediction() -> None:
    facts, page, _, _ = made()
    best, more = facts["choices"][0], facts["report"]
    assert more["time"]["seconds"] == pytest.approx(best["seconds"], rel=1e-12)
    assert {part["name"]: part["seconds"] for part in more["time"]["parts"]} == pytest.approx(best["parts_s"])
    for ranks in more["memory_by_rank_bytes"]:
        assert sum(ranks[name] for name in HELD) == pytest.approx(ranks["total"])
    assert max(rank["needed"] for rank in more["memory_by_rank_bytes"]) == best["memory_bytes"]["needed"]
    assert more["tokens_per_s"] == pytest.approx(best["tokens_per_s_per_device"] * facts["devices"])
    bars = [float(width) for width in re.findall(r'<rect [^>]* width="([\d.]+)"', page)]
    per_byte = sum(bars) / sum(rank["total"] for rank in more["memory_by_rank_bytes"])
    sizes = [rank[name] for rank in more["memory_by_rank_bytes"] for name in HELD if rank[name]]
    np.testing.assert_allclose(bars, np.array(sizes) * per_byte, atol=0.01)


def _check_sums(figure: dict[str, Any]) -> int:
    parts = figure.get("parts", [])
    if parts:
        assert sum(part["seconds"] for part in parts) == pytest.approx(figure["seconds"], rel=1e-6), figure["name"]
    return 1 + sum(map(_check_sums, parts))


def test_the_tree_of_seconds_adds_up_at_every_level() -> None:
    facts, page, text, _ = made()
    assert _check_sums(facts["report"]["time"]) == page.count("<u style")
    assert "mlp.up" in text


def test_fronts_have_no_point_that_another_beats() -> None:
    facts, page, _, said = made()
    axes = {"time_memory": "needed_bytes", "time_devices": "devices", "time_cost": "usd_per_step"}
    for name, axis in axes.items():
        pairs = [(point["seconds"], point[axis]) for point in facts["pareto"][name]]
        front = [point["front"] for point in facts["pareto"][name]]
        worse = [any(b[0] <= a[0] and b[1] <= a[1] and a != b for b in pairs) for a in pairs]
        assert front == [not one for one in worse]
    assert len(facts["pareto"]["time_memory"]) > len(facts["choices"])
    assert "Time against memory of a device" in said
    circles = re.findall(r'<circle class="dot( beaten)?"', page)
    drawn = sum(len(facts["pareto"][name]) for name in axes) + len(facts["report"]["roofline"]["operators"])
    assert len(circles) == drawn


def test_the_page_needs_nothing_from_outside() -> None:
    _, page, _, _ = made()
    read = _Reader(page)
    assert "default-src 'none'" in page
    assert not any({"src", "srcset", "xlink:href", "action"} & attrs.keys() for _, attrs in read.tags)
    assert all(str(attrs["href"]).startswith("#") for _, attrs in read.tags if "href" in attrs)
    assert not re.search(r"""url\(|@import|\bimport\s*\(|\bfetch\(""", page)
    assert {tag for tag, _ in read.tags}.isdisjoint({"link", "img", "iframe", "object", "embed"})
    assert any(attrs.get("name") == "viewport" for _, attrs in read.tags)
    assert len(page) < 3e6


def test_names_stay_names() -> None:
    facts = deepcopy(made()[0])
    facts["asked"]["model"] = EVIL
    facts["report"]["question"] = [EVIL]
    facts["choices"][0]["split"] = facts["choices"][0]["predict"] = facts["rejected"][0] = EVIL
    facts["report"]["time"]["parts"][0]["name"] = EVIL
    facts["pareto"]["time_memory"][0]["split"] = EVIL
    facts["report"]["assumptions"]["constants"][0]["source"] = EVIL
    facts["report"]["roofline"]["operators"][0]["name"] = EVIL
    read = _Reader(report.page(facts, timeline_of(made()[0]["choices"][1])))
    assert [tag for tag, _ in read.tags].count("script") == 4
    assert read.words[""].count(f"{EVIL} on 16 h100-80gb-sxm") == 2
    assert read.words["plan"].count(EVIL) == 2
    assert read.words["others"].count(EVIL) == 3
    for section in ("others", "time", "trades", "assumptions", "roofline"):
        assert EVIL in read.of(section), section


def test_what_would_change_is_a_table_of_the_report() -> None:
    facts, what = deepcopy(made()[0]), "network twice as fast"
    now = {"now_s": 2.0, "now_tokens_per_s": 100.0, "seconds": 1.5, "tokens_per_s": 125.0}
    other = {"best": "tp=4 pp=1", "best_tokens_per_s": 150.0, "why": "", "same": False}
    facts["what_if"] = [{"what": what} | now | other]
    read = _Reader(report.page(facts, timeline_of(facts["choices"][0])))
    at = read.words["weeks"].index(what)
    assert read.words["weeks"][at : at + 4] == [what, "-25.0%", "+25.0%", "+50.0% tokens/s: tp=4 pp=1"]


def test_a_search_that_was_stopped_says_so() -> None:
    facts = made()[0]
    assert "stopped early" not in made()[2]
    stopped = facts | {"stopped": True, "proven": False}
    assert "; stopped early, others may be faster." in report.text(stopped, timeline_of(facts["choices"][0]))


def test_a_long_timeline_is_cut_and_says_so() -> None:
    plan = build("1f1b", ranks=8, micros=2600)
    timeline = simulate(plan, Costs.uniform(plan.placement))
    some = beginning(timeline, 10_000)
    assert 9_900 <= len(some.plan) <= 10_000
    assert beginning(timeline, len(plan)) is timeline
    for rank in range(8):
        mine = slice(int(plan.first[rank]), int(plan.first[rank]) + len(some.plan.lanes[rank]))
        own = slice(int(some.plan.first[rank]), int(some.plan.first[rank + 1]))
        np.testing.assert_array_equal(some.start_s[own], timeline.start_s[mine])
        np.testing.assert_array_equal(some.plan.ops[own], plan.ops[mine])
    waits = np.flatnonzero(some.waited_for >= 0)
    np.testing.assert_array_equal(some.end_s[some.waited_for[waits]], some.start_s[waits])
    facts = made()[0]
    page = report.page(facts, timeline)
    assert "To stay small, the page has the first" in _Reader(page).of("timeline")
    assert len(page) < 3e6


def test_where_nothing_fits_there_is_a_report_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, out = tmp_path / "none.html", tmp_path / "none.json"
    asked = ["plan", "--model", "llama-3-8b", "--cluster", "a10:1", "--seq", "4096", "--batch", "8"]
    main([*asked, "--fix", "tp=1,pp=1,zero=1,micro=1,recompute=full", "--report", str(page), "--json", str(out)])
    facts, read = json.loads(out.read_text()), _Reader(page.read_text())
    assert facts["choices"] == []
    assert facts["report"]["fits"] is False
    assert "Nothing fits" in read.of("plan")
    assert "one device: nothing fits" in read.of("trades")
    assert "one device: nothing fits" in capsys.readouterr().out
    assert all(change in read.of("others") for change in facts["changes"])


def test_trade_offs_can_be_had_without_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, *FIX, "--pareto", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["pareto"] == made()[0]["pareto"]
    assert facts["report"] is None


@pytest.mark.parametrize(
    ("file", "says"),
    [("plan.htm", "did you mean '.html'?"), ("plan", "a file without suffix"), ("missing/plan.html", "missing")],
)
def test_a_file_that_cannot_be_is_one_line(
    file: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*ASKED, *FIX, "--report", str(tmp_path / file)])
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_strategies_in_words() -> None:
    said = " ".join(
        strategy(
            Setup(
                seq=4096, batch=64, tp=2, cp=2, pp=2, dp=4, ep=8, etp=1, chunks=2, schedule="interleaved", sp=True,
                zero=1, recompute=("norm", "mlp.up"), optimizer_offload=0.5, precision="fp8", optimizer="muon",
            )
        )
    )  # fmt: skip
    words = ("sequence parallelism", "ring", "2 chunks", "interleaved", "ZeRO-1", "8 devices share the experts")
    for each in (*words, "takes 8 devices", "norm+mlp.up", "50%", "fp8", "muon", "16 micro-batches of 1"):
        assert each in said


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(6.5, 14.2), (0.01, 3.0), (3.0, 4e5), (1.0, 1.1), (2e-9, 5e14), (200, 700)])
def test_axes_have_a_few_marks_within(low: float, high: float, log: bool) -> None:
    axis = Axis("", low, high, 10, 110, log, str)
    marks = axis.ticks()
    assert 2 <= len(marks) <= 7
    assert marks == sorted(marks)
    assert all(9.999 <= axis.at(mark) <= 110.001 for mark in marks)
