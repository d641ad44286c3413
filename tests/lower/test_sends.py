from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.lane import Lane
from penstock.core.needs import dependencies, partners
from penstock.core.op import COMPUTE, RECVS, SENDS, Kind
from penstock.core.placement import Placement
from penstock.engine import problems, simulate
from penstock.lower import add_sends, add_step
from penstock.schedules import SCHEDULES, build
from randoms import costs_of, plans

WAYS = st.one_of(
    st.fixed_dictionaries({"ahead": st.integers(1, 4), "in_flight": st.integers(1, 4)}), st.just({"sends": "blocking"})
)


def crossings(plan):
    """(maker, consumer) of every value that another rank needs."""
    needed, rank = dependencies(plan), plan.rank_of_op
    return [
        (plan.op(int(d)), plan.op(row))
        for row in range(len(plan))
        for d in needed[row]
        if d >= 0 and rank[d] != rank[row]
    ]


@given(plans(), WAYS)
def test_what_was_legal_stays_legal(plan, way):
    assert problems(add_sends(plan, **way)) == []


@given(st.data(), WAYS)
def test_it_runs_to_its_end_whatever_things_take(data, way):
    plan = add_sends(data.draw(plans()), **way)
    timeline = simulate(plan, data.draw(costs_of(plan.placement)))
    assert not np.isnan(timeline.end_s).any()


@given(plans(), WAYS)
def test_every_crossing_value_is_sent_once_and_no_other(plan, way):
    lowered = add_sends(plan, **way)
    sends = Counter(op for lane in lowered.lanes for op in lane if op.kind in SENDS)
    receives = Counter(op for lane in lowered.lanes for op in lane if op.kind in RECVS)
    kinds = {Kind.F: (Kind.SEND_F, Kind.RECV_F), Kind.B: (Kind.SEND_B, Kind.RECV_B), Kind.I: (Kind.SEND_B, Kind.RECV_B)}
    said = crossings(plan)
    assert sends == Counter((kinds[maker.kind][0], maker.stage, maker.micro) for maker, _ in said)
    assert receives == Counter((kinds[maker.kind][1], user.stage, user.micro) for maker, user in said)
    assert max([*sends.values(), *receives.values()], default=1) == 1


@given(plans(), WAYS)
def test_compute_keeps_its_order(plan, way):
    lowered = add_sends(plan, **way)
    assert [Lane(lane.codes[np.isin(lane.codes[:, 0], COMPUTE)]) for lane in lowered.lanes] == list(plan.lanes)


@given(plans(), WAYS)
def test_messages_of_a_link_are_received_in_the_order_sent(plan, way):
    lowered = add_sends(plan, **way)
    partner, links = partners(lowered), defaultdict(list)
    for row in np.flatnonzero(np.isin(lowered.ops[:, 0], SENDS)):
        links[lowered.rank_of_op[row], lowered.rank_of_op[partner[row]]].append(partner[row])
    assert all((np.diff(received) > 0).all() for received in links.values())


LONG_RUNS = (
    *("breadth-first", "gis", "zeropp", "zb-v", "zb-v-auto", "interleaved-zb", "mixpipe", "dualpipe", "dualpipev"),
    *("modular", "1f1b-v", "v-half", "v-auto"),
)
"""Schedules that run so many ops of a chunk in a row that their links are full."""


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("name", [name for name, one in SCHEDULES.items() if one.gradient_equal])
def test_receives_are_posted_just_ahead_of_their_use(name, ahead):
    """In published schedules neither the order of messages nor a full link asks for more than what is given."""
    plan = add_sends(build(name, 4, 8, 2 if SCHEDULES[name].chunks else 1), ahead=ahead)
    for lane in plan.lanes:
        ops = list(lane)
        computes = np.cumsum([op.kind in COMPUTE for op in ops])
        for at, op in enumerate(ops):
            if op.kind in RECVS:
                users = (Kind.F,) if op.kind == Kind.RECV_F else (Kind.B, Kind.I)
                use = next(k for k, other in enumerate(ops) if other[1:] == op[1:] and other.kind in users)
                early = computes[use] - computes[at]
                assert early == min(ahead, computes[use]) or (name in LONG_RUNS and early > ahead)


def test_a_receive_is_posted_sooner_where_a_full_link_would_hold_up_its_rank():
    """Rank 1 uses what it was sent only after the third message; with two on their way the third must not wait."""

    def lane(r, p, m, v):
        if r == 0:
            return ["0F0", "0F1", "0F2", "0B2", "0B1", "0B0"]
        return ["1F2", "1B2", "1F1", "1B1", "1F0", "1B0"]

    plan = build(lane, 2, 3)
    lowered = add_sends(plan, in_flight=2)
    assert problems(lowered) == []
    assert str(lowered.lanes[1]).startswith("1RECV_F0 1RECV_F1 1RECV_F2 1F2")


@given(plans())
def test_blocking_messages_meet_without_any_buffer(plan):
    """Under rendezvous both ends wait for each other, so all messages must follow one order."""
    lowered = add_sends(plan, sends="blocking")
    assert lowered.blocking
    assert lowered.in_flight is None
    timeline = simulate(lowered, simulate_costs(lowered))
    partner = partners(lowered)
    both = partner >= 0
    assert (timeline.end_s[both] == timeline.end_s[partner[both]]).all()


def simulate_costs(plan):
    from penstock.core.costs import Costs

    return Costs.uniform(plan.placement, 1.0, 1.0, 1.0, 0.125)


def test_hops_within_a_rank_are_not_sent():
    plan = add_sends(build(lambda r, p, m, v: [(m, "F0 F1"), (m, "B1 B0")], 2, 2, 2, placement=Placement.vee(2)))
    assert "1SEND_F" not in str(plan.lanes[1])
    assert str(plan.lanes[1]).startswith("1RECV_F0 1F0 2F0 2SEND_F0")


@pytest.mark.parametrize(
    ("changes", "says"), [({"ahead": 0}, "ahead=0"), ({"in_flight": 0}, "in_flight=0; a link holds at least 1")]
)
def test_wrong_settings_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        add_sends(build("1f1b", 2, 2), **changes)


def test_sends_are_added_once_and_only_to_lanes_that_run():
    plan = build("1f1b", 2, 2)
    with pytest.raises(ValueError, match="plan '1f1b' has sends already"):
        add_sends(add_sends(plan))
    with pytest.raises(ValueError, match="cannot run to its end"):
        add_sends(plan.with_lanes([Lane.parse("0B0 0F0 0F1 0B1"), plan.lanes[1]]))


def test_steps_stand_last_for_every_stage():
    plan = add_step(build("interleaved", 2, 2, 2))
    assert str(plan.lanes[1]).endswith("1STEP 3STEP")
    assert problems(plan) == []
