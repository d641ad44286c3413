from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from penstock.core import compiled as compiled_module
from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import NO_MICRO, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.play import play
from penstock.lower import add_sends, add_step
from penstock.schedules import build
from randoms import UNSHRUNK, costs_of, dressed, plans

HOPS = np.array([[0.0, 0.5], [0.5, 0.0]])
LOWERINGS = [None, {}, {"ahead": 3}, {"in_flight": 1}, {"sends": "blocking"}, {"sends": "batched"}]


def lower(plan, how, steps):
    plan = plan if how is None else add_sends(plan, **how)
    return add_step(plan) if steps else plan


def played(plan, costs):
    return play(plan, costs.of(plan), costs.hop_s, costs.host_of)


def same_as_reference(plan, costs):
    fast = played(plan, costs)
    slow = reference.simulate(plan, costs.of(plan), costs.hop_s, costs.host_of)
    if slow is None:
        assert np.isnan(fast.end_s).any()
        return
    start, end = slow
    assert fast.start_s.tolist() == pytest.approx(start, abs=1e-12)
    assert fast.end_s.tolist() == pytest.approx(end, abs=1e-12)
    assert fast.stopped_at.tolist() == plan.first[1:].tolist()


@given(st.data(), st.sampled_from(LOWERINGS), st.booleans())
def test_times_are_those_of_the_plain_simulator(data, how, steps):
    plan = lower(data.draw(plans()), how, steps)
    same_as_reference(plan, data.draw(costs_of(plan.placement)))


@given(st.data(), st.sampled_from(LOWERINGS))
@UNSHRUNK
def test_work_on_links_blocks_and_slices_are_those_of_the_plain_simulator(data, how):
    plan = data.draw(dressed())
    if how is not None and runs(plan):
        plan = add_sends(plan, **how)
    same_as_reference(plan, data.draw(costs_of(plan.placement)))


def runs(plan):
    return not np.isnan(played(plan, Costs.uniform(plan.placement)).end_s).any()


@given(st.data(), st.booleans())
def test_both_stop_alike_where_lanes_cannot_run(data, sends):
    """Two ops of a legal plan change places."""
    plan = lower(data.draw(plans()), {} if sends else None, False)
    rank = data.draw(st.integers(0, plan.placement.ranks - 1))
    codes = plan.lanes[rank].codes.copy()
    a, b = (data.draw(st.integers(0, len(codes) - 1)) for _ in range(2))
    codes[[a, b]] = codes[[b, a]]
    changed = plan.with_lanes(Lane(codes) if r == rank else lane for r, lane in enumerate(plan.lanes))
    if sends and not fifo(changed):
        return
    same_as_reference(changed, data.draw(costs_of(plan.placement)))


def fifo(plan):
    from penstock.core.needs import partners

    partner = partners(plan)
    sends = np.flatnonzero(np.isin(plan.ops[:, 0], (Kind.SEND_F, Kind.SEND_B)))
    link = plan.rank_of_op[sends] * plan.placement.ranks + plan.rank_of_op[partner[sends]]
    return all((np.diff(partner[sends[link == each]]) > 0).all() for each in np.unique(link))


@pytest.mark.parametrize("how", LOWERINGS)
@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb-h1"])
def test_compiled_and_plain_loop_agree(name, how, monkeypatch):
    plan = lower(build(name, 4, 8, 2 if name == "interleaved" else 1), how, True)
    rng = np.random.default_rng(1)
    seconds, hop_s = rng.random(len(plan)), rng.random((4, 4))
    plain = play(plan, seconds, hop_s)
    plan = replace(plan)  # without what it has found
    monkeypatch.setattr(compiled_module, "COMPILE_FROM_OPS", 0)
    compiled = play(plan, seconds, hop_s)
    for field in ("start_s", "end_s", "waited_for", "stopped_at"):
        assert getattr(plain, field).tolist() == getattr(compiled, field).tolist()


@given(st.data(), st.sampled_from(LOWERINGS))
def test_what_an_op_waited_for_ended_when_it_started(data, how):
    plan = lower(data.draw(plans()), how, False)
    costs = data.draw(costs_of(plan.placement))
    found = played(plan, costs)
    for row in np.flatnonzero(found.waited_for >= 0):
        other = found.waited_for[row]
        if plan.ops[row, 0] in (Kind.F, Kind.B, Kind.I, Kind.W):
            a, b = plan.rank_of_op[other], plan.rank_of_op[row]
            lag = 0.0 if plan.lowered else costs.hop_s[a, b]
            assert found.start_s[row] == pytest.approx(found.end_s[other] + lag)


def test_by_hand():
    """F takes 1, B 2, a message 0.5: the second rank starts at 1.5 and its gradient is back at 5."""
    plan = Plan("hand", Placement.loop(2), 1, (Lane.parse("0F0 0B0"), Lane.parse("1F0 1B0")))
    found = play(plan, np.array([1.0, 2.0, 1.0, 2.0]), HOPS)
    assert found.start_s.tolist() == [0.0, 5.0, 1.5, 2.5]
    assert found.end_s.tolist() == [1.0, 7.0, 2.5, 4.5]
    assert found.waited_for.tolist() == [-1, 3, 0, -1]


def test_a_blocking_send_holds_its_rank():
    plan = add_sends(build("gpipe", 2, 2), sends="blocking")
    found = play(plan, np.where(plan.ops[:, 0] == Kind.B, 2.0, 1.0) * (plan.ops[:, 0] < 4), HOPS)
    assert str(plan.lanes[0][:4]) == "0F0 0SEND_F0 0F1 0SEND_F1"
    assert found.start_s[:4].tolist() == [0.0, 1.0, 1.5, 2.5]
    assert found.end_s[:4].tolist() == [1.0, 1.5, 2.5, 3.0]


def test_steps_begin_when_all_else_is_done():
    plan = add_step(build("1f1b", 2, 1))
    seconds = np.array([1.0, 2.0, 4.0, 1.0, 2.0, 3.0])
    found = play(plan, seconds, np.zeros((2, 2)))
    steps = np.flatnonzero(plan.ops[:, 2] == NO_MICRO)
    assert found.start_s[steps].tolist() == [6.0, 6.0]
    assert found.end_s[steps].tolist() == [10.0, 9.0]
