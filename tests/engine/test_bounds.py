import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.cli.peer_rows import shipped
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine import bounds, flow, simulate
from penstock.engine.bounds import least_bytes, most_held
from penstock.lower import add_sends
from penstock.schedules import SCHEDULES, build
from randoms import costs_of, plans

SLACK = 1 + 1e-9


def uniform(placement, f=1.0, i=1.0, w=1.0, link=0.0, w_share=1.0):
    return Costs.uniform(placement, f, i, w, link, w_share)


def activation_peak(timeline):
    return max(float(curve.activation_bytes.max(initial=0.0)) for curve in timeline.memory)


@given(st.data(), st.sampled_from([None, {}, {"in_flight": 1}, {"sends": "blocking"}]))
def test_no_legal_plan_is_below_its_bounds(data, lowering):
    plan = data.draw(plans(most_micros=6))
    costs = data.draw(costs_of(plan.placement))
    timeline = simulate(plan if lowering is None else add_sends(plan, **lowering), costs)
    split = bool((plan.ops[:, 0] == Kind.I).any())
    for limit in (math.inf, activation_peak(timeline)):
        for may_split in {True, split}:
            found = bounds(plan.placement, plan.micros, costs, limit, may_split)
            assert found.span.seconds <= timeline.span_s * SLACK + 1e-9, found.span
            assert found.makespan.seconds <= timeline.makespan_s * SLACK + 1e-9, found.makespan


EFFORTS = [(1, 1, 2), (3, 2, 16), (40, 20, 1000)]


@given(st.data(), st.sampled_from([*SCHEDULES, "random"]), st.sampled_from(EFFORTS))
def test_bounds_hold_wherever_the_flow_is_cut_short(data, name, effort):
    """Fewer micro-batches, rounds and moments, or more of them, are all below any legal plan in its own memory."""
    if name == "random":
        plan = data.draw(plans(most_micros=6, most_ranks=3, most_chunks=2))
        costs = data.draw(costs_of(plan.placement))
    else:
        p, m = data.draw(st.sampled_from([(2, 8), (4, 8), (4, 12)]))
        assume(not SCHEDULES[name].valid(p, m, 2 if SCHEDULES[name].chunks else 1))
        plan = build(name, p, m, 2 if SCHEDULES[name].chunks else 1)
        costs = uniform(plan.placement, *data.draw(st.tuples(*[st.floats(0.5, 2.0)] * 3, st.floats(0.0, 0.2))))
    timeline = simulate(plan, costs)
    with pytest.MonkeyPatch.context() as patch:
        micros, rounds, points = effort
        patch.setattr(flow, "CELLS", micros * plan.placement.stages)
        patch.setattr(flow, "ROUNDS", rounds)
        patch.setattr(flow, "RANK_ROUNDS", rounds * plan.placement.ranks)
        patch.setattr(flow, "POINTS", points)
        found = bounds(plan.placement, plan.micros, costs, activation_peak(timeline))
    assert found.span.seconds <= timeline.span_s * SLACK + 1e-9, found.span
    assert found.makespan.seconds <= timeline.makespan_s * SLACK + 1e-9, found.makespan


@given(
    st.sampled_from([*SCHEDULES]),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 3),
    st.tuples(*[st.floats(0.1, 3.0)] * 3, st.floats(0.0, 0.5), st.floats(0.0, 1.0)),
)
def test_no_published_schedule_is_below_its_bounds(name, p, m, v, times):
    v = v if SCHEDULES[name].chunks else 1
    assume(not SCHEDULES[name].valid(p, m, v))
    plan = build(name, p, m, v)
    costs = uniform(plan.placement, *times)
    timeline = simulate(plan, costs)
    for limit in (math.inf, activation_peak(timeline)):
        found = bounds(plan.placement, m, costs, limit, split=bool((plan.ops[:, 0] == Kind.I).any()))
        assert found.span.seconds <= timeline.span_s * SLACK
        assert found.makespan.seconds <= timeline.makespan_s * SLACK


@given(st.integers(1, 8), st.integers(1, 24), st.tuples(*[st.floats(0.1, 3.0)] * 3, st.floats(0.0, 0.5)))
def test_1f1b_is_as_fast_as_any_order_of_whole_backwards(p, m, times):
    """On a line no order that does not split backwards beats its makespan, whatever its memory."""
    plan = build("1f1b", p, m)
    costs = uniform(plan.placement, *times)
    found = bounds(plan.placement, m, costs, split=False)
    if times[3] == 0.0:
        assert found.makespan.seconds == pytest.approx(simulate(plan, costs).makespan_s)
    assert found.makespan.seconds <= simulate(plan, costs).makespan_s * SLACK


@pytest.mark.parametrize("p", [2, 4, 8])
def test_1f1b_is_the_shortest_span_of_whole_backwards_in_its_memory(p):
    plan = build("1f1b", p, 3 * p)
    found = bounds(plan.placement, 3 * p, uniform(plan.placement), p, split=False)
    assert found.span.seconds == simulate(plan, uniform(plan.placement)).span_s
    assert found.span.kind == "work + warm-up + cool-down"


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 8), (4, 16), (8, 24), (16, 48)])
def test_zb_h1_is_as_fast_as_any_order_at_equal_times_and_its_memory(p, m):
    plan = build("zb-h1", p, m)
    costs = uniform(plan.placement)
    found, timeline = bounds(plan.placement, m, costs, p), simulate(plan, costs)
    assert found.makespan.seconds == timeline.makespan_s == 3 * m + p - 1
    assert found.span.seconds == timeline.span_s


@pytest.mark.parametrize("m", [1, 2, 5])
def test_one_rank_is_bound_by_its_work(m):
    place = Placement.loop(1, 2)
    found = bounds(place, m, uniform(place, 1.0, 2.0, 3.0))
    assert (found.makespan.seconds, found.makespan.kind, found.span.seconds) == (6.0 * m, "work", 6.0 * m)


PEER_BOUNDS = [
    ("1.5B", 8, 24, (18.522, 18.086, 9.337, 0.601), 0.76, 6.44),
    ("6.2B", 8, 24, (29.718, 29.444, 19.927, 0.527), 0.39, 5.67),
    ("6.2B", 8, 64, (29.935, 29.621, 19.388, 0.535), 0.15, 2.22),
    ("14.6B", 16, 48, (11.347, 11.248, 8.132, 0.377), 0.76, 6.43),
    ("28.3B", 32, 256, (10.402, 10.248, 7.698, 0.460), 0.39, 2.70),
]


@pytest.mark.parametrize(("model", "p", "m", "times", "span", "sync"), PEER_BOUNDS)
def test_bounds_of_a_vee_at_1f1b_s_memory(model, p, m, times, span, sync):
    """The warm-up bound of an independent evaluator, in percent of bubble; ours adds what fills and drains ranks."""
    place = Placement.vee(p)
    found = bounds(place, m, uniform(place, *times, w_share=0.94), p)
    ideal = m * sum(times[:3])
    assert round(100 * (1 - ideal / found.span.seconds), 2) >= span
    assert round(100 * (1 - ideal / found.makespan.seconds), 2) >= sync
    if model != "1.5B":
        assert round(100 * (1 - ideal / found.makespan.seconds), 2) == sync


def test_bounds_are_never_looser_than_an_independent_evaluator_s():
    file = next(file for file in shipped() if file.stem == "schedulers")
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["cost"] == "uniform" and row["peer"] in ("1f1b", "vpp2")]
    assert rows
    for row in rows:
        p, m, v = int(row["p"]), int(row["m"]), 2 if row["peer"] == "vpp2" else 1
        place = Placement.loop(p, v)
        found = bounds(place, m, uniform(place, w_share=0.94), p * float(row["peak_over_p"]) + 1e-3)
        assert found.span.seconds >= float(row["span_lower_bound"]) - 0.01, row


def test_lifespans_bind_where_memory_is_short():
    place = Placement.loop(8)
    found = bounds(place, 64, uniform(place), memory_limit=2.0)
    assert found.span.kind == "lifespan"
    assert found.span.seconds == 64 * (8 + 7 + 2) / 2.0


@pytest.mark.parametrize(("memory", "bubble"), [(0.375, 22.16), (0.5, 11.66), (0.625, 8.28), (0.75, 4.64)])
def test_ranks_of_a_vee_wait_for_each_other_s_memory(memory, bubble):
    """8 ranks, 24 micro-batches, equal times: rank 0 sees few micro-batches come back while the middle is full."""
    place = Placement.vee(8)
    span = bounds(place, 24, uniform(place), 8 * memory).span
    assert (round(100 * (1 - 72 / span.seconds), 2), span.kind) == (bubble, "work + filling")


def test_less_memory_never_lowers_a_bound():
    place = Placement.vee(4)
    found = [bounds(place, 16, uniform(place, 1.0, 1.2, 0.7, 0.1), limit) for limit in (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)]
    spans = [one.span.seconds for one in found]
    assert spans == sorted(spans, reverse=True)


def test_a_limit_that_holds_no_micro_batch_is_named():
    place = Placement.vee(2)
    assert least_bytes(place, uniform(place)) == 1.0
    with pytest.raises(ValueError, match=r"memory_limit=0\.5 does not hold one micro-batch; it needs at least 1"):
        bounds(place, 4, uniform(place), 0.5)
    with pytest.raises(ValueError, match="memory_limit=nan"):
        bounds(place, 4, uniform(place), math.nan)


def _breadth_first(r: int, p: int, m: int, v: int, slices: int = 3) -> list[str]:
    last_first = [i * slices + j for i in range(m) for j in reversed(range(slices))]
    return [f"{r}F{n}" for n in range(m * slices)] + [f"{r}B{n}" for n in last_first]


@pytest.mark.parametrize("schedule", ["seq1f1b", "seq1f1b-zb", _breadth_first], ids=["seq1f1b", "seq1f1b-zb", "own"])
@pytest.mark.parametrize("uneven", [False, True])
def test_no_order_of_slices_beats_the_bounds(schedule, uneven):
    dice = np.random.default_rng(5)
    for p, m, k in itertools.product((1, 2, 3, 5), (1, 2, 6), (2, 3, 4)):
        plan = build(schedule, p, m, slices=k)
        costs = Costs.uniform(plan.placement, *dice.uniform(0.2, 2, 3), link_s=dice.uniform(0, 0.5)).sliced(k)
        if uneven:
            costs = replace(costs, slice_factor=tuple(np.sort(dice.uniform(0.5, 2, k))))
        timeline = simulate(plan, costs)
        found = bounds(plan.placement, plan.micros, costs, timeline.peak_bytes.max())
        assert found.makespan.seconds <= timeline.makespan_s * (1 + 1e-9)
        assert found.span.seconds <= timeline.span_s * (1 + 1e-9)
        if p == 1 and not uneven:
            assert found.makespan.seconds == pytest.approx(timeline.makespan_s)


def test_what_no_sum_of_activations_fills_is_of_no_use():
    place = Placement.vee(4)
    costs = Costs.uniform(place)
    short, whole = (bounds(place, 8, costs, limit) for limit in (1.4, 1.0))
    assert short == whole
    half = replace(costs, w_share=np.full(8, 0.4))
    assert most_held(place, half, 1.45) == pytest.approx(1.4)
    sizes = replace(costs, saved_bytes=np.linspace(0.0101, 0.0917, 8), w_share=np.linspace(0.3, 0.9, 8))
    assert most_held(place, sizes, 3.0) == 3.0
    assert most_held(place, costs, math.inf) == math.inf
