"""Evenly spaced orders run and keep the limit, and a search finds them before schedules that search themselves."""

import time
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.cost import pricing
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import HABITS, improve, play, sifted
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search import Options, arms
from penstock.search.arms import FIRST, LATER, SEARCHING, Arm, arm_of, stint
from penstock.search.clock import LAST_STINT_S, Clock
from penstock.search.rounds import Search
from penstock.search.spaced import TAKEN, spaced
from penstock.search.ways import ways_of
from penstock.search.workers import Workers

PLACES = {
    "line": Placement.loop(3),
    "loop": Placement.loop(2, 3),
    "v": Placement.vee(4),
    "zigzag": Placement.vee(2, 4),
    "both": Placement.both_ways(2),
    "uneven": Placement((0, 1, 2, 2, 1, 0, 0)),
}


def task_on(place, limit, costs=None):
    costs = costs or Costs.uniform(place, 3.0, 2.8, 1.9, 0.2, w_share=0.9)
    return Task(place, 6 * place.chains, costs, limit, "span")


@pytest.mark.parametrize("name", PLACES)
def test_orders_keep_the_limit_and_run(name):
    place = PLACES[name]
    alone = max(np.bincount(place.rank_of, Costs.uniform(place).saved_bytes))
    for limit in (alone, 2 * alone, 9 * alone):
        task = task_on(place, float(limit))
        work = Work.of(task, KINDS, task.limit)
        orders = [*spaced(task, work)]
        assert len(orders) == TAKEN
        for order in orders:
            assert sorted(order.tolist()) == [*range(len(work.codes))]
            assert work.fits(order)
            assert play(work, order).sync < np.inf


def test_where_not_even_one_micro_batch_fits_there_is_none():
    task = task_on(Placement.vee(4), 0.5)
    assert not [*spaced(task, Work.of(task, KINDS, 0.5))]


def test_gradients_of_weights_wait_until_memory_is_short():
    place = Placement.loop(3)
    for limit, late in ((np.inf, True), (1.0, False)):
        task = task_on(place, limit, Costs.uniform(place))
        work = Work.of(task, KINDS, task.limit)
        first = work.lanes(next(spaced(task, work)))[0][:, 0]
        assert (first[-task.micros :] == Kind.W).all() == late


def test_ops_without_time_run_too():
    place = Placement.vee(3)
    costs = Costs.uniform(place, link_s=0.0)
    seconds = costs.seconds.copy()
    seconds[:, 2] = 0.0
    task = task_on(place, 2.0, replace(costs, seconds=seconds))
    work = Work.of(task, KINDS, task.limit)
    assert all(play(work, order).sync < np.inf for order in spaced(task, work))


def test_a_zigzag_within_little_memory_begins_far_below_one_micro_batch_after_the_other():
    place = Placement.vee(4, 4)
    arm = arm_of(ways_of({"v4": place}, pricing("28.3B", 1.0).on)["v4"], 12, 2.5, "span")
    played = [run.span for order in spaced(arm.task, arm.work) for run in improve(arm.work, order, HABITS[1], 1)]
    assert min(played) < 0.5 * arm.seconds
    run, _ = stint(arm, FIRST, 0.2, 0)
    assert run.span <= min(play(arm.work, order).span for order in spaced(arm.task, arm.work))


def test_schedules_that_search_themselves_come_first_where_they_are_quick_and_second_where_not(monkeypatch):
    arm = arm_of(ways_of({"v": Placement.vee(4)}, pricing("28.3B", 1.0).on)["v"], 8, 2.5, "span")
    assert [one.name for one in stint(arm, FIRST, 0.1, 0)[1]]
    monkeypatch.setattr(arms, "FEW_OPS", 0)
    assert not stint(arm, FIRST, 0.1, 0)[1]
    run, found = stint(arm, SEARCHING, 0.1, 0)
    assert run is None
    built = reduce(Arm.given, [one.order for one in found], replace(arm, run=stint(arm, FIRST, 0.1, 0)[0]))
    after = built.after(SEARCHING, run)
    assert after.run is built.run
    assert after.starts == built.starts
    run, nothing = stint(after, LATER, 0.1, 0)
    assert not nothing
    assert run.span <= min(play(arm.work, one.order).span for one in found)


def test_every_habit_is_tried_where_there_is_time_for_little():
    place = Placement.loop(4, 2)
    arm = arm_of(ways_of({"loop2": place}, pricing("28.3B", 1.0).on)["loop2"], 8, 2.5, "span")
    orders = [*spaced(arm.task, arm.work)]
    once = [play(arm.work, order, habit).span for order in orders for habit in HABITS]
    assert sifted(arm.work, orders, "span", 1).span <= min(once)


def test_all_placements_get_turns_and_the_best_most():
    places = {"line": Placement.loop(4), "v": Placement.vee(4), "loop2": Placement.loop(4, 2)}
    search = Search(
        *(ways_of(places, pricing("28.3B", 1.0).on), 12, 2.0, "span", Options(1000.0, processes=2)),
        *(time.perf_counter(), lambda found, bound: True),
    )
    search.reached = {"line": 3.0, "v": 1.0, "loop2": 2.0}
    search.arms = {name: replace(arm, steps=frozenset({FIRST, SEARCHING})) for name, arm in search.arms.items()}
    for _ in range(11):
        for name, step in search.chosen(None, 1):
            assert step == LATER
            search.turns[name] += 1
    assert search.turns == {"v": 6, "loop2": 3, "line": 2}


def test_what_all_placements_are_due_is_shared_out_at_once():
    places = {"v": Placement.vee(8), "loop2": Placement.loop(8, 2)}
    seen = []
    search = Search(
        *(ways_of(places, pricing("28.3B", 1.0).on), 24, 6.0, "sync", Options(1000.0, processes=2)),
        *(time.perf_counter(), lambda found, bound: bool(seen.append(bound)) or True),
    )
    assert seen == [0.0]
    search.begin(None)
    assert search.bound.seconds == min(arm.bound.seconds for arm in search.arms.values()) == seen[-1]
    jobs = search.chosen(Workers, 2)
    assert sorted(jobs) == [("loop2", FIRST), ("v", FIRST), ("v", SEARCHING)]
    assert jobs[0] == ("v", SEARCHING)


def test_stints_are_shorter_where_little_time_is_left(monkeypatch):
    ways = ways_of({"v": Placement.vee(4)}, pricing("28.3B", 1.0).on)
    search = Search(ways, 12, 2.0, "span", Options(1000.0), time.perf_counter(), lambda found, bound: True)
    search.arms["v"], search.clock.rounds = replace(search.arms["v"], steps=frozenset({FIRST, SEARCHING})), 9
    assert search.stint_s() == LAST_STINT_S
    monkeypatch.setattr(Clock, "over_s", 999.2)
    assert search.stint_s() == LAST_STINT_S / 4
    search.clock.pace = 4.0
    assert search.stint_s() == LAST_STINT_S / 16
    assert search.goes_on()
    monkeypatch.setattr(Clock, "over_s", 999.9)
    assert not search.goes_on()


def test_what_would_not_end_in_time_is_left_out_but_for_named_schedules():
    ways = ways_of({"v": Placement.vee(4, 4)}, pricing("28.3B", 1.0).on)
    search = Search(ways, 24, 2.0, "span", Options(1000.0), time.perf_counter(), lambda found, bound: True)
    assert search.due() == FIRST
    search.clock.last_s = [2000.0] * 3
    assert search.due() == SEARCHING
    assert search.goes_on()
    search.arms["v"] = replace(search.arms["v"], way=replace(ways["v"], again=frozenset({0})))
    assert search.due() == LATER


def test_where_no_named_schedule_fits_a_search_begins_with_an_evenly_spaced_order():
    ways = ways_of({"v4": Placement.vee(4, 4)}, pricing("28.3B", 1.0).on)
    search = Search(ways, 12, 1.5, "span", Options(1000.0), time.perf_counter(), lambda found, bound: True)
    alone_s = search.least_s
    search.begin(None)
    assert not search.named["v4"]
    assert search.least_s < 0.6 * alone_s
