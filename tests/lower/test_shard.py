"""Gathered weights: legal, within the window, and never more gathers than PyTorch's own pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.engine import check, simulate
from penstock.lower import add_sends, recompute, reduce_gradients, shard
from penstock.lower.shard import USES
from penstock.schedules import build
from randoms import UNSHRUNK, costs_of, plans


def most_gathered(plan, size=None):
    """Most bytes (default stages) gathered at once on each rank, in the order of its lane."""
    found = []
    for lane in plan.lanes:
        held, most = 0.0, 0.0
        for op in lane:
            sign = (op.kind == Kind.UNSHARD) - (op.kind == Kind.RESHARD)
            held += sign * (1.0 if size is None else size[op.stage])
            most = max(most, held)
        assert held == pytest.approx(0.0)
        found.append(most)
    return found


def gathers(lane):
    return sum(op.kind == Kind.UNSHARD for op in lane)


def fewest(stages, window):
    """Fewest gathers for a row of uses with room for so many, tried in full: every choice of what goes."""
    states = {frozenset(): 0}
    for s in stages:
        after = {}
        for held, count in states.items():
            if s in held:
                options = [(held, count)]
            else:
                gone = [held] if len(held) < window else [held - {x} for x in held]
                options = [(one | {s}, count + 1) for one in gone]
            for one, n in options:
                after[one] = min(n, after.get(one, n))
        states = after
    return min(states.values())


@UNSHRUNK
@given(st.data())
def test_gathers_keep_a_plan_legal_within_the_window_and_are_the_fewest(data):
    plan = data.draw(plans())
    plan = recompute(plan, keep=1) if data.draw(st.booleans()) else plan
    window = data.draw(st.integers(1, 3))
    new = shard(plan, window)
    check(new)
    check(add_sends(new, sends="blocking"))
    assert max(most_gathered(new)) <= window
    for lane in new.lanes:
        assert gathers(lane) == fewest([op.stage for op in lane if op.kind in USES], window)


@UNSHRUNK
@given(st.data())
def test_a_window_in_bytes_holds_in_simulated_memory(data):
    plan = data.draw(plans())
    costs = data.draw(costs_of(plan.placement))
    heaviest = float(costs.weight_bytes.max(initial=0.0))
    room = heaviest * data.draw(st.sampled_from([1.0, 1.5, 2.0]))
    new = shard(plan, window_bytes=room, costs=costs)
    check(new)
    for curve in simulate(new, costs).memory:
        assert curve.gathered_bytes.max(initial=0.0) <= room + 1e-9


@pytest.mark.parametrize("name", ["interleaved", "breadth-first", "zb-v", "gis", "hanayo"])
def test_never_more_gathers_than_pytorch(name):
    """PyTorch's pass has a window of three stages."""
    torch_schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    for chunks in (2, 4, 6):
        if name == "zb-v" and chunks != 2:
            continue
        plan = build(name, ranks=2, micros=8, chunks=chunks)
        for before, lane in zip(plan.lanes, shard(plan, window=3).lanes, strict=True):
            names = {Kind.B: "FULL_BACKWARD", Kind.F: "FORWARD", Kind.I: "BACKWARD_INPUT", Kind.W: "BACKWARD_WEIGHT"}
            kinds = torch_schedules._ComputationType
            actions = [torch_schedules._Action(op.stage, kinds[names[op.kind]], op.micro) for op in before]
            theirs = torch_schedules._add_unshard_reshard(actions)
            assert gathers(lane) <= sum(action.computation_type == kinds.UNSHARD for action in theirs)


def test_breadth_first_gathers_each_stage_twice():
    """Lamy-Poirier 2022 (arXiv:2211.05953): once for all forwards and for all backwards; the turn needs no new one."""
    plan = build("breadth-first", ranks=4, micros=8, chunks=4)
    assert [gathers(lane) for lane in shard(plan, window=1).lanes] == [2 * 4 - 1] * 4
    assert [gathers(lane) for lane in shard(plan, window=2).lanes] == [2 * 4 - 2] * 4


def test_a_second_place_hides_gathers():
    plan = build("breadth-first", ranks=4, micros=8, chunks=4)
    costs = Costs.uniform(plan.placement, other_s={Kind.UNSHARD: 4.0})
    free = simulate(plan, costs).makespan_s
    one, two = (simulate(shard(plan, window), costs).makespan_s for window in (1, 2))
    assert free < two < one
    assert two <= free + 2 * 1.0  # the first gather of a lane has nothing to hide behind


def test_each_stage_is_summed_once_behind_its_last_gradient():
    plan = reduce_gradients(build("zb-h1", ranks=4, micros=8), every=True)
    check(plan)
    for rank, lane in enumerate(plan.lanes):
        kinds = lane.codes[:, 0]
        assert (kinds == Kind.REDUCE_GRAD).sum() == 1
        assert np.flatnonzero(kinds == Kind.REDUCE_GRAD)[0] == np.flatnonzero(kinds == Kind.W)[-1] + 1, rank


def test_what_cannot_be_is_named():
    plan = build("1f1b", ranks=2, micros=2)
    with pytest.raises(ValueError, match="need 1 stages gathered at once, the window holds 0; widen it"):
        shard(plan, window=0)
    with pytest.raises(ValueError, match="needs the costs"):
        shard(plan, window_bytes=1.0)
