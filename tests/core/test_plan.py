import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.lane import Lane
from penstock.core.op import Kind, Op
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.lower import add_sends, add_step
from penstock.schedules import build
from randoms import plans

LANES = (Lane.parse("0F0 0B0"), Lane.parse("1F0 1B0"))
PLAN = Plan("mine", Placement.loop(2), 1, LANES)


@given(plans(), st.sampled_from([None, False, True]), st.booleans())
def test_text_and_json_round_trip(plan, blocking, steps):
    plan = plan if blocking is None else add_sends(plan, "blocking" if blocking else "overlapped")
    plan = add_step(plan) if steps else plan
    assert Plan.from_text(plan.to_text()) == plan
    assert Plan.from_json(plan.to_json()) == plan


def test_lanes_are_sequences_of_ops():
    lane = LANES[0]
    assert list(lane) == [Op(Kind.F, 0, 0), Op(Kind.B, 0, 0)]
    assert lane[-1] == Op(Kind.B, 0, 0)
    assert lane[1:] == Lane.parse("0B0")
    assert Lane.of(list(lane)) == lane
    assert hash(Lane.of(lane.codes)) == hash(lane)
    assert lane != LANES[1]
    assert Op(Kind.F, 0, 0) in lane


def test_lanes_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        LANES[0].codes[0, 0] = 3
    with pytest.raises(ValueError, match="read-only"):
        PLAN.ops[0, 0] = 3


def test_ids_run_through_the_lanes():
    assert PLAN.first.tolist() == [0, 2, 4]
    assert PLAN.rank_of_op.tolist() == [0, 0, 1, 1]
    assert PLAN.op(2) == Op(Kind.F, 1, 0)
    assert len(PLAN) == 4


def test_plans_are_equal_by_content():
    assert Plan("mine", Placement.loop(2), 1, LANES) == PLAN
    assert Plan("other", Placement.loop(2), 1, LANES) != PLAN
    assert Plan("mine", Placement.loop(2), 1, LANES[::-1]) != PLAN
    assert PLAN.trains
    assert not PLAN.with_lanes([Lane.parse("0F0"), Lane.parse("1F0")]).trains


def edited(**changes):
    return json.dumps({**PLAN.to_dict(), **changes})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "malformed JSON at line 1 column 2"),
        ("[]", "not a Penstock plan"),
        ("{}", "penstock_plan=None"),
        (edited(penstock_plan=9), "penstock_plan=9"),
        (json.dumps({"penstock_plan": 2, "name": "x"}), "lacks the key"),
        (edited(lanes=["0F0 0Q0", ""]), "unknown kind 'Q'"),
        (edited(lanes=["0F0 0B0"]), "1 lanes for 2 ranks"),
        (edited(lanes=[1, 2]), "wrong type"),
        (edited(lanes=None), "the plan's lanes is None"),
        (edited(micros=0), "micros=0"),
        (edited(micros="four"), "the plan's micros is 'four'"),
        (edited(micros=2.5), "micros is 2.5"),
        (edited(sends="no"), "sends no: choose from overlapped"),
        (edited(in_flight="2"), "in_flight is '2'"),
        (edited(rank_of=["a", "b"]), "invalid literal"),
        (edited(rank_of=[0, 2]), "holds no stage"),
        (edited(prev=[-1, 7]), "prev names stage 7"),
    ],
)
def test_what_is_not_a_plan_is_named(text, says):
    with pytest.raises(ValueError, match=says):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("micros 1\n", "", "lacks the line 'micros'"),
        ("micros 1\n", "micros one\n", "micros one"),
        ("sends overlapped", "sends sometimes", "sends sometimes"),
        ("lane 1F0 1B0\n", "", "1 lanes for 2 ranks"),
        ("1F0", "1Y0", "unknown kind 'Y'"),
        ("prev", "before", "lacks the line 'prev'"),
    ],
)
def test_what_is_not_a_plan_text_is_named(old, new, says):
    with pytest.raises(ValueError, match=says):
        Plan.from_text(PLAN.to_text().replace(old, new))


@pytest.mark.slow
def test_a_million_ops_are_practical():
    plan = build("1f1b", 64, 8192)
    assert len(plan) == 2 * 64 * 8192
    for write, read in ((Plan.to_json, Plan.from_json), (Plan.to_text, Plan.from_text)):
        assert read(write(plan)) == plan
    assert plan.ops.nbytes == 12 * len(plan)
    assert plan.ops.dtype == np.int32
