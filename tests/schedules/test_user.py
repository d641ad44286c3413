"""Schedules in files of users: where their stages live, and what is wrong with the file."""

import re
from pathlib import Path

import pytest

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.engine import check, simulate
from penstock.schedules import build

UNEVEN = Path(__file__).parents[2] / "examples" / "uneven.py"
LANE = "def lane(r, p, m, v):\n    return [(m, 'F'), (m, 'B')]\n"


def written(tmp_path, placement):
    file = tmp_path / "mine.py"
    file.write_text(f"from penstock.core.placement import Placement\n{placement}\n{LANE}")
    return str(file)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (3, 4), (4, 2)])
def test_a_file_says_where_its_stages_live(p, m):
    plan = build(str(UNEVEN), p, m)
    check(plan)
    assert plan.placement == Placement((0, *range(p)))
    timeline = simulate(plan, Costs.uniform(plan.placement))
    assert timeline.makespan_s == 3 * (m + p - 1)
    assert timeline.peak_bytes.tolist() == [min(p - r, m) for r in range(p)]


def test_a_placement_need_not_be_there_and_may_be_of_any_kind(tmp_path):
    assert build(written(tmp_path, ""), 3, 2).placement == Placement.loop(3)
    vee = written(tmp_path, "def placement(p, v): return Placement.vee(p, v)")
    assert build(vee, 3, 2, 2).placement == Placement.vee(3)
    assert build(vee, 2, 2, placement=Placement((1, 0))).placement == Placement((1, 0))


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        ("placement = [0, 1]", "placement is a list; make it a function placement(p, v)"),
        ("def placement(p, v): return 1 / 0", "mine.py line 2 fails: ZeroDivisionError: division by zero"),
        ("def placement(p): return [0, 1]", "mine.py fails: TypeError: placement() takes 1 positional argument but 2"),
        ("def placement(p, v): return p", "placement(2, 1) gave 2; return the rank of each stage, for example [0, 1]"),
        ("def placement(p, v): return [0, 0.5]", "gave [0, 0.5]; return the rank of each stage"),
        ("def placement(p, v): return [0, 2]", "placement(2, 1): rank_of=(0, 2): rank 1 holds no stage, though rank 2"),
        ("def placement(p, v): return [0, 1, 2]", "placement(2, 1) gave stages to 3 ranks, not to 2; each of them"),
    ],
)
def test_a_wrong_placement_is_named(tmp_path, placement, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        build(written(tmp_path, placement), 2, 2)


@pytest.mark.parametrize(
    ("lane", "says"),
    [
        ("def lane(r, p, m, v): raise KeyError('x')", "mine.py line 1 fails: KeyError: 'x'"),
        ("def lane(r, p, m, v):\n yield (m, 'F')\n raise IndexError('far')", "mine.py line 3 fails: IndexError: far"),
        ("def lane(r): return []", "mine.py fails: TypeError: lane() takes 1 positional argument but 4 were given"),
        ("def lane(r, p, m, v): return m", "lane gave 2; return phases, for example [(8, 'F B')]"),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path, lane, says):
    file = tmp_path / "mine.py"
    file.write_text(lane)
    with pytest.raises(ValueError, match=re.escape(says)):
        build(str(file), 2, 2)
