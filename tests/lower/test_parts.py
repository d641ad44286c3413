"""Stages in parts: the same order of work in smaller ops, no longer and no heavier."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.placement import Placement
from penstock.cost import pricing
from penstock.engine import check, simulate
from penstock.lower import in_parts
from penstock.schedules import build
from penstock.search import Options, solve


@given(st.sampled_from([Placement.loop, Placement.vee, Placement.both_ways]), st.integers(2, 5), st.integers(1, 4))
def test_the_whole_of_parts_is_found_again(shape, ranks, parts):
    place = shape(ranks, 2)
    held, found = place.in_parts(parts).whole()
    assert held.in_parts(found) == place.in_parts(parts)
    assert held.stages * found == place.stages * parts
    assert held == place or found > parts


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("1f1b", 1), ("zb-h1", 1), ("interleaved", 2), ("zb-v", 2), ("v-min", 2), ("chimera", 1)]
)
@pytest.mark.parametrize("parts", [2, 3])
def test_a_plan_in_parts_takes_as_long_and_holds_no_more(schedule, chunks, parts):
    plan = build(schedule, 4, 8, chunks)
    costs = pricing("28.3B", 0.94)
    cut = in_parts(plan, parts)
    before, after = simulate(plan, costs.on(plan.placement)), simulate(cut, costs.on(cut.placement))
    check(cut, costs.on(cut.placement))
    assert after.makespan_s == pytest.approx(before.makespan_s)
    assert after.span_s == pytest.approx(before.span_s)
    assert (after.peak_bytes <= before.peak_bytes * (1 + 1e-9)).all()
    assert after.busy_s == pytest.approx(before.busy_s)


def test_a_search_on_parts_begins_with_the_schedules_of_the_whole():
    place, costs, short = Placement.vee(4), pricing("28.3B", 1.0).on, Options(stints=0, processes=1)
    whole, cut = (solve(costs, where, 8, 4.0, "span", short) for where in (place, place.in_parts(2)))
    assert whole.named is not None
    assert cut.named == (whole.named[0], pytest.approx(whole.named[1]))
    assert cut.seconds <= whole.seconds * (1 + 1e-9)
    assert np.bincount(cut.plan.placement.rank_of).tolist() == [4] * 4


def test_less_is_waited_with_little_memory():
    place, costs, short = Placement.vee(4), pricing("28.3B", 1.0).on, Options(stints=1, processes=1)
    whole, cut = (solve(costs, where, 8, 2.4, "span", short) for where in (place, place.in_parts(2)))
    assert cut.seconds < 0.99 * whole.seconds


def test_a_stage_in_no_part_is_refused():
    with pytest.raises(ValueError, match="cannot be cut into 0 parts"):
        Placement.loop(2).in_parts(0)
