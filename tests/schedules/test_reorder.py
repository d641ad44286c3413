"""Orders that are improved by playing them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import check, simulate
from penstock.schedules import Task, reorder, v_min
from penstock.schedules.reorder import COMPILE_FROM_PLAYED, HABITS, Habit, improve, play
from penstock.schedules.work import Work
from randoms import costs_of, placements

SPLIT = (Kind.F, Kind.I, Kind.W)


@st.composite
def works(draw):
    """Work on one chain, an order of it that can run, and a limit that it keeps."""
    place = draw(placements().filter(lambda place: place.chains == 1))
    costs = draw(costs_of(place))
    task = Task(place, draw(st.integers(1, 5)), costs)
    work = Work.of(task, SPLIT, np.inf)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    depth = np.array(
        [2 * place.stages if k == Kind.W else s if k == Kind.F else 2 * place.stages - 1 - s for k, s, _ in work.codes]
    )
    order = work.by_time(depth + work.codes[:, 2] * rng.integers(1, 8))
    return task, Work.of(task, SPLIT, float(work.peaks(order).max())), order


def plan_of(task, work, order):
    return Plan("played", task.placement, task.micros, tuple(map(Lane.of, work.lanes(order))))


@given(works())
def test_an_order_takes_as_long_as_the_simulator_says(given_work):
    task, work, order = given_work
    run, timeline = play(work, order), simulate(plan_of(task, work, order), task.costs)
    assert (run.sync, run.span) == pytest.approx((timeline.makespan_s, timeline.span_s))
    assert run.order.tolist() == order.tolist()


@given(works(), st.sampled_from(HABITS))
def test_improved_orders_are_legal_and_keep_the_limit(given_work, habit):
    task, work, order = given_work
    for run in improve(work, order, habit, rounds=1):
        check(plan_of(task, work, run.order))
        assert work.fits(run.order)
        assert run.sync < np.inf
        timeline = simulate(plan_of(task, work, run.order), task.costs)
        assert timeline.makespan_s <= run.sync * (1 + 1e-9)


@given(works(), st.sampled_from(HABITS))
def test_backwards_in_time_and_back_is_the_same(given_work, habit):
    _, work, order = given_work
    assert work.turn(work.turn(order)).tolist() == order.tolist()
    assert play(work.backwards, work.turn(order)).sync < np.inf
    for name in ("codes", "needed", "lag", "seconds", "takes", "frees"):
        assert np.array_equal(getattr(work.backwards.backwards, name), getattr(work, name))


def test_compiled_and_plain_loops_do_the_same(monkeypatch):
    place = Placement.vee(4)
    costs = Costs.uniform(place, 1.0, 1.1, 0.7, 0.03)
    work = Work.of(Task(place, 9, costs), SPLIT, 2.5)
    order = v_min.block(4).order(work)
    for habit in (None, *HABITS):
        runs = [play(work, order, habit, COMPILE_FROM_PLAYED)]
        monkeypatch.setattr(reorder, "_loop", lambda ops, played: reorder._walk)
        runs.append(play(work, order, habit))
        monkeypatch.undo()
        assert runs[0].order.tolist() == runs[1].order.tolist()
        assert runs[0].start_s.tolist() == runs[1].start_s.tolist()


def test_an_order_that_breaks_the_limit_or_cannot_run_is_stuck():
    place = Placement.loop(1)
    work = Work.of(Task(place, 2, Costs.uniform(place)), SPLIT, 1.0)
    forwards_first, backward_first = np.arange(6), np.array([2, 0, 4, 1, 3, 5])
    assert not work.fits(forwards_first)
    assert play(work, forwards_first, Habit()).sync == np.inf
    assert play(work, forwards_first).sync == 6.0
    assert play(work, backward_first).sync == np.inf


@pytest.mark.parametrize(("fit", "third"), [(0.3, "1W0"), (0.5, "1F1"), (1.0, "1F1")])
def test_waits_are_filled_as_far_as_a_habit_goes(fit, third):
    """After 1I0 rank 1 waits 0.4 for 1F1, and has a W of 1 to do."""
    place = Placement.loop(2)
    work = Work.of(Task(place, 2, Costs.uniform(place).with_seconds(Kind.F, 0, 2.4)), SPLIT, 2.0)
    words = ["0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1I0 1F1 1W0 1I1 1W1"]
    run = play(work, work.of_rows(Lane.parse(one).codes for one in words), Habit(fit))
    assert str(Lane.of(work.lanes(run.order)[1])).split()[:3] == ["1F0", "1I0", third]


def test_late_weights_are_left_for_waits():
    place = Placement.loop(1)
    work = Work.of(Task(place, 2, Costs.uniform(place)), SPLIT, 2.0)
    order = work.of_rows([Lane.parse("0F0 0I0 0W0 0F1 0I1 0W1").codes])
    late = play(work, order, Habit(late=True))
    assert str(Lane.of(work.lanes(late.order)[0])) == "0F0 0I0 0F1 0I1 0W0 0W1"
    assert play(work, order, Habit()).order.tolist() == order.tolist()
