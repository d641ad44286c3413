"""The report in a real browser: nothing is loaded, nothing is wider than the screen, paper shows what is folded."""

from typing import Any

import pytest
from reports import made

from penstock.units import human_s
from penstock.view import report

WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture
def tab(open_page: Any) -> Any:
    return open_page(made()[1])


def test_charts_and_the_timeline_are_drawn(tab: Any) -> None:
    assert tab.locator("svg[role=img]").count() == 5
    assert tab.locator("svg").evaluate_all("all => all.every((one) => one.getBoundingClientRect().height > 60)")
    facts = made()[0]
    setup = facts["choices"][0]["setup"]
    ops = tab.evaluate("penstock.panels[0].t.kind.length")
    assert ops == 2 * setup["pp"] * setup["chunks"] * setup["batch"] // setup["dp"] // setup["micro"]
    assert tab.evaluate("penstock.stats.spans") > setup["pp"]


def test_a_long_timeline_opens_where_passes_can_be_read(open_page: Any, make: Any) -> None:
    timeline = make(ranks=4, micros=200)
    tab = open_page(report.page(made()[0], timeline))
    start, end, whole = tab.evaluate("[penstock.view.from, penstock.view.to, penstock.view.whole]")
    assert start == 0
    assert end == pytest.approx(min(timeline.end_s[first + 59] for first in timeline.plan.first[:-1]))
    assert end < whole / 5
    tab.get_by_role("button", name="fit").click()
    assert tab.evaluate("penstock.view.to") == whole


def test_names_of_points_do_not_touch(tab: Any) -> None:
    touching = tab.locator("svg").evaluate_all(
        """all => all.map((svg) => {
            const boxes = [...svg.querySelectorAll(".name")].map((one) => one.getBoundingClientRect());
            return boxes.filter((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 2 && b.left < a.right - 2
                && a.top < b.bottom - 4 && b.top < a.bottom - 4)).length;
        })"""
    )
    assert touching == [0] * 5


def test_figures_open_down_to_operators(tab: Any) -> None:
    leaf = tab.locator(".tree").get_by_text("mlp.up", exact=True).first
    assert not leaf.is_visible()
    for name in ("blocks", "attention and mlp"):
        tab.locator(".tree").get_by_text(name, exact=True).first.click()
    assert leaf.is_visible()
    tree = made()[0]["report"]["time"]
    assert tab.locator(".tree > details > summary").inner_text().split("\n")[1] == human_s(tree["seconds"])


@pytest.mark.parametrize("opened", [False, True])
def test_on_a_phone_only_tables_scroll_sideways(open_page: Any, opened: bool) -> None:
    tab = open_page(made()[1], 390, 844, device_scale_factor=2, is_mobile=True, has_touch=True)
    if opened:
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.evaluate(WIDTHS) == [390, 390]
    wide = tab.evaluate(
        """() => [...document.querySelectorAll("section *")].filter((one) => !one.closest(".table, pre, svg, #panels")
            && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert tab.locator(".table").first.evaluate("one => getComputedStyle(one).overflowX") == "auto"
    letters = tab.locator("svg text").evaluate_all(
        "all => Math.min(...all.map((one) => one.getBoundingClientRect().height))"
    )
    assert letters >= 9


def test_paper_is_light_and_shows_what_is_folded(open_page: Any) -> None:
    tab = open_page(made()[1], 780, 1000, color_scheme="dark")
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    assert tab.evaluate(ink) != "rgb(28, 36, 48)"
    folded = tab.locator("section > details .table").first
    assert not folded.is_visible()
    tab.emulate_media(media="print", color_scheme="dark")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.is_visible()
    assert not tab.locator("nav").is_visible()
    assert tab.evaluate(WIDTHS) == [780, 780]
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.emulate_media(media="screen")
    assert not folded.is_visible()
