"""Processes of a search: they share work, and what they have not finished when time is up is given up."""

import time

import pytest

from penstock import Costs, Placement
from penstock.engine import problems
from penstock.search import Options, rounds, solve
from penstock.search.workers import Workers, pool


def asleep(*_):
    time.sleep(60.0)


def halves(number):
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


def test_results_and_errors_come_back_and_what_is_late_is_given_up():
    begun = time.perf_counter()
    with Workers(2) as workers:
        late, good, bad = (workers.submit(*call) for call in ((asleep,), (halves, 4), (halves, 3)))
        assert good.result() == 2
        with pytest.raises(ValueError, match="3 is odd"):
            bad.result(30.0)
        assert [*workers.map(halves, [8, 6])] == [4, 3]
        with pytest.raises(TimeoutError):
            late.result(0.1)
    assert time.perf_counter() - begun < 30.0


def test_a_single_process_needs_no_others():
    with pool(1) as workers:
        assert workers is None


def test_a_search_ends_in_time_with_the_best_named_schedule_where_its_stints_do_not(monkeypatch):
    monkeypatch.setattr(rounds, "stint", asleep)
    place = Placement.loop(4, 2)
    costs = Costs.uniform(place, 1.0, 1.2, 0.8, 0.3)
    begun = time.perf_counter()
    found = solve(costs, place, 8, 4.0, "sync", Options(0.5, processes=2))
    assert time.perf_counter() - begun < 30.0
    assert found.named is not None
    assert found.seconds == found.named[1]
    assert not problems(found.plan, costs, 4.0)
