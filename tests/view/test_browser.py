"""The page in a real browser: what is drawn, said and moved."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.view.html import Curve, Table, page

Open = Callable[..., Any]


def _point(tab: Any, rank: int, time: float, panel: int = 0) -> tuple[float, float]:
    """Where a time on a rank's lane is on the screen."""
    x, y = tab.evaluate(
        """([rank, time, number]) => {
            const panel = penstock.panels[number], frame = panel.stage.getBoundingClientRect();
            return [frame.left + penstock.xOf(panel, time) / panel.ratio,
                    frame.top + (penstock.rowTop(panel, rank) + panel.lane / 2) / panel.ratio];
        }""",
        [rank, time, panel],
    )
    return x, y


def _tip(tab: Any) -> dict[str, str]:
    assert tab.locator("#tip").is_visible()
    names, values = tab.locator("#tip dt").all_inner_texts(), tab.locator("#tip dd").all_inner_texts()
    return {"op": tab.locator("#tip b").inner_text(), **dict(zip(names, values, strict=True))}


def _settle(tab: Any) -> None:
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _view(tab: Any) -> tuple[float, float]:
    _settle(tab)
    start, end = tab.evaluate("[penstock.view.from, penstock.view.to]")
    return start, end


def _pixel(tab: Any, rank: int, time: float, panel: int = 0, share: float = 0.1) -> list[int]:
    """Colour at a time and at a share of a lane's height from its top."""
    _settle(tab)
    return tab.evaluate(
        """([rank, time, number, share]) => {
            const panel = penstock.panels[number];
            const y = penstock.rowTop(panel, rank) + Math.round(share * panel.lane);
            return [...panel.g.getImageData(Math.round(penstock.xOf(panel, time)), y, 1, 1).data].slice(0, 3);
        }""",
        [rank, time, panel, share],
    )


FORWARD, BACKWARD = [0x56, 0xB4, 0xE9], [0xE6, 0x9F, 0x00]


def test_ops_are_drawn_where_they_ran(make, open_page: Open) -> None:
    tab = open_page(page([make(ranks=4, micros=8)], "t"))
    assert _pixel(tab, 0, 0.3) == FORWARD
    assert _pixel(tab, 0, 10.2) == BACKWARD
    assert _pixel(tab, 3, 0.3) not in (FORWARD, BACKWARD)
    tab.get_by_role("button", name="forward").click()
    assert _pixel(tab, 0, 0.3) not in (FORWARD, BACKWARD)


def test_hover_says_what_ran_and_why_it_waited(make, open_page: Open) -> None:
    timelines = [make(ranks=2, micros=3), make(ranks=2, micros=3, slower=2.0, label="measured")]
    tab = open_page(page(timelines, "t", unit="F"))
    tab.mouse.move(*_point(tab, 1, 1.5))
    tip = _tip(tab)
    assert tip["op"] == "1F0"
    assert tip["what"] == "forward of stage 1, micro-batch 0"
    assert (tip["rank"], tip["start"], tip["duration"]) == ("1", "1 F", "1 F")
    assert tip["waited"] == "1 F for 0F0 on rank 0"
    assert tip["memory"] == "1"
    assert tip["measured"] == "from 2 F, 1 F long"
    tab.mouse.move(*_point(tab, 1, 2.5))
    assert _tip(tab)["waited"] == "nothing: its rank was busy with 1F0"
    tab.mouse.move(*_point(tab, 0, 0.5))
    assert _tip(tab)["waited"] == "nothing: first op of its rank"
    tab.mouse.move(*_point(tab, 1, 0.5))
    assert _tip(tab) == {
        "op": "rank 1 idles",
        "time": "0.5 F",
        "until": "1F0, at 1 F",
        "waited": "1 F for 0F0 on rank 0",
        "memory": "0",
    }
    assert tab.locator(".hair:visible").count() == 2


def test_a_block_is_one_bar_of_two_colours(make, open_page: Open) -> None:
    timeline = make("dualpipe", ranks=2, micros=4)
    (first,) = (k for k in range(len(timeline.plan)) if str(timeline.plan.op(k)) == "3F3")
    begin = float(timeline.start_s[first])
    tab = open_page(page([timeline], "t", unit="F"))
    for time in (begin + 0.2, begin + 2.8):
        assert _pixel(tab, 0, time, share=0.9) == BACKWARD
        assert _pixel(tab, 0, time) not in (BACKWARD, FORWARD)  # the second chunk's forward is paler
    tab.mouse.move(*_point(tab, 0, begin + 2.5))
    tip = _tip(tab)
    assert (tip["op"], tip["duration"]) == ("3F3+0B0", "3 F")
    assert (tip["what"], tip["with"]) == ("forward of stage 3, micro-batch 3", "backward of stage 0, micro-batch 0")
    tab.mouse.click(*_point(tab, 0, begin + 2.5))
    assert tab.locator("#status").inner_text().startswith("3F3+0B0 (predicted)")
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.locator("#status").inner_text().startswith("3B3 (predicted)")
    tab.evaluate("penstock.search('0B0')")
    assert tab.locator("#status").inner_text().startswith("3F3+0B0 (predicted)")


def test_gathered_weights_are_part_of_the_memory(dressed, open_page: Open) -> None:
    tab = open_page(page([dressed()], "t", unit=""))
    assert tab.get_by_role("button", name="drop gathered weights").count() == 1
    assert tab.get_by_role("button", name="reduce gradients").count() == 0
    tab.mouse.move(*_point(tab, 0, 5.0))
    assert "1 of it gathered weights" in _tip(tab)["memory"]
    found = tab.evaluate(
        """() => {
            const [panel] = penstock.panels, { pixels } = panel, want = penstock.theme.pixel.gathered;
            return pixels.reduce((count, one) => count + (one === want), 0);
        }"""
    )
    assert found > 1000


def test_waiting_for_a_message_names_its_maker(make, open_page: Open) -> None:
    tab = open_page(page([make(ranks=2, micros=3, sends=True, link_s=0.5)], "t"))
    tab.mouse.move(*_point(tab, 1, 2.0))
    assert _tip(tab)["waited"] == "1.5 s for 0F0 on rank 0"


def test_wheel_zooms_at_the_cursor_and_drag_pans_every_panel(make, open_page: Open) -> None:
    timelines = [make(ranks=4, micros=8), make(ranks=4, micros=8, slower=1.5, label="measured")]
    tab = open_page(page(timelines, "t"))
    whole = _view(tab)
    x, y = _point(tab, 1, 10.0)
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -600)
    start, end = _view(tab)
    assert end - start < 0.5 * (whole[1] - whole[0])
    assert _point(tab, 1, 10.0)[0] == pytest.approx(x, abs=1)
    assert _point(tab, 1, 10.0, panel=1)[0] == pytest.approx(x, abs=1)
    tab.mouse.down()
    tab.mouse.move(x - 100, y, steps=4)
    tab.mouse.up()
    assert _point(tab, 1, 10.0)[0] == pytest.approx(x - 100, abs=2)
    assert tab.evaluate("penstock.selected.op") == -1
    tab.keyboard.press("ArrowRight")
    assert _view(tab)[0] > start
    tab.mouse.dblclick(x, y)
    assert _view(tab) == whole
    tab.keyboard.press("+")
    assert _view(tab) != whole
    tab.keyboard.press("0")
    assert _view(tab) == whole


def test_click_marks_the_chain_of_causes(make, open_page: Open) -> None:
    tab = open_page(page([make(ranks=3, micros=4, sends=True, link_s=0.5)], "t"))
    tab.mouse.click(*_point(tab, 2, 3.5))
    names = tab.evaluate(
        """() => { const { timeline: t, path } = penstock.selected;
            return path.map((op) => t.stage[op] + t.kinds[t.kind[op]].name + t.micro[op]); }"""
    )
    assert names[0] == "2F0"
    assert [op for op in names if "_" not in op] == ["2F0", "1F0", "0F0"]
    assert tab.locator("#status").inner_text().startswith("2F0 (predicted): ")
    assert _pixel(tab, 0, 0.2) == FORWARD
    assert _pixel(tab, 0, 1.2) != FORWARD  # other micro-batches recede
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.locator("#status").inner_text().startswith("2B0 (predicted): ")
    tab.keyboard.press("Shift+ArrowUp")
    assert " rank 1 " in tab.locator("#status").inner_text()
    tab.keyboard.press("Escape")
    assert tab.locator("#status").inner_text() == ""


def test_search_brings_an_op_into_sight(make, open_page: Open) -> None:
    timeline = make(ranks=8, micros=200)
    tab = open_page(page([timeline], "t"))
    box = tab.get_by_role("searchbox")
    box.fill(" 5b120 ")
    box.press("Enter")
    start, end = _view(tab)
    (op,) = np.flatnonzero((timeline.plan.ops == (1, 5, 120)).all(axis=1))
    assert start <= timeline.start_s[op] < timeline.end_s[op] <= end
    assert end - start < 100
    assert tab.evaluate("penstock.selected.op") == op
    box.fill("9F0")
    box.press("Enter")
    assert "no op 9F0" in tab.locator("#status").inner_text()


@pytest.mark.parametrize("view", ["fit()", "zoom(3)", "zoom(6)", "zoom(40)"])
def test_two_hundred_thousand_ops_paint_fewer_than_two_spans_per_pixel(make, open_page: Open, view: str) -> None:
    timeline = make("interleaved", ranks=64, micros=768, chunks=2)
    assert len(timeline.plan) == 196_608
    tab = open_page(page([timeline], "t"))
    tab.evaluate(f"penstock.{view}")
    for _ in range(3):
        tab.evaluate("penstock.pan(0.05)")
        tab.evaluate("penstock.redraw(true)")
        spans, width, height = tab.evaluate(
            "[penstock.stats.spans, penstock.panels[0].width, penstock.panels[0].canvas.height]"
        )
        assert 0 < spans < 2 * width * 64
        assert height < 2000
    assert tab.evaluate("penstock.stats.frames") < 20  # frames are drawn when asked, never in a loop


def test_narrow_ops_share_columns_in_proportion(make, open_page: Open) -> None:
    tab = open_page(page([make(ranks=1, micros=5000)], "t"))
    colours = tab.evaluate(
        """() => { const panel = penstock.panels[0], y = penstock.rowTop(panel, 0);
            const column = panel.g.getImageData(panel.left + 300, y, 1, panel.lane).data;
            return Array.from({ length: panel.lane }, (_, i) => [...column.slice(4 * i, 4 * i + 3)]); }"""
    )
    assert colours[0] == BACKWARD
    assert colours[-1] == FORWARD
    assert colours.count(FORWARD) / len(colours) == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("ranks", [2, 64])
def test_phone_has_no_sideways_overflow(make, open_page: Open, ranks: int) -> None:
    curves = [Curve("training", np.arange(50.0), np.arange(50.0), chart="Loss")]
    facts = [Table("A table of many columns", tuple("abcdefghij"), [tuple(["a long cell"] * 10)])]
    text = page([make(ranks=ranks, micros=8, step_s=1.0)], "A" * 80, facts=facts, curves=curves)
    tab = open_page(text, 390, 844, device_scale_factor=3, is_mobile=True, has_touch=True)
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    tab.locator(".stage").scroll_into_view_if_needed()
    tab.touchscreen.tap(*_point(tab, 0, 0.5))
    assert _tip(tab)["op"] == "0F0"
    left, right = tab.evaluate(
        "(() => { const { left, right } = tip.getBoundingClientRect(); return [left, right]; })()"
    )
    assert 0 <= left < right <= 390


def test_dark_and_print_have_their_own_paper(make, open_page: Open) -> None:
    tab = open_page(page([make()], "t"), color_scheme="dark")
    paper = "(() => { const { g } = penstock.panels[0]; return [...g.getImageData(1, 1, 1, 1).data]; })()"
    assert tab.evaluate(paper)[0] < 60
    tab.emulate_media(media="print", color_scheme="dark")
    _settle(tab)
    assert tab.evaluate(paper)[:3] == [255, 255, 255]
    assert not tab.locator("#zoom").is_visible()
    assert not tab.locator("footer").is_visible()
    assert tab.locator("canvas").first.is_visible()


def test_charts_answer_the_pointer(make, open_page: Open) -> None:
    steps = np.arange(1.0, 101.0)
    curves = [
        Curve("measured", steps, 0.5 + 0 * steps, "s", "Step time"),
        Curve("predicted", steps[::10], 0.25 + 0 * steps[::10], "s", "Step time"),
        Curve("training", steps, np.where(steps == 7, np.nan, 1 / steps), chart="Loss"),
    ]
    tab = open_page(page([make()], "t", curves=curves))
    assert tab.locator(".chart h2").all_inner_texts() == ["Step time", "Loss"]
    canvas = tab.locator(".chart canvas").first
    canvas.scroll_into_view_if_needed()
    canvas.hover(position={"x": 200, "y": 80})
    tip = _tip(tab)
    assert tip["op"].startswith("step ")
    assert (tip["measured"], tip["predicted"]) == ("500 ms", "250 ms")


def test_names_that_close_scripts_do_no_harm(make, open_page: Open) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    tab = open_page(page([make(label=name)], name, facts={name: name}))
    assert tab.title() == name
    assert tab.locator(".panel h2").inner_text() == name
    assert tab.locator("img").count() == 0
