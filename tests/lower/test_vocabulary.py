"""Vocabulary passes on every schedule of one chain: legal, within the paper's memory, and quicker than a whole head."""

from itertools import pairwise

import numpy as np
import pytest

from penstock.core.compiled import native
from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import AMONG_RANKS, COMPUTE, VOCABULARY, Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.cost.vocabulary import with_parts, with_whole
from penstock.engine import IllegalPlan, check, simulate
from penstock.lower import add_sends, add_step, split_backward, split_vocabulary, weave_vocabulary
from penstock.schedules import SCHEDULES, build

SIZES = [(1, 3), (2, 2), (2, 8), (4, 3), (4, 16)]


def one_chain(name, p, v):
    return SCHEDULES[name].gradient_equal and SCHEDULES[name].placement(p, v).chains == 1


def built(name, p, m):
    schedule = SCHEDULES[name]
    v = schedule.least_chunks(p, m)
    if schedule.valid(p, m, v):
        return None
    return build(name, ranks=p, micros=m, chunks=v)


ONE_CHAIN = [name for name in SCHEDULES if one_chain(name, 2, SCHEDULES[name].least_chunks(2, 8))]


def computes(plan):
    """The forwards and backwards of each lane."""
    return [lane.codes[np.isin(lane.codes[:, 0], COMPUTE)] for lane in plan.lanes]


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("name", ONE_CHAIN)
def test_every_schedule_of_one_chain(name, algorithm):
    """Legal as it is, with sends of each sort and with steps; the schedule's own ops stay; memory as the paper says."""
    tried = 0
    for p, m in SIZES:
        plan = built(name, p, m)
        if plan is None:
            continue
        tried += 1
        split = split_vocabulary(plan, algorithm)
        check(split)
        for sends in ("overlapped", "blocking", "batched") if p > 1 else ():
            check(add_step(add_sends(split, sends)))
        own = computes(split)
        assert [sorted(map(tuple, lane)) for lane in own] == [sorted(map(tuple, lane)) for lane in computes(plan)]
        costs = Costs.uniform(plan.placement, other_s=dict.fromkeys((*VOCABULARY, *AMONG_RANKS), 0.2))
        more = simulate(split, costs).peak_bytes - simulate(plan, costs).peak_bytes
        assert more.max() <= 3 - algorithm + 1e-9
    assert tried >= 2


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("name", ONE_CHAIN)
@pytest.mark.parametrize(("p", "m"), [(4, 16), pytest.param(8, 32, marks=pytest.mark.slow)])
def test_a_split_head_is_quicker_than_a_whole_one(name, p, m, algorithm):
    """The head costs as much as 1.6 forwards of a rank. Split, the busiest rank has its share and little more."""
    plan = built(name, p, m)
    if plan is None:
        pytest.skip("the schedule has no such size")
    bare = Costs.uniform(plan.placement)
    costs = with_parts(bare, plan.placement, algorithm, 1.6, 0.1).sliced(plan.slices)
    split = split_vocabulary(plan, algorithm, costs=costs)
    check(split)
    whole_s = simulate(plan, with_whole(bare, plan.placement, 1.6, 0.1).sliced(plan.slices)).makespan_s
    bare = bare.sliced(plan.slices)
    split_s, bare_s = simulate(split, costs).makespan_s, simulate(plan, bare).makespan_s
    assert split_s < 0.7 * whole_s
    share_s = m * (3 * 1.6 + 2 * 0.1) / p
    assert split_s < bare_s + share_s + (0.35 if name == "hanayo" else 0.1) * bare_s


def test_the_ends_of_1f1b():
    """Algorithm 1 holds two micro-batches more than 1F1B, algorithm 2 one, for a bubble that does not grow with m."""
    plans = {m: build("1f1b", ranks=8, micros=m) for m in (32, 64)}
    idle = {}
    for algorithm in (1, 2):
        for m, plan in plans.items():
            costs = with_parts(Costs.uniform(plan.placement), plan.placement, algorithm, 1.6)
            timeline = simulate(split_vocabulary(plan, algorithm, costs=costs), costs)
            assert timeline.peak_bytes.max() == 8 + 3 - algorithm
            idle[algorithm, m] = timeline.makespan_s - m * (3 + 3 * 1.6 / 8)
        assert idle[algorithm, 64] == pytest.approx(idle[algorithm, 32], abs=1.0)
        assert idle[algorithm, 64] < 7 * 3 + 1  # what 1F1B has without a head is 7 x 3


def test_a_plan_of_forwards_gets_no_gradients():
    plan = Plan("look", Placement.loop(3), 2, tuple(Lane.of([(Kind.F, r, i) for i in range(2)]) for r in range(3)))
    for algorithm in (1, 2):
        split = split_vocabulary(plan, algorithm)
        check(split)
        found = set(split.ops[:, 0].tolist())
        assert found == {Kind.F, Kind.BCAST_H, Kind.S, Kind.REDUCE_S, Kind.IF, Kind.REDUCE_E}


def test_without_inputs_no_pass_of_the_embedding():
    split = split_vocabulary(build("zb-h1", ranks=3, micros=4), 2, inputs=False)
    check(split)
    assert not {Kind.IF, Kind.IB, Kind.REDUCE_E, Kind.BCAST_E} & set(split.ops[:, 0].tolist())


def test_other_passes_before_it_stay():
    """Recompute, steps and weights that are gathered keep their places before the op they stood before."""
    plan = split_backward(build("1f1b", ranks=2, micros=3))
    rows = [[(Kind.UNSHARD, r, -1), *(row for op in plan.lanes[r] for row in again(op))] for r in range(2)]
    dressed = plan.with_lanes(
        Lane.of([*lane, (Kind.RESHARD, r, -1), (Kind.STEP, r, -1)]) for r, lane in enumerate(rows)
    )
    check(dressed)
    split = split_vocabulary(dressed, 1)
    check(split)
    assert [str(lane[-1]) for lane in split.lanes] == ["0STEP", "1STEP"]
    assert len(split) == len(dressed) + 9 * 2 * 3


def again(op):
    return [(Kind.R, op.stage, op.micro), op] if op.kind == Kind.I else [op]


def test_blocks_stay_blocks():
    """Of a forward that now comes earlier and of a backward, which takes as long as both or hides the shorter one."""
    plan = build("dualpipev", ranks=4, micros=16, chunks=2)
    for overlap in (0.0, 0.5):
        bare = Costs.uniform(plan.placement, overlap=overlap)
        costs = with_parts(bare, plan.placement, 1, 1.6)
        split = split_vocabulary(plan, 1, costs=costs)
        check(split)
        assert split.fused.sum() > 0.9 * plan.fused.sum()
        assert simulate(split, costs).makespan_s < simulate(plan, bare).makespan_s + 16 * 3 * 1.6 / 4 + 4


@pytest.mark.parametrize("algorithm", [1, 2])
def test_compiled_and_plain_loops_do_the_same(monkeypatch, algorithm):
    for name, v in (("zb-h1", 1), ("dualpipev", 2), ("interleaved", 3)):
        plan = build(name, 3, 8, v)
        costs = with_parts(
            Costs.uniform(plan.placement, 1.0, 1.1, 0.7, 0.03, overlap=0.5), plan.placement, algorithm, 1.6
        )
        found = []
        for loop in (weave_vocabulary._walk, native(weave_vocabulary._walk)):
            monkeypatch.setattr(weave_vocabulary, "warmed", lambda *given, loop=loop: loop)
            found.append(split_vocabulary(plan, algorithm, costs=costs))
        assert found[0] == found[1]


def test_collectives_in_other_orders_on_ranks_are_caught():
    """Collectives of a rank run in lane order; two ranks that do not agree on it wait for each other for ever."""
    split = split_vocabulary(build("1f1b", ranks=2, micros=4), 1)
    lane = split.lanes[1]
    rows = np.flatnonzero(np.isin(lane.codes[:, 0], AMONG_RANKS))
    caught = 0
    for a, b in pairwise(rows):
        codes = lane.codes.copy()
        codes[[a, b]] = codes[[b, a]]
        with pytest.raises(IllegalPlan):
            check(split.with_lanes([split.lanes[0], Lane(codes)]))
        caught += 1
    assert caught == 5 * 4 - 1


@pytest.mark.parametrize(
    ("plan", "algorithm", "says"),
    [
        (lambda: add_sends(build("1f1b", 2, 2)), 1, "call split_vocabulary before add_sends"),
        (lambda: build("chimera", 2, 2), 1, "2 chains"),
        (lambda: split_vocabulary(build("1f1b", 2, 2)), 1, "already"),
        (lambda: build("1f1b", 2, 2), 3, "algorithm=3; use 1 or 2"),
    ],
)
def test_what_cannot_be_split(plan, algorithm, says):
    with pytest.raises(ValueError, match=says):
        split_vocabulary(plan(), algorithm)
