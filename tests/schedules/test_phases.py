import pytest

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.schedules import build, expand


@pytest.mark.parametrize(
    ("phases", "chunks", "text"),
    [
        ([], [0], ""),
        ([(0, "F"), (-3, "F B")], [0], ""),
        ([(2, "F"), (2, "B")], [5], "5F0 5F1 5B0 5B1"),
        ([(1, "F"), (1, "I W")], [0], "0F0 0I0 0W0"),
        ([(2, "F I"), (2, "w")], [0], "0F0 0I0 0F1 0I1 0W0 0W1"),
        ([(1, "F0 F1 I1 I0 w w")], [0, 3], "0F0 3F0 3I0 0I0 3W0 0W0"),
        ([(2, "F"), (1, "I w"), (1, "B")], [0], "0F0 0F1 0I0 0W0 0B1"),
        ([(2, "F"), (2, "F+B"), (1, "I w")], [0], "0F0 0F1 (0F2;0B0)OVERLAP_F_B (0F3;0B1)OVERLAP_F_B 0I2 0W2"),
        ([(1, "F0 F1"), (1, "F0+I1 w")], [0, 3], "0F0 3F0 (0F1;3I0)OVERLAP_F_B 3W0"),
        ([(2, "F"), (1, "I"), (1, "I"), (2, "W0")], [0], "0F0 0F1 0I0 0I1 0W0 0W1"),
    ],
)
def test_numbers_advance_by_themselves(phases, chunks, text):
    assert str(expand(phases, chunks)) == text


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([(1, "X")], "'X' is not a word"),
        ([(1, "Fx")], "'Fx' is not a word"),
        ([(1, "f")], "'f' is not a word"),
        ([(1, "F+F1")], "'F.F1': a fused block is a forward and a backward"),
        ([(1, "B1+F0")], "a fused block is a forward and a backward; write for example F0.B1"),
        ([(1, "F0+B1+F0")], "a fused block is a forward and a backward"),
        ([(1, "F2")], r"this rank has chunks 0..1"),
        ([(1, "F w")], "w number 1 comes before any I"),
        ([(2, "F I"), (3, "w")], "w number 3 comes before any I"),
        ([(2, "F I"), (1, "w W")], "not both"),
    ],
)
def test_wrong_words_are_named(phases, says):
    with pytest.raises(ValueError, match=says):
        expand(phases, [0, 1])


def by_words(r, p, m, v):
    return [f"{r}F0", f"{r}B0"]


def by_ops(r, p, m, v):
    from penstock.core.op import Op

    return (Op(kind, r, 0) for kind in (Kind.F, Kind.B))


def by_rows(r, p, m, v):
    import numpy as np

    return np.array([(Kind.F, r, 0), (Kind.B, r, 0)])


def by_lane(r, p, m, v):
    return Lane.parse(f"{r}F0 {r}B0")


def by_phases(r, p, m, v):
    return [(m, "F"), (m, "B")]


@pytest.mark.parametrize("lane", [by_words, by_ops, by_rows, by_lane, by_phases])
def test_all_ways_to_write_a_schedule_are_equal(lane):
    plan = build(lane, 2, 1)
    assert plan.name == lane.__name__.replace("_", "-")
    assert plan.lanes == build("gpipe", 2, 1).lanes


def test_blocks_stay_blocks():
    lanes = build(lambda r, p, m, v: expand([(1, "F"), (m - 1, "F+B"), (1, "B")], [r]), 1, 3).lanes
    words = build(lambda r, p, m, v: ["0F0", "(0F1;0B0)OVERLAP_F_B", "(0F2;0B1)OVERLAP_F_B", "0B2"], 1, 3).lanes
    assert lanes == words
    assert lanes[0].fused.tolist() == [False, True, False, True, False, False]


def test_a_user_s_placement_names_the_stages():
    plan = build(lambda r, p, m, v: [(m, "F0 F1"), (m, "B1 B0")], 2, 1, 2, placement=Placement.vee(2))
    assert [str(lane) for lane in plan.lanes] == ["0F0 3F0 3B0 0B0", "1F0 2F0 2B0 1B0"]
