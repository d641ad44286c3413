import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.timeline import Timeline
from penstock.engine import simulate
from penstock.schedules import build
from randoms import costs_of, plans

TIMELINE = simulate(build("1f1b", 2, 3), Costs.uniform(Placement.loop(2)))


def test_figures_by_hand():
    """Rank 0 works 9 of 12, from 0 to 12; rank 1 from 1 to 10."""
    assert TIMELINE.makespan_s == TIMELINE.step_s == TIMELINE.span_s == 12.0
    assert TIMELINE.first_s.tolist() == [0.0, 1.0]
    assert TIMELINE.last_s.tolist() == [12.0, 10.0]
    assert TIMELINE.busy_s.tolist() == [9.0, 9.0]
    assert TIMELINE.bubble_sync == TIMELINE.bubble_span == 0.25
    assert TIMELINE.step_only_s == 0.0
    assert TIMELINE.peak_bytes.tolist() == [2.0, 1.0]


@given(st.data())
def test_json_round_trip(data):
    plan = data.draw(plans())
    timeline = simulate(plan, data.draw(costs_of(plan.placement)), label="predicted")
    back = Timeline.from_json(timeline.to_json())
    assert back.plan == plan
    assert back.label == "predicted"
    assert back.start_s.tolist() == pytest.approx(timeline.start_s.tolist(), abs=1e-9)
    assert back.end_s.tolist() == pytest.approx(timeline.end_s.tolist(), abs=1e-9)
    assert back.waited_for.tolist() == timeline.waited_for.tolist()
    assert back.peak_bytes.tolist() == pytest.approx(timeline.peak_bytes.tolist())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "malformed JSON at line 1"),
        ("{}", "not a Penstock timeline"),
        (json.dumps({**TIMELINE.to_dict(), "penstock_timeline": 7}), "not a Penstock timeline of format 2"),
        (json.dumps({k: v for k, v in TIMELINE.to_dict().items() if k != "start_s"}), "lacks the key 'start_s'"),
    ],
)
def test_what_is_not_a_timeline_is_named(text, says):
    with pytest.raises(ValueError, match=says):
        Timeline.from_json(text)


def test_costs_round_trip_and_are_checked():
    costs = Costs.uniform(Placement.loop(2, 2), 1.0, 2.0, 3.0, 0.5, 0.25, 8.0, 2.0)
    assert Costs.from_dict(json.loads(json.dumps(costs.to_dict()))).to_dict() == costs.to_dict()
    with pytest.raises(ValueError, match="costs lack the key 'hop_s'"):
        Costs.from_dict({k: v for k, v in costs.to_dict().items() if k != "hop_s"})
    with pytest.raises(ValueError, match="seconds holds a negative value"):
        Costs.uniform(Placement.loop(2), -1.0)
    with pytest.raises(ValueError, match="from a rank to itself"):
        Costs(costs.seconds, costs.hop_s + 1, costs.saved_bytes, costs.w_share, costs.boundary_bytes)
    with pytest.raises(ValueError, match=r"w_share has shape \(1,\), not \(4,\)"):
        Costs(costs.seconds, costs.hop_s, costs.saved_bytes, costs.w_share[:1], costs.boundary_bytes)
