"""Moves keep every order legal and every time right."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.anneal import anneal, facts_of, state_of
from penstock.search.kernel import one_by_one
from penstock.search.moves import move, target, undo

PLACES = {
    "line": Placement.loop(3),
    "loop": Placement.loop(2, 3),
    "v": Placement.vee(3),
    "uneven": Placement((0, 1, 1, 0, 1)),
    "both": Placement.both_ways(2),
}


def task_on(place, rng, micros=4, objective="sync"):
    costs = Costs.uniform(place, 1.0, 1.0, 1.0, link_s=0.1, w_share=0.5)
    seconds = costs.seconds * rng.integers(0, 4, costs.seconds.shape)  # some ops take no time
    limit = 2.0 * max(np.bincount(place.rank_of, costs.saved_bytes))
    return Task(place, micros, replace(costs, seconds=seconds), limit, objective)


def lanes_of(state):
    lanes = []
    for o in state.first:
        lane = []
        while o >= 0:
            lane.append(o)
            o = state.after[o]
        lanes.append(lane)
    return lanes


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("seed", "draws"), [(0, 0), pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(1, 3, marks=pytest.mark.slow)]
)
def test_after_any_moves_times_memory_and_links_are_those_of_the_order(name, seed, draws):
    rng = np.random.default_rng(seed)
    task = task_on(PLACES[name], rng)
    work = Work.of(task, (Kind.F, Kind.I, Kind.W), task.memory_limit)
    facts = facts_of(work)
    state = state_of(facts, play(work, one_by_one(task, work)), task.placement.ranks)
    if draws:
        seconds = rng.exponential(size=(len(work.codes), draws)) * work.seconds[:, None]
        start = np.array([play(replace(work, seconds=drawn), one_by_one(task, work)).start_s for drawn in seconds.T]).T
        facts, state = facts._replace(seconds=seconds), state._replace(start=start.copy(), old=np.zeros_like(seconds))
    taken = 0
    for _ in range(400):
        x, left = int(rng.integers(len(work.codes))), bool(rng.integers(2))
        y = target(facts, state, work.most, x, left, int(rng.integers(1, 8)))
        if y == x:
            continue
        before = [values.copy() for values in state[:8]]
        done = move(facts, state, x, y, left)
        if done[4] >= 0 and rng.random() < 0.3:
            undo(facts, state, x, done)
            done = (*done[:4], -1)
        if done[4] < 0:
            for was, now in zip(before, state[:8], strict=True):
                np.testing.assert_allclose(now, was, atol=1e-12)
            continue
        taken += 1
        order = np.concatenate(lanes_of(state))
        for column, drawn in zip(np.atleast_2d(state.start.T), np.atleast_2d(facts.seconds.T), strict=True):
            np.testing.assert_allclose(column, play(replace(work, seconds=drawn), order).start_s, atol=1e-12)
        assert work.fits(order)
        assert (state.sequence[state.place] == np.arange(len(order))).all()
        for needed in work.needed.T:
            assert (state.place[needed[needed >= 0]] < state.place[needed >= 0]).all()
    assert taken > 20


@pytest.mark.parametrize("objective", ["sync", "span"])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_found_is_legal_no_longer_and_the_same_each_time(name, objective):
    task = task_on(PLACES[name], np.random.default_rng(7), objective=objective)
    work = Work.of(task, (Kind.F, Kind.I, Kind.W), task.memory_limit)
    begun = play(work, one_by_one(task, work))
    run = anneal(work, begun, objective, 3000, seed=5)
    again = anneal(work, begun, objective, 3000, seed=5)
    assert (run.order == again.order).all()
    assert run.score(objective) < begun.score(objective)
    plan = Plan("found", task.placement, task.micros, tuple(map(Lane.of, work.lanes(run.order))))
    check(plan, task.costs, task.memory_limit)
    timeline = simulate(plan, task.costs)
    assert (timeline.makespan_s, timeline.span_s) == pytest.approx((run.sync, run.span))
