"""What is shown of orders that repeat is true of all of them; those that are found run, keep the limit and are as fast
as is said."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine.bounds import least_bytes, period_bound
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.kernel import shortest
from penstock.search.repeat import measured, tuned, turn_of
from penstock.search.solution import CLOSE
from penstock.search.turns import Shown, shown

pytest.importorskip("ortools")
LATEST = 4
"""Turns of an op that are tried, less one."""


def task_of(place, seed, room):
    """Times, links and bytes that differ, whole ones for even seeds."""
    rng = np.random.default_rng(seed)
    draw = rng.uniform if seed % 2 else rng.integers
    costs = Costs.uniform(place, link_s=1.0, w_share=float(rng.choice([0.0, 0.5, 1.0])))
    seconds = costs.seconds.copy()
    for kind in KINDS:
        seconds[kind] = draw(1, 7, place.stages)
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]
    saved = costs.saved_bytes * draw(1, 3, place.stages)
    costs = replace(costs, seconds=seconds, hop_s=costs.hop_s * draw(0, 3, (1, 1)), saved_bytes=saved)
    return Task(place, place.chains, costs, room * least_bytes(place, costs), "span")


def by_trying(task):
    """Seconds from one micro-batch to the next in the best of all orders on a line that repeat each micro-batch."""
    work = turn_of(task, 1)
    ranks = np.split(np.argsort(work.rank, kind="stable"), work.begin[1:-1])
    lanes = product(*([(first, *rest) for rest in permutations(others)] for first, *others in ranks))
    found = []
    for lane in lanes:
        for behind in product(range(LATEST), repeat=2 * len(ranks)):
            turn = np.zeros(len(work.codes), dtype=np.int64)
            turn[len(ranks) :] = behind
            kernel = measured(work, np.concatenate(lane), turn, 1, 1)
            found += [] if kernel is None else [kernel.micro_s]
    return min(found)


def begun(task, each):
    """What is known without asking: the bound, and an order."""
    return Shown(period_bound(task.placement, task.costs, task.limit).seconds), shortest(task, each)


@pytest.mark.parametrize(("seed", "room"), [(0, 2.0), (64, 1.0), (2, 2.0), (4, 1.5), (1, 1.5), (3, 1.0), (5, 2.0)])
def test_on_a_line_it_is_what_trying_all_orders_gives(seed, room):
    """Turns of the first two take half a unit of time."""
    task = task_of(Placement.loop(2), seed, room)
    known, first = begun(task, 1)
    found = shown(task, 1, known, first.micro_s + 1.0, 20.0)
    assert found.kernel.micro_s == pytest.approx(by_trying(task), rel=1e-9)
    assert found.none_s == pytest.approx(found.kernel.micro_s, rel=CLOSE)


QUICK = Placement((0, 1, 1)), Placement.vee(2), Placement.both_ways(2)
SLOW = Placement.vee(3), Placement.loop(2, 2), Placement.loop(3, 2)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize(
    "place",
    [*QUICK, *(pytest.param(place, marks=pytest.mark.slow) for place in SLOW)],
    ids=lambda place: ",".join(map(str, place.rank_of)),
)
def test_nothing_beats_what_is_shown_and_what_is_found_runs_as_fast_as_is_said(place, each):
    task = task_of(place, 3 * place.stages + each, 2.0)
    known, first = begun(task, each)
    found = shown(task, each, known, first.micro_s + 1.0, 0.02 * place.ranks)
    kernel = found.kernel or first
    for seed in range(3):
        assert tuned(kernel, "span", 200, 2000, seed).micro_s >= found.none_s * (1 - 1e-9)
    assert known.none_s <= found.none_s <= kernel.micro_s * (1 + 1e-9)
    ends = []
    for turns in (30, 60):
        work = Work.of(replace(task, micros=turns * kernel.each * kernel.chains), KINDS, task.memory_limit)
        order = kernel.order(work)
        assert work.fits(order)
        ends.append(play(work, order).sync)
    assert ends[1] - ends[0] <= 30 * kernel.turn_s * (1 + 1e-9)
    assert ends[1] - ends[0] >= 29 * kernel.turn_s


def test_equal_arguments_give_equal_answers_and_what_is_known_is_asked_no_more():
    task = task_of(Placement.loop(3), 4, 1.5)
    known, first = begun(task, 1)
    answers = [shown(task, 1, known, first.micro_s + 1.0, 2.0, seed=5) for _ in range(2)]
    assert answers[0].none_s == answers[1].none_s
    assert answers[0].effort == answers[1].effort > 0
    best_s = answers[0].kernel.micro_s
    again = shown(task, 1, answers[0], best_s, 2.0)
    assert (again.kernel, again.effort) == (None, 0.0)


def test_without_a_limit_the_busiest_rank_never_waits():
    task = replace(task_of(Placement.vee(3), 4, 1.0), memory_limit=None)
    known, first = begun(task, 1)
    found = shown(task, 1, known, first.micro_s + 1.0, 2.0)
    assert found.kernel.micro_s == pytest.approx(known.none_s)
