"""Sums over replicas: one per stage that has some, never before its last gradient, and never in each other's way."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine import check, problems, simulate
from penstock.lower import add_sends, add_step, reduce_gradients
from penstock.schedules import build
from randoms import costs_of, plans


@st.composite
def replicated(draw):
    """A random plan some of whose stages share their weights, on one rank or on several."""
    plan = draw(plans())
    stages = plan.placement.stages
    parts = draw(st.lists(st.integers(0, max(0, stages // 2)), min_size=stages, max_size=stages))
    return replace(plan, placement=Placement(plan.placement.rank_of, plan.placement.prev, tuple(parts)))


def sums_of(plan):
    return [op.stage for lane in plan.lanes for op in lane if op.kind == Kind.REDUCE_GRAD]


@given(replicated(), st.booleans(), st.sampled_from([None, "overlapped", "blocking", "batched"]), st.booleans())
def test_each_replica_sums_once_and_all_stays_legal(plan, eager, sends, sends_first):
    if sends_first and sends is not None:
        found = reduce_gradients(add_sends(plan, sends), eager)
    else:
        found = reduce_gradients(plan, eager)
        found = add_sends(found, sends) if sends is not None else found
    found = add_step(found)
    assert problems(found) == []
    parts = plan.placement.part_of
    assert sorted(sums_of(found)) == [s for s, part in enumerate(parts) if parts.count(part) > 1]
    for lane in found.lanes:
        kinds = [op.kind for op in lane]
        for place, op in enumerate(lane):
            if op.kind == Kind.REDUCE_GRAD:
                behind = [other for other in lane[place:] if other.stage == op.stage]
                assert not {Kind.B, Kind.I, Kind.W} & {other.kind for other in behind}
                assert eager or set(kinds[place:]) <= {Kind.REDUCE_GRAD, Kind.STEP, Kind.SEND_F, Kind.SEND_B}


@given(st.data())
def test_a_sum_begun_early_never_ends_the_step_later(data):
    plan = data.draw(replicated())
    costs = data.draw(costs_of(plan.placement))
    early, late = (simulate(add_step(reduce_gradients(plan, eager)), costs).step_s for eager in (True, False))
    assert early <= late + 1e-9


@given(st.data(), st.sampled_from([None, "overlapped", "batched"]))
def test_sums_pass_as_the_plain_simulator_says(data, sends):
    """Also where two replicas live on one rank: they end together though the rank sums one after the other."""
    plan = reduce_gradients(data.draw(replicated()))
    plan = add_sends(plan, sends) if sends is not None else plan
    costs = data.draw(costs_of(plan.placement))
    start, end = reference.simulate(plan, costs.of(plan), costs.hop_s)
    mine = simulate(plan, costs)
    assert mine.start_s == pytest.approx(start)
    assert mine.end_s == pytest.approx(end)


@pytest.mark.parametrize("name", ["gpipe", "interleaved", "zb-h1"])
def test_a_plan_without_replicas_stays_as_it_is(name):
    plan = build(name, 2, 4)
    assert reduce_gradients(plan) is plan


def test_sums_of_its_own_stay():
    plan = reduce_gradients(build("chimera", 4, 8))
    assert reduce_gradients(plan) is plan
    assert len(sums_of(plan)) == 8


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_eager_sums_hide_behind_the_work_that_is_left(ranks):
    """On Chimera only the sums of the outer stages, whose gradients come last, show at the end of the step."""
    plan = build("chimera", ranks, ranks)
    ends = []
    for eager in (True, False):
        summed = add_step(reduce_gradients(plan, eager))
        check(summed)
        costs = Costs.uniform(plan.placement, other_s={Kind.REDUCE_GRAD: 1.0})
        ends.append(simulate(summed, costs).step_s - simulate(add_step(plan), costs).step_s)
    assert ends == [1.0, 2.0]
