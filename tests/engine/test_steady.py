"""Steps one after the other, with a barrier between them and without."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.play import play
from penstock.engine import simulate
from penstock.engine.check import problems
from penstock.engine.cut import TO_GRADIENTS
from penstock.engine.steady import in_a_row, period_s, step_ends
from penstock.lower import add_sends, add_step
from penstock.schedules import SCHEDULES, build
from randoms import UNSHRUNK, costs_of, dressed

STEP_S = 2.0
SYNCED = [name for name, one in SCHEDULES.items() if one.gradient_equal]


def priced(plan, **facts):
    return Costs.uniform(plan.placement, other_s={Kind.STEP: STEP_S}, **facts)


def of(name, ranks, micros):
    return build(name, ranks, micros, 2 if SCHEDULES[name].chunks else 1)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("name", ["zb-h2", "zb-v"])
def test_without_a_barrier_zero_bubble_schedules_have_none(name, ranks):
    """At equal costs: m(F+I+W) and the step, where a barrier costs the last rank's way up more."""
    plan = of(name, ranks, 3 * ranks)
    ideal = 3 * ranks * 3.0 + STEP_S
    assert period_s(add_step(plan, "after"), priced(plan)) == pytest.approx(ideal)
    assert period_s(add_step(plan), priced(plan)) == simulate(plan, priced(plan)).makespan_s + STEP_S > ideal


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_where_rank_0_is_first_and_last_a_barrier_costs_nothing(name):
    plan = of(name, 4, 8)
    with_it, without = (period_s(add_step(plan, when), priced(plan)) for when in ("before", "after"))
    assert with_it == without == simulate(plan, priced(plan)).makespan_s + STEP_S


@pytest.mark.parametrize("name", SYNCED)
@pytest.mark.parametrize("link_s", [0.0, 0.25])
def test_a_period_lies_between_the_work_and_the_barrier(name, link_s):
    plan = of(name, 4, 8)
    costs = priced(plan, link_s=link_s)
    alone = simulate(plan, costs)
    period = period_s(add_step(plan, "after"), costs)
    step_s = STEP_S * plan.placement.chains
    assert alone.busy_s.max() + step_s - 1e-9 <= period <= alone.makespan_s + step_s + 1e-9


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, one in SCHEDULES.items()
        if one.gradient_equal and one.placement(4, 2 if one.chunks else 1).chains == 1
    ],
)
def test_the_norm_is_there_before_any_gradient_wants_it(name):
    """In plans of one chain the last step has begun on every rank before anyone makes a gradient of the next."""
    plan = add_step(of(name, 4, 8), "after")
    many = in_a_row(plan, 2)
    played = play(many, priced(plan).of(many), priced(plan).hop_s)
    kind, half = many.ops[:, 0], np.concatenate([np.arange(len(lane)) < len(lane) // 2 for lane in many.lanes])
    stepped = played.start_s[(kind == Kind.STEP) & half].max()
    made = np.isin(kind, [k for k in TO_GRADIENTS if k != Kind.STEP]) & ~half
    assert played.start_s[made].min() >= stepped


@UNSHRUNK
@given(st.data())
def test_any_plan_as_the_plain_simulator_repeats_it(data):
    plan = replace(data.draw(dressed(most_ranks=3)), barrier=False)
    if problems(plan):
        return
    costs = data.draw(costs_of(plan.placement))
    plan = add_sends(plan) if plan.placement.ranks > 1 and data.draw(st.booleans()) else plan
    many = in_a_row(plan, 3)
    _, end = reference.simulate(many, costs.of(many).tolist(), costs.hop_s.tolist(), costs.host_of.tolist())
    of_step = np.concatenate([np.repeat(np.arange(3), len(lane)) for lane in plan.lanes])
    expected = [max(np.array(end)[of_step == n]) for n in range(3)]
    assert step_ends(plan, costs, 3) == pytest.approx(np.maximum.accumulate(expected), abs=1e-9)
    assert step_ends(replace(plan, barrier=True), costs, 3) == pytest.approx(
        simulate(plan, costs).step_s * np.arange(1, 4)
    )


def test_a_step_at_least():
    plan = build("gpipe", 2, 2)
    with pytest.raises(ValueError, match="steps=0; simulate at least 1"):
        step_ends(plan, priced(plan), 0)
