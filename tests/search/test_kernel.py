"""Orders that repeat run, keep the limit for ever, and take their period and no less."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from penstock.cli.main import main
from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.cost import pricing
from penstock.engine import problems, simulate
from penstock.engine.bounds import least_bytes, period_bound
from penstock.schedules import build
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search import Options, lines, solve
from penstock.search.exact import installed
from penstock.search.kernel import cut, shortest
from penstock.search.repeat import kernel_of, tuned, turn_of
from penstock.search.starts import named, order_of
from penstock.search.ways import Way

PLACES = (
    *(Placement.loop(3), Placement.loop(2, 2), Placement.vee(2), Placement.vee(3), Placement.vee(2, 4)),
    *(Placement.both_ways(2), Placement((0, 1, 2, 2, 1, 0, 0))),
)
SHORT = Options(stints=2, processes=1)


@st.composite
def tasks(draw):
    """A placement, random costs, and a limit from one micro-batch up to more than any order needs."""
    place = draw(st.sampled_from(PLACES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    costs = Costs.uniform(place, link_s=0.3, w_share=draw(st.sampled_from([0.0, 0.6, 1.0])))
    costs = replace(costs, seconds=costs.seconds * rng.uniform(0.5, 2.0, costs.seconds.shape))
    limit = least_bytes(place, costs) * draw(st.sampled_from([1.0, 1.5, 2.0, 4.0, 12.0]))
    return Task(place, place.chains, costs, limit, "span")


def makespan(kernel, task, turns):
    """Of so many turns, run as early as their order allows; their order keeps the limit."""
    work = Work.of(replace(task, micros=turns * kernel.each * kernel.chains), KINDS, task.memory_limit)
    order = kernel.order(work)
    assert work.fits(order)
    return play(work, order).sync


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(tasks(), st.integers(1, 3), st.integers(0, 99))
def test_orders_repeat_within_the_limit_and_at_their_period(task, each, seed):
    first = shortest(task, each)
    assume(first is not None)
    kernel = tuned(first, "span", 200 * each, 300, seed)
    bound = period_bound(task.placement, task.costs, task.memory_limit).seconds
    assert kernel.micro_s >= bound * (1 - 1e-9)
    assert kernel.micro_s <= first.micro_s + 1e-9
    longest = float((kernel.start_s + kernel.work.seconds).max())
    ends = [makespan(kernel, task, turns) for turns in (30, 60)]
    for turns, end in zip((30, 60), ends, strict=True):
        assert end <= (turns - 1) * kernel.turn_s + longest + 1e-6
    assert (ends[1] - ends[0]) / 30 == pytest.approx(kernel.turn_s, rel=0.03)


def test_what_repeats_gains_a_period_with_each_micro_batch():
    place = Placement.vee(4)
    costs = Costs.uniform(place, 3.0, 2.8, 1.9, 0.2)
    kernel = shortest(Task(place, 1, costs, 2.5, "span"))
    task = Task(place, 1, costs, 2.5)
    ends = [makespan(kernel, task, turns) for turns in (60, 120)]
    assert (ends[1] - ends[0]) / 60 == pytest.approx(kernel.micro_s, rel=1e-9)


def test_moves_shorten_the_period_and_are_the_same_for_a_seed():
    place = Placement.vee(4, 4)
    task = Task(place, 24, pricing("28.3B", 1.0).on(place), 2.0, "span")
    first = shortest(task)
    found = [tuned(first, "span", 1000, 5_000, seed) for seed in (3, 3, 4)]
    assert found[0].lane.tolist() == found[1].lane.tolist()
    assert found[0].micro_s < first.micro_s * 0.999
    assert found[2].micro_s < first.micro_s


def test_times_that_break_the_limit_or_cannot_run_are_no_kernel():
    place = Placement.loop(2)
    task = Task(place, 4, Costs.uniform(place), 1.0)
    start_s = np.array([0.0, 1.0, 3.0, 2.0, 4.0, 3.0])
    work = turn_of(task, 1)
    assert work.codes[:, :2].tolist() == [[kind, stage] for kind in KINDS for stage in (0, 1)]
    assert kernel_of(task, 1, start_s, 5.0).turn_s == 5.0
    assert kernel_of(task, 1, start_s, 3.0) is None
    assert kernel_of(replace(task, memory_limit=2.0), 1, start_s, 3.0).turn_s == 3.0
    assert kernel_of(replace(task, memory_limit=9.0), 1, start_s[::-1].copy(), 3.0) is None


def test_a_turn_is_found_in_an_order_that_repeats():
    plan = build("zb-v", 4, 24, 2)
    task = Task(plan.placement, 24, Costs.uniform(plan.placement), 4.0)
    work = Work.of(task, KINDS, 4.0)
    found = cut(task, work, play(work, order_of(plan, work)))
    assert found[1].micro_s == 3.0


@pytest.mark.parametrize(("place", "limit", "seconds"), [
    (Placement.loop(4), 4.0, 3.0), (Placement.vee(4), 4.0, 3.0), (Placement.both_ways(4), 8.0, 3.0),
])  # fmt: skip
def test_with_memory_the_busiest_rank_never_waits(place, limit, seconds):
    found = solve(Costs.uniform, place, 16, limit, "period", SHORT)
    assert found.seconds == pytest.approx(seconds)
    assert found.proven
    assert found.bound.kind == "work"


@pytest.mark.slow
def test_the_period_is_between_its_bound_and_the_best_named_schedule():
    places = {"line": Placement.loop(3), "v": Placement.vee(3)}
    costs, limit = pricing("28.3B", 1.0).on, 1.7
    found = solve(costs, places, 12, limit, "period", SHORT)
    assert found.bound.seconds <= found.seconds <= found.named[1]
    assert not problems(found.plan, costs(found.plan.placement), limit)
    assert simulate(found.plan, costs(found.plan.placement)).makespan_s >= 12 * found.seconds * 0.9
    assert found.history[-1].seconds == found.seconds
    again = solve(costs, places, 12, limit, "period", SHORT)
    assert again.plan == found.plan
    assert again.none_s == found.none_s
    with pytest.raises(ValueError, match="a search for the period begins with orders that repeat"):
        solve(costs, places, 12, limit, "period", SHORT, start=found.plan)


def test_the_command_searches_for_the_period(tmp_path, capsys):
    figures = tmp_path / "a.json"
    words = "-p 2 -m 2 --costs 10,13,10.5,0.5 --objective period --memory 0.75 --placements v --stints 2 --processes 1"
    main(["solve", *words.split(), "--json", str(figures)])
    said = capsys.readouterr().out
    assert "time from one micro-batch to the next 34.25; no order beats 33.5" in said
    facts = json.loads(figures.read_text())
    assert facts["objective"] == "period"
    assert facts["period"] == pytest.approx(34.25)
    assert facts["bound"] == pytest.approx(33.5)
    assert facts["bound_kind"] == "work"
    if installed():
        assert "no order that repeats each micro-batch is faster\n" in said
        assert facts["repeats"] == [
            {"placement": "v", "micros": 1, "bound": pytest.approx(34.25), "proven": True},
            {"placement": "v", "micros": 2, "bound": pytest.approx(33.5), "proven": False},
        ]
    with pytest.raises(SystemExit):
        main(["solve", *words.split(), "--span"])
    assert "--objective is sync, span or period, only one of them" in capsys.readouterr().err


def test_schedules_that_search_themselves_are_built_once_where_time_is_short(monkeypatch):
    way, built = Way(Placement.vee(4), pricing("28.3B", 1.0).on(Placement.vee(4))), []

    def recorded(way, task, work, slow):
        built.append((slow, task.micros))
        return named(way, task, work, slow)

    monkeypatch.setattr(lines, "named", recorded)
    line = lines.line_of("v", way, 24, 3.0)
    short, whole = lines.begun(line, 0.0), lines.begun(line)
    assert built[:4] == [(False, 24), (False, 32), (False, 64), (True, 24)]
    assert built[4:] == [*built[:4], (True, 32), (True, 64)]
    assert {one.plan.name for one in short.named} == {one.plan.name for one in whole.named}
    assert all(one.micro_s >= line.bound.seconds * (1 - 1e-9) for one in short.named)
    assert short.seconds <= 1.05 * whole.seconds
