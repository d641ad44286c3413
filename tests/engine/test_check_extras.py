"""What passes add: the check names what does not fit, and what it lets through runs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import problems, simulate
from penstock.lower import add_sends
from randoms import UNSHRUNK, costs_of, dressed


def said(lanes, place=None, micros=1, **how):
    plan = Plan("hand", place or Placement.loop(len(lanes)), micros, tuple(map(Lane.parse, lanes)))
    return [str(one) for one in problems(replace(plan, **how))]


@pytest.mark.parametrize(
    ("lanes", "says"),
    [
        (["0F0 0OFFLOAD0 0B0"], "0OFFLOAD0: its backward finds nothing there; add 0FETCH0 before the backward"),
        (["0F0 0B0 0OFFLOAD0 0FETCH0"], "0B0: deadlock"),
        (["0F0 0FETCH0 0B0"], "0FETCH0: needs 0OFFLOAD0, which no lane holds"),
        (["0R0 0F0 0B0"], "0R0: deadlock"),
        (["0F0 0UNSHARD 0B0"], "0F0: the stage's weights are not gathered then; add 0UNSHARD before it"),
        (["0UNSHARD 0F0 0RESHARD 0B0"], "0B0: the stage's weights are not gathered then"),
        (["0F0 0REDUCE_GRAD 0B0"], "0B0: its gradient comes after the last sum; move 0REDUCE_GRAD after it"),
        (["0F0 0BCAST_H0 0S0 0B0", "1F0 1BCAST_H0 1B0"], "1S0: is missing; every rank runs it on every micro-batch"),
    ],
)
def test_what_does_not_fit_is_named(lanes, says):
    assert says in said(lanes)[0]


def test_replicas_sum_together():
    place = Placement.both_ways(2)
    lanes = ["0F0 0B0 0REDUCE_GRAD 3F1 3B1 3REDUCE_GRAD", "1F0 1B0 1REDUCE_GRAD 2F1 2B1 2REDUCE_GRAD"]
    assert not said(lanes, place, 2)
    lanes[1] = lanes[1].replace(" 2REDUCE_GRAD", "")
    assert "0REDUCE_GRAD: not every replica of the stage has its own" in said(lanes, place, 2)[0]


def test_slices_go_forward_in_order_and_backward_in_the_other():
    assert not said(["0F0 0F1 0B1 0B0"], micros=2, slices=2)
    assert "deadlock: rank 0 waits at 0B0 for 0B1" in said(["0F0 0F1 0B0 0B1"], micros=2, slices=2)[0]
    assert "deadlock: rank 0 waits at 0F1 for 0F0" in said(["0F1 0F0 0B1 0B0"], micros=2, slices=2)[0]
    assert "recomputes a slice" in said(["0F0 0F1 0R1 0B1 0R0 0B0"], micros=2, slices=2)[0]


@given(st.data(), st.sampled_from([None, "overlapped", "blocking", "batched"]))
@UNSHRUNK
def test_what_is_legal_runs_and_frees_all_it_took(data, sends):
    plan = data.draw(dressed())
    if problems(plan):
        return
    if sends is not None and plan.placement.ranks > 1:
        plan = add_sends(plan, sends)
        assert not problems(plan)
    timeline = simulate(plan, data.draw(costs_of(plan.placement)))
    assert np.isfinite(timeline.end_s).all()
    for curve in timeline.memory:
        assert not curve.activation_bytes[-1:].any()
        assert not curve.buffer_bytes[-1:].any()


@given(st.data())
@UNSHRUNK
def test_what_cannot_run_is_said_to_be_illegal(data):
    plan = data.draw(dressed())
    costs = Costs.uniform(plan.placement)
    found = problems(plan)
    if found:
        assert all(one.message and one.fix for one in found)
    else:
        assert simulate(plan, costs).makespan_s > 0
