import re

import numpy as np
import pytest

from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.timeline import MemoryCurve, Timeline
from penstock.view.text import gantt, lanes, summary


def test_gantt_of_1f1b(make) -> None:
    assert (
        gantt(make(ranks=3, micros=4), width=44, unit="")
        == """\
predicted: 1f1b, 18
rank 0  F0F1F2········B0──F3B1──··B2──··B3──
rank 1  ··F0F1····B0──F2B1──F3B2──··B3──····
rank 2  ····F0B0──F1B1──F2B2──F3B3──········
        0         5         10        15
"""
    )


def test_gantt_names_stages_where_ranks_hold_several(make) -> None:
    assert (
        gantt(make("interleaved", ranks=2, micros=2, chunks=2), width=80, unit="")
        == """\
predicted: interleaved, 7.5
rank 0  0F0─0F1─2F0─2F1─········2B0─────····2B1─────0B0─────0B1─────
rank 1  ····1F0─1F1─3F0─3B0─────3F1─3B1─────1B0─────1B1─────········
        0               2               4               6
"""
    )


def test_gantt_shows_messages_that_hold_a_rank_and_the_step(make) -> None:
    assert (
        gantt(make(micros=2, blocking=True, link_s=1.0, step_s=2.0), width=60, unit="F")
        == """\
predicted: 1f1b, 15 F
rank 0  F0─~~~F1─~~~~~~~~~~~~B0────~~~~~~B1────STEP──
rank 1  ~~~~~~F0─~~~B0────~~~F1─B1────~~~······STEP──
        0 F            5 F            10 F
"""
    )
    assert "~" not in gantt(make(micros=2, sends=True, link_s=1.0, step_s=2.0), width=60)


def test_gantt_draws_a_block_as_one_bar_and_work_on_links_not_at_all(make, dressed) -> None:
    assert (
        gantt(make("dualpipe", ranks=2, micros=4), width=80, unit="")
        == """\
predicted: dualpipe, 12
rank 0  0F0───3F2───0F1───3B2─────────3F3+0B0───────────3B3─────────0I1───0W1───
rank 1  2F2───1F0───2F3───1B0─────────1F1+2B2───────────1B1─────────2I3───2W3───
        0           2           4           6           8           10
"""
    )
    drawn = gantt(dressed(), width=400)
    assert all(f"{name}─" in drawn for name in ("0F3+3B1", "3F3+0B1"))
    assert not any(word in drawn for word in ("OFFL", "FETCH", "UNSH", "REDUCE", "SEND"))


def test_blocks_too_narrow_for_a_name_share_their_columns(make) -> None:
    row = gantt(make("dualpipev", ranks=1, micros=300, chunks=2), width=98, unit="").splitlines()[1]
    assert row.count("F") == pytest.approx(row.count("B"), abs=2)


def test_narrow_ops_keep_their_proportion(make) -> None:
    row = gantt(make(ranks=1, micros=300), width=98, unit="").splitlines()[1].removeprefix("rank 0  ")
    assert len(row) == 90
    assert row.count("B") == pytest.approx(60, abs=1)
    assert row.count("F") == pytest.approx(30, abs=1)


def test_colour_changes_nothing_but_colour(make) -> None:
    timeline = make("zb-h1", ranks=3, micros=4, step_s=1.0)
    coloured = gantt(timeline, width=70, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == gantt(timeline, width=70)


@pytest.mark.parametrize("width", [20, 40, 79, 200])
def test_no_line_is_wider_than_asked(make, width: int) -> None:
    timeline = make("interleaved", ranks=8, micros=32, chunks=2)
    drawn = gantt(timeline, width, most_ranks=6).splitlines()
    listed = lanes(timeline.plan, max(width, 40)).splitlines()
    assert max(map(len, drawn[1:])) <= max(width, 20)
    assert max(map(len, listed[1:])) <= max(width, 40)


def test_many_ranks_lose_their_middle(make) -> None:
    rows = gantt(make(ranks=12, micros=12), width=60, most_ranks=4).splitlines()
    assert [row[:7] for row in rows[1:-1]] == ["rank  0", "rank  1", "  ⋮ 8 m", "rank 10", "rank 11"]


def test_lanes(make) -> None:
    plan = make(ranks=2, micros=3).plan
    assert lanes(plan, width=80) == (
        "1f1b: 2 ranks, 2 stages, 3 micro-batches, 12 ops\n"
        "rank 0  0F0 0F1 0B0 0F2 0B1 0B2\n"
        "rank 1  1F0 1B0 1F1 1B1 1F2 1B2\n"
    )
    assert lanes(make(ranks=1, micros=50).plan, width=60).splitlines()[1] == (
        "rank 0  0F0 0B0 0F1 0B1 … 92 more … 0F48 0B48 0F49 0B49"
    )


@pytest.mark.parametrize("width", [60, 61, 79, 120, 180])
def test_lanes_lose_their_middle_between_whole_blocks(make, width: int) -> None:
    plan = make("dualpipev", ranks=2, micros=20, chunks=2).plan
    for row, lane in zip(lanes(plan, width).splitlines()[1:], plan.lanes, strict=True):
        assert len(row) <= width
        head, dropped, tail = re.fullmatch(r"rank . +(.*) … (\d+) more … (.*)", row).groups()
        shown = len(Lane.parse(head)) + len(Lane.parse(tail))
        assert shown + int(dropped) == len(lane)
        assert str(lane).startswith(f"{head} ")
        assert str(lane).endswith(f" {tail}")


def test_summary(make) -> None:
    assert summary(make(ranks=4, micros=8), unit="") == (
        "makespan  33  (27.3% bubble on the busiest rank)\n"
        "span      33  (27.3% bubble on the busiest rank)\n"
        "        busy         peak memory\n"
        "rank 0    24  72.7%            4\n"
        "rank 1    24  72.7%            3\n"
        "rank 2    24  72.7%            2\n"
        "rank 3    24  72.7%            1\n"
    )
    assert "step      11 s" in summary(make(ranks=2, micros=2, step_s=2.0))


def test_a_timeline_without_ops_or_time_is_drawn() -> None:
    plan = Plan("empty", Placement.loop(1), 1, (Lane.parse("0F0"),))
    nothing = np.zeros(1)
    curve = MemoryCurve(*(np.zeros(0) for _ in range(4)))
    timeline = Timeline(plan, "none", nothing, nothing, np.array([-1], dtype=np.int32), (curve,))
    assert "rank 0" in gantt(timeline, width=40)
    assert "makespan  0 s" in summary(timeline)
