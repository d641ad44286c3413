import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.engine import Noise, noisy, simulate
from penstock.schedules import build


def uniform(name="1f1b", ranks=4, micros=8, **sizes):
    plan = build(name, ranks, micros, **sizes)
    return plan, Costs.uniform(plan.placement)


def test_without_noise_each_draw_is_the_simulation():
    plan, costs = uniform("zb-h1")
    timeline = simulate(plan, costs)
    spread = noisy(plan, costs, Noise(), draws=3)
    assert spread.makespan_s.tolist() == [timeline.makespan_s] * 3
    assert spread.span_s.tolist() == [timeline.span_s] * 3
    assert (spread.mean("sync"), spread.mean("span")) == (timeline.makespan_s, timeline.span_s)


def test_a_slow_rank_is_as_if_its_stages_cost_more():
    plan, costs = uniform("interleaved", chunks=2)
    dear = costs.seconds.copy()
    dear[:, [1, 5]] *= 1.5
    want = simulate(plan, Costs(dear, costs.hop_s, costs.saved_bytes, costs.w_share, costs.boundary_bytes))
    assert noisy(plan, costs, Noise(slow={1: 1.5}), draws=1).makespan_s[0] == pytest.approx(want.makespan_s)


def test_draws_are_seeded_and_vary_about_the_mean():
    plan, costs = uniform("gpipe", ranks=1, micros=200)
    a, b = (noisy(plan, costs, Noise(0.2, seed=7), draws) for draws in (40, 10))
    assert a.makespan_s[:10].tolist() == b.makespan_s.tolist()
    assert len(set(a.makespan_s)) == 40
    assert noisy(plan, costs, Noise(0.2, seed=8), 1).makespan_s[0] != b.makespan_s[0]
    assert a.makespan_s.mean() == pytest.approx(simulate(plan, costs).makespan_s, rel=0.01)


def test_jitter_costs_time_where_ranks_wait_for_each_other():
    plan, costs = uniform(ranks=8, micros=32)
    assert noisy(plan, costs, Noise(0.3), 20).makespan_s.min() > simulate(plan, costs).makespan_s


@pytest.mark.parametrize(
    ("noise", "draws", "says"),
    [
        ({"jitter": -1}, 1, "jitter=-1; give a deviation of 0 or more"),
        ({"jitter": np.nan}, 1, "jitter=nan"),
        ({"slow": {1: 0}}, 1, "rank 1 is slow by 0; give a positive factor"),
        ({"slow": {9: 2.0}}, 1, "rank 9 is slow, but ranks are 0..3"),
        ({}, 0, "draws=0; draw at least once"),
    ],
)
def test_wrong_noise_is_named(noise, draws, says):
    plan, costs = uniform()
    with pytest.raises(ValueError, match=says):
        noisy(plan, costs, Noise(**noise), draws)
