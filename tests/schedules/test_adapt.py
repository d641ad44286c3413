"""Schedules that search for an order: within their limit, as fast as named ones, at any costs and soon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.compiled import _asked, native
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine import bounds, check, simulate
from penstock.schedules import build
from penstock.schedules import problem as problems
from penstock.schedules.problem import Problem
from penstock.schedules.task import Task
from penstock.schedules.weave import Weaver
from penstock.schedules.zb_1p import limits

MODEL = (10.402, 10.248, 7.698, 0.460)
"""The 28.3B model of table 9 at 256 micro-batches (Qi et al. 2023, arXiv:2401.10241)."""
NAMED = {"zb-1p": ("1f1b", "zb-h1", "zb-h2"), "zb-2p": ("1f1b", "zb-h1", "zb-h2"), "zb-v-auto": ("zb-v",)}
VEES = ("zb-v", "v-half", "v-min", "1f1b-v")


def chunks(name):
    return 2 if name == "zb-v-auto" else 1


def seconds(timeline, objective):
    return timeline.span_s if objective == "span" else timeline.makespan_s


@st.composite
def uneven(draw, place):
    """Costs that differ by stage, rank and direction, with whole backwards quicker or slower than their halves."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    times = np.zeros((len(Kind), place.stages))
    times[[Kind.F, Kind.I, Kind.W]] = rng.uniform(0.2, 2.0, (3, place.stages))
    times[:, -1] *= draw(st.sampled_from([1.0, 2.0]))
    times[Kind.B] = (times[Kind.I] + times[Kind.W]) * draw(st.sampled_from([0.8, 1.0, 1.2]))
    hop = rng.uniform(0.0, 0.4, (place.ranks, place.ranks)) * (1 - np.eye(place.ranks))
    saved, share = rng.uniform(0.5, 1.0, place.stages), rng.uniform(0.0, 1.0, place.stages)
    return Costs(times, hop, saved, share, np.zeros(place.stages))


@given(
    st.data(), st.sampled_from([*NAMED]), st.integers(1, 5), st.integers(1, 9), st.sampled_from(["sync", "span"]),
    st.sampled_from([None, 0.3, 0.7, 1.0, 1.5]),
)  # fmt: skip
def test_any_costs_and_limits(data, name, p, m, objective, part):
    place = Placement.vee(p) if chunks(name) == 2 else Placement.loop(p)
    costs = data.draw(uneven(place))
    least = np.bincount(place.rank_of, costs.saved_bytes)
    limit = None if part is None else max(part * p, 1.0) * float(least.max())
    plan = build(name, p, m, chunks(name), costs=costs, memory_limit=limit, objective=objective)
    check(plan)
    timeline = simulate(plan, costs)
    most = np.full(p, limit) if limit else least * p * (2 if name == "zb-2p" else 1)
    assert (timeline.peak_bytes <= most * (1 + 1e-6)).all()
    for other in NAMED[name]:
        named = simulate(build(other, p, m, chunks(name)), costs)
        if (named.peak_bytes <= most).all():
            assert seconds(timeline, objective) <= seconds(named, objective) * (1 + 1e-9), other


@pytest.mark.parametrize("name", NAMED)
def test_ranks_of_a_placement_may_stand_in_any_order(name):
    ranks = (2, 0, 3, 1)
    place = Placement(ranks + ranks[::-1] if chunks(name) == 2 else ranks)
    straight = Placement.vee(4) if chunks(name) == 2 else Placement.loop(4)
    costs, usual = Costs.uniform(place, *MODEL), Costs.uniform(straight, *MODEL)
    plan = build(name, 4, 8, chunks(name), placement=place, costs=costs)
    check(plan)
    assert simulate(plan, costs).makespan_s == pytest.approx(
        simulate(build(name, 4, 8, chunks(name), costs=usual), usual).makespan_s
    )


def slow(kind, stage, factor):
    """Even costs but for one stage."""

    def costs(place):
        even = Costs.uniform(place, *MODEL, w_share=0.94)
        return even.with_seconds(kind, stage, factor * even.seconds[kind, stage])

    return costs


@pytest.mark.parametrize("objective", ["sync", "span"])
@pytest.mark.parametrize("name", NAMED)
def test_costs_of_each_stage_count(name, objective):
    """An order for even costs is hardly ever better than one for the true ones, and somewhere clearly worse."""
    gain = []
    for kind, stage in ((Kind.F, -1), (Kind.I, -1), (Kind.W, 0), (Kind.F, 2)):
        costs = slow(kind, stage, 1.8)
        blind = build(name, 4, 8, chunks(name), costs=slow(kind, stage, 1.0), objective=objective)
        true = costs(blind.placement)
        seeing = build(name, 4, 8, chunks(name), costs=true, objective=objective)
        gain.append(seconds(simulate(blind, true), objective) / seconds(simulate(seeing, true), objective))
    assert min(gain) >= 1 - 1e-3
    assert max(gain) > 1.005, gain


@pytest.mark.parametrize(("name", "v"), [("zb-1p", 1), ("zb-v-auto", 2)])
def test_the_objective_counts(name, v):
    found = {}
    for objective in ("sync", "span"):
        plan = build(name, 8, 16, v, costs=lambda p: Costs.uniform(p, *MODEL), memory_limit=16.0, objective=objective)
        found[objective] = simulate(plan, Costs.uniform(plan.placement, *MODEL))
    assert found["sync"].makespan_s <= found["span"].makespan_s
    assert found["span"].span_s < found["sync"].span_s


def problem(name="zb-1p", p=3, m=5, costs=(1.0, 1.2, 0.7, 0.1)):
    place = Placement.vee(p) if chunks(name) == 2 else Placement.loop(p)
    task = Task(place, m, Costs.uniform(place, *costs, w_share=0.9))
    return Problem(task, limits(task, float(p)))


def alternating(one):
    ranks, _, micros, _ = one.sizes
    return one.array([[4 * r] * (ranks - r) + [4 * r + 1, 4 * r] * (micros - ranks + r) + [4 * r + 1] * (ranks - r)
                      for r in range(ranks)])  # fmt: skip


def test_what_the_weaver_says_is_what_the_simulator_says():
    one = problem()
    weaver, ranks = Weaver(one), one.sizes[0]
    for budget in (-1.0, 0.0, np.inf):
        for share in (1.0, 0.5):
            said, mean = weaver.play(alternating(one), one.array(np.full(ranks, budget)), share)
            plan = build(lambda task: weaver.lanes(), ranks, one.sizes[2], costs=one.task.costs)
            check(plan)
            timeline = simulate(plan, one.task.costs)
            assert said == pytest.approx(timeline.makespan_s)
            assert mean == pytest.approx(timeline.last_s.mean())
            assert weaver.play(weaver.woven(), one.array(np.zeros(ranks)), 1.0) == pytest.approx((said, mean))


def test_orders_that_cannot_run_are_endless():
    one = problem(p=2, m=2)
    weaver, none = Weaver(one), one.array(np.zeros(2))
    gradient_first = one.array([[1, 0, 0, 1], [4, 5, 4, 5]])
    too_much = problem(p=1, m=2)
    assert weaver.play(gradient_first, none, 1.0)[0] == np.inf
    assert Weaver(too_much).play(too_much.array([0, 0, 1, 1]), too_much.array([0.0]), 1.0)[0] == np.inf


@pytest.mark.parametrize("name", NAMED)
def test_compiled_loops_give_the_same_lanes(name, monkeypatch):
    costs = slow(Kind.F, 1, 1.3)
    native.cache_clear()
    _asked.cache_clear()
    monkeypatch.setattr(problems, "COMPILE_FROM_FORWARDS", 10**9)
    plain = build(name, 3, 7, chunks(name), costs=costs, objective="span")
    assert native.cache_info().currsize == 0
    monkeypatch.setattr(Problem, "compiled", True)
    monkeypatch.setattr(problems, "warmed", lambda loop, ops: native(loop))
    assert build(name, 3, 7, chunks(name), costs=costs, objective="span") == plain
    assert native.cache_info().currsize > 0


def test_small_tasks_do_not_compile():
    native.cache_clear()
    _asked.cache_clear()
    build("zb-2p", 4, 8, costs=lambda place: Costs.uniform(place, *MODEL))
    assert native.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("zb-1p", 0.5, r"memory_limit=0\.5 does not hold one micro-batch; it needs at least 1"),
        ("zb-v-auto", 0.9, r"memory_limit=0\.9 does not hold one micro-batch; it needs at least 1"),
    ],
)
def test_a_limit_that_holds_no_micro_batch_is_named(name, limit, says):
    with pytest.raises(ValueError, match=says):
        build(name, 2, 4, chunks(name), memory_limit=limit)


@pytest.mark.parametrize(
    ("name", "place", "says"),
    [
        ("zb-1p", Placement.vee(2), "4 stages in 1 chains on 2 ranks; give one line"),
        ("zb-v-auto", Placement.loop(2, 2), r"rank_of=\(0, 1, 0, 1\) is no V"),
    ],
)
def test_a_placement_it_cannot_have_is_named(name, place, says):
    with pytest.raises(ValueError, match=says):
        build(name, 2, 4, chunks(name), placement=place)


@pytest.mark.parametrize(
    "limit", [1.0, 6.0, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (2.0, 4.0, 12.0))]
)
def test_a_vee_fits_any_limit_and_more_memory_helps(limit):
    def costs(place):
        return Costs.uniform(place, *MODEL, w_share=0.94)

    plan = build("zb-v-auto", 8, 12, 2, costs=costs, memory_limit=limit, objective="span")
    timeline = simulate(plan, costs(plan.placement))
    assert timeline.peak_bytes.max() <= limit * (1 + 1e-9)
    least = bounds(plan.placement, 12, costs(plan.placement), limit).span.seconds
    assert least * (1 - 1e-9) <= timeline.span_s <= 1.6 * least


@pytest.mark.parametrize(
    "times",
    [
        (1.0, 1.1, 0.9, 0.05),
        *(pytest.param(other, marks=pytest.mark.slow) for other in ((1.0, 2.0, 0.5, 3.0), (5.0, 1.0, 0.2, 0.0))),
    ],
)
@pytest.mark.parametrize(
    "share", [0.625, pytest.param(0.75, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("objective", ["sync", pytest.param("span", marks=pytest.mark.slow)])
def test_on_a_vee_no_named_order_beats_the_search_and_the_longer_search_is_no_worse(times, share, objective):
    f, i, w, link = times
    p, place = 8, Placement.vee(8)
    costs = Costs.uniform(place, f_s=f / 2, i_s=i / 2, w_s=w / 2, link_s=link)
    limit = 2 * share * p

    def took(name, **given):
        timeline = simulate(build(name, p, 13, 2, costs=lambda _: costs, objective=objective, **given), costs)
        return seconds(timeline, objective), timeline.peak_bytes.max()

    auto, peak = took("zb-v-auto", memory_limit=limit)
    longer, longer_peak = took("v-auto", memory_limit=limit)
    assert max(peak, longer_peak) <= limit * (1 + 1e-9)
    assert longer <= auto * (1 + 1e-9)
    named = [took(name) for name in VEES]
    assert auto <= min((time_s for time_s, held in named if held <= limit * (1 + 1e-9)), default=np.inf) * (1 + 1e-9)


def test_no_limit_is_no_number_to_round():
    plan = build("zb-1p", 4, 8, memory_limit=np.inf)
    check(plan)
    assert simulate(plan, Costs.uniform(plan.placement)).makespan_s <= 8 * 3 + 3 + 1e-9
