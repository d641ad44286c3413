"""Lengths of slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.plan import Plan
from penstock.core.slicing import by_mean, equal_time, rounded
from penstock.engine import simulate
from penstock.lower import add_sends
from penstock.schedules import build


@given(st.integers(1, 12), st.floats(0, 1))
def test_slices_take_equally_long(slices, attention):
    """Counted by hand: each token takes 1-a, and attends to what is before it."""
    lengths = np.array(equal_time(slices, attention))
    ends = np.cumsum(lengths)
    times = (1 - attention) * lengths + 2 * attention * lengths * (ends - lengths / 2)
    assert ends[-1] == pytest.approx(1)
    assert times == pytest.approx(np.full(slices, 1 / slices))
    assert (np.diff(lengths) <= 1e-12).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(60, 200))
def test_rounded_lengths_make_up_the_sequence(lengths, tokens):
    found = rounded(lengths, tokens)
    assert sum(found) == tokens
    assert np.abs(np.array(found) - np.array(lengths) * tokens / sum(lengths)).max() <= 1
    assert by_mean(lengths, len(lengths)).mean() == pytest.approx(1)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="3 slices of 3 tokens: slice 2 would be empty"):
        rounded((8, 8, 1), 3)
    with pytest.raises(ValueError, match=r"attention=1\.5 is the share"):
        equal_time(2, 1.5)
    plan = build("seq1f1b", 2, 2, slices=2)
    with pytest.raises(ValueError, match=r"slice_lengths=\(1,\); give one for each of 2 slices, above 0"):
        Plan(plan.name, plan.placement, plan.micros, plan.lanes, slices=2, slice_lengths=(1,))
    with pytest.raises(ValueError, match="attention=120 per cent of a sequence's time; give 0 to 100"):
        build("seq1f1b", 2, 2, slices=2, attention=120)
    with pytest.raises(ValueError, match="1f1b has no option 'attention'"):
        build("1f1b", 2, 2, attention=20)


@pytest.mark.parametrize("name", ["seq1f1b", "seq1f1b-i", "seq1f1b-zb"])
def test_unequal_slices_take_as_long_and_more_memory_the_earlier_they_are(name):
    even, uneven = build(name, 3, 4), build(name, 3, 4, attention=50)
    assert even.slice_lengths == ()
    assert uneven.lanes == even.lanes
    assert uneven.slice_lengths == rounded(equal_time(4, 0.5), 10_000)
    assert [Plan.from_json(uneven.to_json()), Plan.from_text(uneven.to_text())] == [uneven] * 2
    costs = Costs.uniform(even.placement).sliced(4)
    before, after = simulate(even, costs), simulate(uneven, costs)
    assert after.end_s.tolist() == before.end_s.tolist()
    assert (after.peak_bytes > before.peak_bytes).all()
    alone = simulate(build("seq1f1b", 1, 1, slices=2, attention=100), Costs.uniform(build("gpipe", 1, 1).placement))
    steps = alone.memory[0].total_bytes
    assert steps.tolist() == pytest.approx([2 * 0.7071, 2.0, 2 * 0.7071, 0.0])


def test_buffers_of_slices_have_their_length():
    plan = add_sends(build("seq1f1b", 2, 1, slices=2, attention=100))
    costs = Costs.uniform(plan.placement, rank_bytes=0.0, boundary_bytes=1.0)
    for curve in simulate(plan, costs).memory:
        steps = np.abs(np.diff(curve.total_bytes, prepend=0.0))
        assert sorted({*steps.round(4)} - {0.0}) == pytest.approx([0.5858, 1.4142])
