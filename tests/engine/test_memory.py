"""Memory curves by hand: two stages, F 1, B 2 (I 1, W 1), 8 bytes per micro-batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import simulate
from penstock.lower import add_sends
from penstock.schedules import build
from randoms import costs_of, plans


def curve(lanes, rank, micros=1, sends=False, **changes):
    place = Placement.loop(len(lanes))
    plan = Plan("hand", place, micros, tuple(map(Lane.parse, lanes)))
    plan = add_sends(plan) if sends else plan
    costs = replace(Costs.uniform(place, rank_bytes=8.0), **changes)
    found = simulate(plan, costs).memory[rank]
    at_end_of = np.diff(found.time_s, append=np.inf) > 0
    return [
        (float(t), float(a), float(b))
        for t, a, b in zip(
            found.time_s[at_end_of], found.activation_bytes[at_end_of], found.buffer_bytes[at_end_of], strict=True
        )
    ]


def test_f_takes_and_b_frees():
    assert curve(["0F0 0F1 0B0 0B1"], 0, 2) == [(0, 8, 0), (1, 16, 0), (4, 8, 0), (6, 0, 0)]


@pytest.mark.parametrize(("share", "left"), [(1.0, 8), (0.25, 2), (0.0, 0)])
def test_i_leaves_what_w_needs(share, left):
    plan = Plan("hand", Placement.loop(1), 1, (Lane.parse("0F0 0I0 0W0"),))
    (found,) = simulate(plan, Costs.uniform(plan.placement, w_share=share, rank_bytes=8.0)).memory
    held = [float(found.activation_bytes[found.time_s <= moment][-1]) for moment in (0.0, 1.9, 2.0, 2.9, 3.0)]
    assert held == [8, 8, left, left, 0]


def test_forwards_alone_keep_nothing():
    assert curve(["0F0 0F1"], 0, 2) == []


def test_an_activation_waits_for_its_gradient():
    """Rank 0 runs F at 0-1 and B at 4-6, rank 1 F at 1-2 and B at 2-4."""
    lanes = ["0F0 0B0", "1F0 1B0"]
    assert curve(lanes, 0) == [(0, 8, 0), (6, 0, 0)]
    assert curve(lanes, 1) == [(1, 8, 0), (4, 0, 0)]


def test_buffers_live_while_messages_do():
    """A message of 3 bytes takes 0.5. Rank 1 posts its receive at 0, runs F 1.5-2.5 and B 2.5-4.5, and sends 4.5-5.

    The sent gradient is held until the lane's end since no later send waits for it; the received output until F ends.
    Rank 0 sends at 1, posts its receive at 1 and runs B 5-7.
    """
    hops = np.array([[0.0, 0.5], [0.5, 0.0]])
    lanes, more = ["0F0 0B0", "1F0 1B0"], {"hop_s": hops, "boundary_bytes": np.array([3.0, 3.0])}
    assert curve(lanes, 1, sends=True, **more) == [(0, 0, 3), (1.5, 8, 3), (2.5, 8, 0), (4.5, 0, 3), (5, 0, 0)]
    assert curve(lanes, 0, sends=True, **more) == [(0, 8, 0), (1, 8, 6), (7, 0, 0)]


@given(st.data(), st.sampled_from([None, {}, {"in_flight": 1}, {"sends": "blocking"}]))
def test_what_is_taken_is_freed_and_never_below_zero(data, lowering):
    plan = data.draw(plans())
    plan = plan if lowering is None else add_sends(plan, **lowering)
    timeline = simulate(plan, data.draw(costs_of(plan.placement)))
    for found in timeline.memory:
        for level in (found.activation_bytes, found.buffer_bytes):
            assert (level >= 0).all()
            assert len(level) == 0 or level[-1] == 0
        assert (np.diff(found.time_s) >= 0).all()


@given(plans(), st.integers(0, 2**31))
def test_activations_are_a_count_of_forwards_less_backwards(plan, seed):
    """At any moment: 8 bytes for each forward begun whose backward (W if split) has not ended."""
    place = plan.placement
    costs = replace(Costs.uniform(place), saved_bytes=np.full(place.stages, 8.0))
    timeline = simulate(plan, costs)
    kind, stage, micro = plan.ops.T
    ends = {
        (s, i): timeline.end_s[row] for row, (k, s, i) in enumerate(zip(kind, stage, micro, strict=True)) if k in (1, 3)
    }
    for moment in np.random.default_rng(seed).uniform(0, timeline.makespan_s, 5):
        for rank in range(place.ranks):
            rows = np.flatnonzero((plan.rank_of_op == rank) & (kind == 0) & (timeline.start_s <= moment))
            alive = sum(ends[stage[row], micro[row]] > moment for row in rows)
            found = timeline.memory[rank]
            at = np.searchsorted(found.time_s, moment, side="right") - 1
            assert (found.activation_bytes[at] if at >= 0 else 0.0) == 8.0 * alive


@pytest.mark.parametrize("micros", [8, 32, 128])
def test_buffers_do_not_grow_with_micro_batches(micros):
    plan = add_sends(build("1f1b", 4, micros))
    costs = Costs.uniform(plan.placement, boundary_bytes=1.0)
    peaks = [float(found.buffer_bytes.max()) for found in simulate(plan, costs).memory]
    assert peaks == [
        float(found.buffer_bytes.max()) for found in simulate(add_sends(build("1f1b", 4, 8)), costs).memory
    ]
