import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.peer_rows import compare, rows_of, shipped
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.engine.bounds import least_bytes
from penstock.schedules import Block, Task, build, one_f_one_b_v, repeat, v_half, v_min
from penstock.schedules.work import Work
from randoms import costs_of, placements

BLOCKS = {
    "v-half": (v_half.block, lambda p: (p + 2) // 2),
    "v-min": (v_min.block, lambda p: (p + 4) // 3),
    "1f1b-v": (one_f_one_b_v.block, lambda p: (p + (p + 1) // 3 + 1) / 2),
    "1f1b-v swapped": (lambda p: one_f_one_b_v.block(p, True), lambda p: (p + (p + 1) // 3 + 1) / 2),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_named_blocks_can_run_and_hold_what_they_claim(name):
    block, peak = BLOCKS[name]
    for p in range(1, 49):
        place = Placement.vee(p)
        found = block(p)
        found.check(place)
        assert found.period == 6
        assert found.peaks(place, Costs.uniform(place)).max() == peak(p), p


@st.composite
def blocks(draw, split=True):
    """Continuous offsets of one chain: every pass some time after what it needs, then moved until ranks have room."""
    place = draw(placements(most_ranks=4, most_chunks=2).filter(lambda place: place.chains == 1))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = place.stages
    kinds = 3 if split else 2
    seconds = rng.uniform(0.2, 2.0, size=(kinds, n))
    busy = np.bincount(place.rank_of, seconds.sum(axis=0))
    period = float(busy.max() * rng.uniform(3, 5))
    taken = [[] for _ in range(place.ranks)]
    starts = np.zeros((kinds, n))
    ready = 0.0
    for kind, stage in [(0, s) for s in range(n)] + [(k, s) for s in reversed(range(n)) for k in range(1, kinds)]:
        ready = max(ready, starts[0, stage] + seconds[0, stage])
        rank, long = place.rank_of[stage], seconds[kind, stage]
        at = ready if kind < 2 else starts[1, stage] + seconds[1, stage]
        at += rng.choice([0.0, rng.uniform(0, period)])
        while any((at - a) % period < b or (a - at) % period < long for a, b in taken[rank]):
            at += 0.05
        starts[kind, stage] = at
        taken[rank].append((at, long))
        if kind < 2:
            ready = at + long
    return place, Block(period, starts[0], starts[1], starts[2] if split else None, tuple(seconds))


@given(st.data(), st.booleans())
def test_the_peak_in_closed_form_is_that_of_many_micro_batches(data, split):
    place, block = data.draw(blocks(split))
    costs = data.draw(costs_of(place))
    block.check(place)
    many = int(np.ceil(block.ends.max() / block.period)) + 2
    work = Work.of(Task(place, many, costs), block.kinds, np.inf)
    assert work.peaks(block.order(work)).tolist() == pytest.approx(block.peaks(place, costs).tolist())


@given(st.data(), st.booleans(), st.integers(1, 9), st.sampled_from(["sync", "span"]))
def test_a_block_becomes_a_legal_plan_within_its_peak_and_no_slower(data, split, micros, objective):
    place, block = data.draw(blocks(split))
    costs = data.draw(costs_of(place))
    task = Task(place, micros, costs, objective=objective)
    plan = build(
        lambda task: repeat(task, block), place.ranks, micros, placement=place, costs=costs, objective=objective
    )
    check(plan)
    timeline = simulate(plan, costs)
    most = block.peaks(place, costs).max()
    assert max(curve.activation_bytes.max(initial=0.0) for curve in timeline.memory) <= most * (1 + 1e-6)
    work = Work.of(task, block.kinds, np.inf)
    plain = simulate(
        Plan("plain", place, micros, tuple(plan.lanes[0].of(one) for one in work.lanes(block.order(work)))), costs
    )
    what = "makespan_s" if objective == "sync" else "span_s"
    assert getattr(timeline, what) <= getattr(plain, what) * (1 + 1e-9)


@given(st.data(), st.integers(1, 5), st.integers(1, 10), st.sampled_from(["v-half", "v-min", "1f1b-v", "v-auto"]))
def test_named_schedules_are_legal_at_any_costs_and_keep_a_limit(data, p, m, name):
    place = Placement.vee(p)
    costs = data.draw(costs_of(place))
    limit, options = None, {}
    if name == "v-auto":
        limit, options = least_bytes(place, costs) * data.draw(st.floats(1.0, 1.0 + p)), {"tries": 20}
    elif data.draw(st.booleans()):
        limit = float(BLOCKS[name][0](p).peaks(place, costs).max())
    plan = build(name, p, m, 2, costs=costs, memory_limit=limit, **options)
    check(plan)
    kinds = plan.ops[:, 0]
    assert (kinds == Kind.F).sum() == 2 * p * m
    if limit is not None:
        curves = simulate(plan, costs).memory
        assert max(float(curve.activation_bytes.max(initial=0.0)) for curve in curves) <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    ("peer", "cost", "limit", "percent"),
    [
        ("v-min", "28.3B", 0.5005, 4.0),
        pytest.param("v-auto", "6.2B", 0.5, 3.0, marks=pytest.mark.slow),
        ("v-1f1b", "6.2B", 0.7505, 1.5),
    ],
)
def test_real_costs_are_where_orders_gain(peer, cost, limit, percent):
    """Existing schedulers place passes as if they took equal times."""
    rows = [row for row in rows_of(shipped(), (peer,)) if (row.cost, row.p, row.m) == (cost, 8, 24)]
    found = compare(next(row for row in rows if row.limit == pytest.approx(limit)))
    assert all(one.excess is not None and one.excess < -percent for one in found), found


def test_less_memory_never_makes_v_auto_faster():
    place = Placement.vee(4)
    costs = Costs.uniform(place, 1.0, 1.2, 0.7, 0.1)
    plans = [build("v-auto", 4, 12, 2, costs=costs, memory_limit=limit, tries=50) for limit in (1, 1.5, 2, 3, 4)]
    times = [simulate(plan, costs).makespan_s for plan in plans]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.5 * times[-1]


def test_v_auto_is_always_the_same_and_more_tries_are_no_worse():
    place = Placement.vee(4)
    costs = Costs.uniform(place, 1.0, 0.9, 0.6, 0.05)
    limit = {"costs": costs, "memory_limit": 2.0, "objective": "span"}
    plans = [build("v-auto", 4, 10, 2, tries=tries, **limit) for tries in (0, 60, 60, 300)]
    assert plans[1] == plans[2]
    spans = [simulate(plan, costs).span_s for plan in plans]
    assert spans == sorted(spans, reverse=True)


@pytest.mark.parametrize(
    ("forward", "backward", "weights", "says"),
    [
        ([0, 1], [4, 2], None, None),
        ([0, 0.5], [4, 2], None, "1F starts at 0.5, before 0F ends at 1; start it then"),
        ([0, 1], [3, 2], None, "0B starts at 3, before 1B ends at 4; start it then"),
        ([0, 1], [5, 2], None, "0B and 0F meet on rank 0: in the period of 3 they start at 2 and 0"),
        ([0, 1], [3, 2], [3, 3], "0W starts at 3, before 0I ends at 4; start it then"),
        ([0, 1, 2], [4, 3, 2], None, "a block of 3 stages does not fit 2 stages in 1 chains"),
    ],
)
def test_what_cannot_run_is_named(forward, backward, weights, says):
    block = Block(3, forward, backward, weights, seconds=(1, 2) if weights is None else (1, 1, 1))
    if says is None:
        block.check(Placement.loop(2))
    else:
        with pytest.raises(ValueError, match=says):
            block.check(Placement.loop(2))


def test_weights_without_room_and_memory_below_the_block_are_named():
    with pytest.raises(ValueError, match=r"no hole of 1\.5 is left for 0W on rank 0 in the period of 3; lengthen the"):
        Block(3, [0], [1]).with_weights(Placement.loop(1), seconds=1.5)
    with pytest.raises(ValueError, match="the block peaks at 3, more than memory_limit=2; v-auto keeps any limit"):
        build("v-half", 4, 8, 2, memory_limit=2.0)
    with pytest.raises(ValueError, match=r"period=3 and seconds=\(1, 0\); all are above 0"):
        Block(3, [0], [1], seconds=(1, 0)).check(Placement.loop(1))
    with pytest.raises(ValueError, match="v-auto is for a V of two chunks, not for rank_of="):
        build("v-auto", 2, 2, 2, placement=Placement.loop(2, 2))
    with pytest.raises(ValueError, match=r"memory_limit=0\.5 does not hold one micro-batch; it needs at least 1"):
        build("v-auto", 4, 8, 2, memory_limit=0.5)


def test_weights_find_the_first_holes():
    block = Block(3, [0, 1], [4, 2]).with_weights(Placement.loop(2))
    assert block.weights.tolist() == [5, 3]
    wide = Block(4, [0.0], [1.5]).with_weights(Placement.loop(1), seconds=1.5)
    assert wide.weights.tolist() == [2.5]
