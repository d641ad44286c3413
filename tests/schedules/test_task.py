"""Schedules that read costs: one function of a task makes all lanes."""

import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine import check
from penstock.schedules import build


def by_price(task, late=0):
    """Forwards first where they are dear; the task says what they cost."""
    p, m = task.placement.ranks, task.micros
    dear = task.costs.seconds[Kind.F, 0] > 1
    return [[(m, "F"), (m, "B")] if dear or late or r == 0 else [(m, "F B")] for r in range(p)]


@pytest.mark.parametrize(("f_s", "options", "last"), [(1, {}, "1F0 1B0 1F1 1B1"), (2, {}, "1F0 1F1 1B0 1B1")])
def test_lanes_follow_the_costs(f_s, options, last):
    plan = build(by_price, 2, 2, costs=lambda place: Costs.uniform(place, f_s))
    check(plan)
    assert (plan.name, str(plan.lanes[1])) == ("by-price", last)
    assert build(by_price, 2, 2, costs=Costs.uniform(Placement.loop(2), f_s)) == plan


def test_the_task_holds_limit_and_objective_and_options_are_known():
    seen = []

    def note(task, late=0):
        seen.append((task.memory_limit, task.objective, late))
        return by_price(task)

    build(note, 2, 2)
    build(note, 2, 2, memory_limit=3.0, objective="span", late=1)
    assert seen == [(None, "sync", 0), (3.0, "span", 1)]
    with pytest.raises(ValueError, match="note has no option 'lat'; did you mean 'late'"):
        build(note, 2, 2, lat=1)


def test_a_wrong_number_of_lanes_is_named():
    with pytest.raises(ValueError, match="by-one gave 1 lanes for 2 ranks"):
        build(by_one, 2, 1)


def by_one(task):
    return [[(1, "F B")]]
