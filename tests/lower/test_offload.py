"""Copies to the host keep plans legal, delay no op and never raise the peak; PipeOffload's figures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.op import HOST, Kind
from penstock.engine import check, simulate
from penstock.lower import add_sends, offload, recompute
from penstock.schedules import build
from randoms import UNSHRUNK, costs_of, dressed, plans


@UNSHRUNK
@given(st.data())
def test_copies_keep_a_plan_legal_delay_nothing_and_never_raise_the_peak(data):
    plan = data.draw(plans())
    plan = recompute(plan, keep=1) if data.draw(st.booleans()) else plan
    costs = data.draw(costs_of(plan.placement))
    new = offload(plan, costs, trips=data.draw(st.sampled_from([1.0, 2.0])))
    check(new)
    check(add_sends(new, sends="blocking"))
    before, after = simulate(plan, costs), simulate(new, costs)
    own = ~np.isin(new.ops[:, 0], HOST)
    assert np.array_equal(new.ops[own], plan.ops)
    assert (after.end_s[own] <= before.end_s + 1e-6).all()
    assert (after.peak_bytes <= before.peak_bytes + 1e-9).all()


@UNSHRUNK
@given(st.data())
def test_plans_with_everything_stay_as_legal_as_they_were(data):
    plan = data.draw(dressed())
    costs = data.draw(costs_of(plan.placement))
    try:
        check(plan)
    except ValueError:
        return
    check(offload(plan, costs))


def link(placement, round_trip_s):
    """Costs with a way there and back that takes so long for a micro-batch of a rank's layers."""
    each = round_trip_s / 2
    return Costs.uniform(placement, other_s={Kind.OFFLOAD: each, Kind.FETCH: each})


@pytest.mark.parametrize("round_trip_s", [0.5, 1.0])
@pytest.mark.parametrize(("name", "v", "without"), [("gis", 2, 1.0), ("gis-h", 2, 0.75), ("gis-h", 4, 0.625)])
def test_a_fast_link_leaves_two_chunks_per_rank(name, v, without, round_trip_s):
    """Wan et al. 2025, table 1: GIS keeps M, GIS-H (v+1)/(2v) M, full offload O(M/vd), whatever the ranks d."""
    for p in (4, 8):
        plan = build(name, ranks=p, micros=2 * p, chunks=v)
        costs = link(plan.placement, round_trip_s)
        before, after = simulate(plan, costs), simulate(offload(plan, costs), costs)
        assert before.peak_bytes.max() / p == without
        assert after.peak_bytes.max() / p == 2 / (v * p)
        assert after.makespan_s == before.makespan_s


@pytest.mark.parametrize("v", [2, 4, *(pytest.param(v, marks=pytest.mark.slow) for v in (6, 8))])
@pytest.mark.parametrize("round_trip_s", [0.1, 1.0])
def test_half_of_the_chunks_take_more_than_half_of_the_memory(v, round_trip_s):
    """Wan et al. 2025, table 1: PO-H keeps (v+2)/(8v) M; the excess, what is on its way, does not grow with ranks."""
    for p in (8, 16, 32):
        plan = build("uniform", ranks=p, micros=3 * p, chunks=v)
        costs = link(plan.placement, round_trip_s)
        moved = offload(plan, costs, stages=range(v // 2 * p))
        before, after = simulate(plan, costs), simulate(moved, costs)
        assert (moved.ops[:, 0] == Kind.FETCH).sum() == v // 2 * p * plan.micros
        assert after.makespan_s == before.makespan_s
        kept, theirs = round(after.peak_bytes.max() * v, 9), (v + 2) / 8 * p
        assert theirs < kept <= theirs + v // 2
        assert kept < before.peak_bytes.max() * v / 2


def test_a_slow_link_moves_what_waits_long_and_delays_nothing():
    plan = build("gis-h", ranks=8, micros=16, chunks=2)
    peaks, moved = [], []
    for round_trip_s in (1.0, 3.0, 6.0, 12.0, 1e6):
        costs = link(plan.placement, round_trip_s)
        new = offload(plan, costs)
        found = simulate(new, costs)
        assert found.makespan_s == pytest.approx(simulate(plan, costs).makespan_s)
        peaks.append(found.peak_bytes.max())
        moved.append(int((new.ops[:, 0] == Kind.FETCH).sum()))
    assert peaks == sorted(peaks)
    assert moved == sorted(moved, reverse=True)
    assert peaks[0] == 1.0
    assert peaks[1] == 2.5
    assert peaks[-1] == 6.0
    assert moved[-1] == 0


def test_ranks_that_share_a_link_take_turns():
    plan = build("gis-h", ranks=8, micros=16, chunks=2)
    own = link(plan.placement, 2.0)
    shared = replace(own, host_of=np.arange(8) // 2)
    new = offload(plan, shared)
    found = simulate(new, shared)
    assert found.makespan_s == simulate(plan, own).makespan_s
    assert found.peak_bytes.max() == 2.5
    for host in range(4):
        for kind in HOST:
            rows = np.flatnonzero((new.ops[:, 0] == kind) & (shared.host_of[new.rank_of_op] == host))
            ends = np.sort(found.end_s[rows])
            assert (np.diff(ends) >= own.seconds[kind, 0] - 1e-9).all()
            assert len(set(new.rank_of_op[rows])) == 2


def test_half_of_what_is_kept_moves_half():
    plan = build("gis-h", ranks=8, micros=16, chunks=2)
    costs = replace(link(plan.placement, 0.5), host_share=np.full(16, 0.5))
    assert simulate(offload(plan, costs), costs).peak_bytes.max() == pytest.approx((6.0 + 1.0) / 2)


def test_what_cannot_be_is_named():
    plan = build("1f1b", ranks=2, micros=2)
    costs = Costs.uniform(plan.placement)
    with pytest.raises(ValueError, match="stage 7: stages count from 0 to 1"):
        offload(plan, costs, [7])
    with pytest.raises(ValueError, match=r"trips=0\.5"):
        offload(plan, costs, trips=0.5)
