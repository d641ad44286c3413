import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.engine import check, simulate
from penstock.lower import add_sends, add_step, merge_backward, split_backward, two_bp
from penstock.schedules import SCHEDULES, build
from randoms import costs_of, plans

WHOLE = ["gpipe", "1f1b", "interleaved", "breadth-first", "eager-1f1b", "hanayo", "chimera", "bitpipe"]


def kinds(plan):
    return {kind for kind in Kind if (plan.ops[:, 0] == kind).any()}


def ends(plan, costs):
    return simulate(plan, costs).makespan_s


@given(st.data())
def test_splitting_keeps_a_plan_legal_and_is_never_slower(data):
    plan = data.draw(plans())
    costs = data.draw(costs_of(plan.placement))
    split = split_backward(plan)
    check(split)
    check(add_sends(split, sends="blocking"))
    assert Kind.B not in kinds(split)
    assert ends(split, costs) <= ends(plan, costs) + 1e-9


@given(st.data())
def test_merging_keeps_a_plan_legal_is_never_faster_and_undoes_splitting(data):
    plan = data.draw(plans())
    costs = data.draw(costs_of(plan.placement))
    merged = merge_backward(plan)
    check(merged)
    assert ends(merged, costs) >= ends(plan, costs) - 1e-9
    assert merge_backward(split_backward(merged)).lanes == merged.lanes
    assert split_backward(merge_backward(split_backward(plan))).lanes == split_backward(plan).lanes


@given(st.data(), st.booleans())
def test_2bp_keeps_a_plan_legal_and_the_order_of_all_but_weight_gradients(data, fill):
    plan = data.draw(plans())
    late = two_bp(plan, fill)
    check(late)
    check(add_sends(late))
    for before, after in zip(split_backward(plan).lanes, late.lanes, strict=True):
        rest = [lane.codes[lane.codes[:, 0] != Kind.W] for lane in (before, after)]
        assert np.array_equal(*rest)
        split, late_ones = (after.codes[after.codes[:, 0] == kind, 1:] for kind in (Kind.I, Kind.W))
        assert np.array_equal(split, late_ones)


@given(plans())
def test_2bp_is_never_slower_where_all_ops_take_the_same_time(plan):
    ones = Costs.uniform(plan.placement).seconds * 0 + 1
    ones[Kind.B] = 2
    base = Costs.uniform(plan.placement)
    costs = Costs(ones, base.hop_s, base.saved_bytes, base.w_share, base.boundary_bytes)
    assert ends(two_bp(plan), costs) <= ends(split_backward(plan), costs) <= ends(plan, costs)


@pytest.mark.parametrize("name", WHOLE)
def test_2bp_shortens_every_schedule_with_whole_backwards(name):
    plan = build(name, 4, 8, 2 if SCHEDULES[name].chunks else 1)
    costs = Costs.uniform(plan.placement)
    assert ends(two_bp(plan), costs) < ends(plan, costs)


def test_2bp_of_1f1b_hides_weight_gradients_in_the_drain():
    """At most (p-1)(F+I) idle at equal times; with all W at the end as much, and the activations of the whole step."""
    for p, m in [(2, 4), (4, 8), (8, 8)]:
        plan = build("1f1b", p, m)
        costs = Costs.uniform(plan.placement)
        assert ends(two_bp(plan), costs) - 3 * m <= (p - 1) * 2
        end = simulate(two_bp(plan, fill=False), costs)
        assert end.makespan_s - 3 * m == (p - 1) * 2
        assert end.peak_bytes.tolist() == [m] * p


@pytest.mark.parametrize("verb", [split_backward, merge_backward, two_bp])
def test_plans_with_sends_are_refused(verb):
    with pytest.raises(ValueError, match=f"plan 'gpipe' has sends already; call {verb.__name__} before add_sends"):
        verb(add_sends(build("gpipe", 2, 2)))


def test_2bp_refuses_what_cannot_run():
    plan = build("gpipe", 1, 1).with_lanes([Lane.parse("0B0 0F0")])
    with pytest.raises(ValueError, match="cannot run to its end"):
        two_bp(plan)


def test_2bp_refuses_plans_with_sums():
    with pytest.raises(ValueError, match="'modular' sums gradients already; call two_bp before reduce_gradients"):
        two_bp(build("modular", 2, 4, 2))


def test_blocks_stay_blocks():
    plan = build("dualpipev", 3, 9, 2)
    blocks = int(plan.fused.sum())
    split = split_backward(plan)
    assert "(0F6;5I3)OVERLAP_F_B 5W3" in str(split.lanes[0])
    assert merge_backward(split).lanes == merge_backward(plan).lanes
    for changed in (split, two_bp(plan), two_bp(plan, fill=False), add_step(plan), merge_backward(plan)):
        check(changed)
        assert changed.fused.sum() == blocks
