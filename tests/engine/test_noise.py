import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.engine import Noise, noisy, simulate
from penstock.engine.noise import _apart, _together, factors
from penstock.lower import split_backward
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
    ("name", "chunks"), [("1f1b", 1), ("interleaved", 2), ("zb-v", 2), ("chimera", 1), ("seq1f1b", 1)]
)
def test_draws_of_bare_compute_are_timed_together_as_one_by_one(name, chunks):
    plan = build(name, 4, 8, chunks)
    costs = Costs.uniform(plan.placement, 1.0, 1.1, 0.9, link_s=0.3)
    rng = np.random.default_rng(1)
    seconds = rng.exponential(size=(len(plan), 7)) * (rng.random((len(plan), 7)) < 0.8)
    assert np.array_equal(_together(plan, costs, seconds), _apart(plan, costs, seconds))


def test_another_rank_straggles_in_each_draw_and_every_rank_in_its_turn():
    plan, costs = uniform("zb-h1")
    spread = noisy(plan, costs, Noise(straggler=1.5, seed=3), 8)
    alone = sorted(noisy(plan, costs, Noise(slow={rank: 1.5}), 1).makespan_s[0] for rank in range(4))
    assert sorted(spread.makespan_s[:4]) == sorted(spread.makespan_s[4:]) == alone
    other = [noisy(plan, costs, Noise(straggler=1.5, seed=seed), 4).makespan_s.tolist() for seed in range(5)]
    assert len(set(map(tuple, other))) > 1


def test_an_op_draws_the_same_wherever_it_stands():
    plans = [build("1f1b", 4, 8), split_backward(build("gpipe", 4, 8)), build("zb-h2", 4, 8)]
    noise, drawn = Noise(0.2, seed=5), []
    for plan in plans:
        found = factors(noise, plan.placement, 8, plan.ops, range(3))
        drawn.append({tuple(op): tuple(row) for op, row in zip(plan.ops.tolist(), found.tolist(), strict=True)})
    whole, split, other = drawn
    assert split == other
    for (kind, stage, micro), row in whole.items():
        assert row == split[Kind.I if kind == Kind.B else kind, stage, micro]
    assert len(set(split.values())) == len(split)


@pytest.mark.parametrize(
    ("noise", "draws", "says"),
    [
        ({"jitter": -1}, 1, "jitter=-1; give a deviation of 0 or more"),
        ({"jitter": np.nan}, 1, "jitter=nan"),
        ({"slow": {1: 0}}, 1, "rank 1 is slow by 0; give a positive factor"),
        ({"slow": {9: 2.0}}, 1, "rank 9 is slow, but ranks are 0..3"),
        ({"straggler": 0}, 1, "straggler=0; give a positive factor"),
        ({}, 0, "draws=0; draw at least once"),
    ],
)
def test_wrong_noise_is_named(noise, draws, says):
    plan, costs = uniform()
    with pytest.raises(ValueError, match=says):
        noisy(plan, costs, Noise(**noise), draws)
