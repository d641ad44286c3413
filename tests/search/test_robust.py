"""What is said of orders under noise is what the simulator draws, and none beside the answer does better."""

import json
from dataclasses import replace

import numpy as np
import pytest

from penstock.cli.main import main
from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.cost import pricing
from penstock.engine import Noise, bounds, noisy, problems, simulate
from penstock.schedules import build
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import HABITS, play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search import Options, solve
from penstock.search.anneal import anneal
from penstock.search.choices import with_recompute
from penstock.search.drawn import CHOOSING_DRAWS, STINT_DRAWS, Drawn, draws_of
from penstock.search.judged import Judged, expected_bound, judged, least
from penstock.search.kernel import kernels, one_by_one
from penstock.search.ways import Finished, Way

PLACES = {
    "line": Placement.loop(3),
    "loop": Placement.loop(2, 3),
    "v": Placement.vee(3),
    "uneven": Placement((0, 1, 1, 0, 1)),
    "both": Placement.both_ways(2),
}
NOISES = {"jitter": Noise(0.3), "straggler": Noise(straggler=1.5), "all": Noise(0.2, {1: 1.3}, 4, 1.7)}


def task_on(place, objective="sync", micros=4, zeros=False):
    rng = np.random.default_rng(3)
    costs = Costs.uniform(place, 1.0, 1.1, 0.8, link_s=0.2, w_share=0.5)
    seconds = costs.seconds * rng.integers(0 if zeros else 1, 4, costs.seconds.shape)
    limit = 3.0 * max(np.bincount(place.rank_of, costs.saved_bytes))
    return Task(place, micros, replace(costs, seconds=seconds), limit, objective)


def work_of(task):
    return Work.of(task, KINDS, task.memory_limit)


def plan_of(task, work, run):
    return Plan("found", task.placement, task.micros, tuple(map(Lane.of, work.lanes(run.order))))


@pytest.mark.parametrize("objective", ["sync", "span"])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", PLACES)
def test_an_order_takes_in_each_draw_what_its_plan_does(name, noise, objective):
    task = task_on(PLACES[name], objective, zeros=True)
    work = work_of(task)
    drawn = Drawn.of(task, work, NOISES[noise], range(9))
    for order in (one_by_one(task, work), kernels(task, work)[0], play(work, one_by_one(task, work), HABITS[0]).order):
        run = play(work, order)
        spread = noisy(plan_of(task, work, run), task.costs, NOISES[noise], 9)
        want = spread.makespan_s if objective == "sync" else spread.span_s
        np.testing.assert_allclose(drawn.times(run), want, rtol=1e-12)
        assert drawn.expected(run) == pytest.approx(spread.mean(objective))


def test_what_gets_stuck_never_counts_as_quick():
    task = task_on(PLACES["line"])
    work = work_of(task)
    run = play(work, np.concatenate([lane[::-1] for lane in np.split(one_by_one(task, work), work.begin[1:-1])]))
    assert Drawn.of(task, work, Noise(0.1), range(2)).times(run).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("objective", ["sync", "span"])
@pytest.mark.parametrize("name", PLACES)
def test_moves_lower_the_mean_over_the_draws_they_go_by(name, objective):
    task = task_on(PLACES[name], objective)
    work = work_of(task)
    drawn = Drawn.of(task, work, Noise(0.3, straggler=2.0), range(6))
    begun = play(work, one_by_one(task, work))
    run, again = (anneal(work, begun, objective, 3000, 5, drawn.seconds) for _ in range(2))
    assert (run.order == again.order).all()
    assert drawn.expected(run) < drawn.expected(begun)
    assert not problems(plan_of(task, work, run), task.costs, task.memory_limit)
    same = np.repeat(work.seconds[:, None], 2, axis=1)
    alike = anneal(work, begun, objective, 3000, 5, same)
    assert alike.score(objective) < begun.score(objective)


def test_no_draw_is_of_two_sets():
    for noise in NOISES.values():
        judging, choosing = range(10), draws_of(noise, 4, 10, CHOOSING_DRAWS, 0)
        sets = [judging, choosing, *(draws_of(noise, 4, choosing.stop, STINT_DRAWS, k) for k in range(3))]
        numbers = [number for one in sets for number in one]
        assert len(numbers) == len(set(numbers))
        assert len(choosing) == (CHOOSING_DRAWS if noise.jitter else 4)
        assert noise.straggler == 1 or all(one.start % 4 == 0 and len(one) % 4 == 0 for one in sets[1:])


def test_the_bound_is_below_what_any_order_is_expected_to_take_and_exact_for_one_rank():
    noise = Noise(0.3, straggler=1.5)
    for name, place in PLACES.items():
        for objective in ("sync", "span"):
            task = task_on(place, objective)
            work = work_of(task)
            bound = expected_bound(Way(place, task.costs), task.micros, task.memory_limit, objective, noise)
            plain = bounds(place, task.micros, task.costs, task.memory_limit)
            assert bound.seconds > (plain.makespan if objective == "sync" else plain.span).seconds
            drawn = Drawn.of(task, work, noise, range(200))
            for order in (one_by_one(task, work), *kernels(task, work)):
                assert bound.seconds < drawn.expected(play(work, order)), (name, objective)
    alone = Way(Placement.loop(1), Costs.uniform(Placement.loop(1)))
    assert expected_bound(alone, 5, None, "sync", Noise(straggler=1.5)).seconds == pytest.approx(1.5 * 15)


def test_the_least_of_several_plans_is_the_least_of_all():
    place = Placement.loop(4)
    costs = Costs.uniform(place, link_s=0.1)
    noise = Noise(0.2, straggler=1.4)
    names = ("gpipe", "1f1b", "zb-h1", "zb-h2", "eager-1f1b")
    plans = [("here", Finished(simulate(build(name, 4, 8), costs), costs)) for name in names]
    every = [judged(finished, "here", "sync", noise, 30) for _, finished in plans]
    found = least(plans, "sync", noise, 30)
    assert found.seconds == min(one.seconds for one in every)
    assert len(found.times_s) == 32
    assert least([], "sync", noise, 30) is None


def test_the_error_of_what_is_saved_is_that_of_turns():
    plan = build("1f1b", 2, 2)
    costs = Costs.uniform(plan.placement)
    finished = Finished(simulate(plan, costs), costs)
    one, other = (Judged(finished, "", np.array(times), 2) for times in ([1.0, 5.0, 2.0, 6.0], [2.0, 8.0, 4.0, 6.0]))
    assert one.saves(other) == (1.5, 0.5)  # 2 in the first turn, 1 in the second
    assert other.saves(one) == (-1.5, 0.5)


@pytest.mark.parametrize(("name", "noise", "objective"), [
    ("both", "all", "span"),
    *(pytest.param(*other, marks=pytest.mark.slow) for other in (
        ("line", "straggler", "span"), ("v", "jitter", "sync"),
        ("line", "jitter", "sync"), ("v", "all", "sync"), ("v", "jitter", "span"), ("both", "straggler", "sync"),
    )),
])  # fmt: skip
def test_the_answer_is_expected_to_take_no_longer_than_any_beside_it(name, noise, objective):
    task = task_on(PLACES[name], objective, 6)
    options = Options(60.0, processes=1, stints=1, noise=NOISES[noise], draws=40)
    found = solve(task.costs, task.placement, 6, task.memory_limit, objective, options)
    robust = found.robust
    assert robust.ours.plan is found.plan
    assert not problems(found.plan, task.costs, task.memory_limit)
    draws = len(robust.ours.times_s)
    for one in (robust.ours, robust.at_means, robust.named):
        assert one is None or one.seconds == noisy(one.plan, task.costs, NOISES[noise], draws).mean(objective)
        assert one is None or robust.ours.seconds <= one.seconds
    way = Way(task.placement, task.costs)
    assert robust.bound == expected_bound(way, 6, task.memory_limit, objective, NOISES[noise])
    again = solve(task.costs, task.placement, 6, task.memory_limit, objective, options)
    assert again.plan == found.plan
    assert again.robust.ours.times_s.tolist() == robust.ours.times_s.tolist()


def test_an_order_for_stragglers_beats_what_is_best_without_and_is_the_best_there_is():
    place, noise = Placement.loop(4), Noise(straggler=2.0)
    plain = solve(Costs.uniform, place, 8, 3.0, options=Options(processes=1, stints=2))
    found = solve(Costs.uniform, place, 8, 3.0, options=Options(60.0, processes=1, stints=2, noise=noise))
    robust = found.robust
    assert robust.ours.seconds == pytest.approx(50.0)
    assert robust.ours.seconds == pytest.approx(robust.bound.seconds)
    assert robust.named.seconds > 52
    assert robust.at_means.seconds > 52
    assert robust.ours.saves(robust.at_means)[1] == pytest.approx(0.0, abs=1e-9)
    assert plain.seconds == pytest.approx(31.0)
    assert found.seconds > plain.seconds
    assert noisy(plain.plan, Costs.uniform(place), noise, 4).mean("sync") > 52


@pytest.mark.slow
def test_jitter_at_real_costs_is_worth_an_order_of_its_own():
    costs, place = pricing("6.2B", 32 / 34).on, Placement.loop(4)
    options = Options(120.0, processes=1, stints=4, noise=Noise(0.15), draws=200)
    found = solve(costs, place, 12, 4.0, options=options)
    saved, error = found.robust.ours.saves(found.robust.at_means)
    assert saved > 5 * error > 0
    assert saved > 0.005 * found.robust.at_means.seconds


def test_processes_share_the_work_and_where_nothing_is_gained_the_best_without_noise_stays():
    options = Options(60.0, processes=2, stints=1, noise=Noise(0.2), draws=10)
    found = solve(Costs.uniform, {"v": Placement.vee(3), "line": Placement.loop(3)}, 6, 3.0, options=options)
    assert found.robust.stints == 2
    assert found.robust.at_means.where == "v"
    idle = solve(Costs.uniform, Placement.loop(1), 6, 3.0, options=Options(processes=1, noise=Noise(straggler=1.5)))
    assert idle.robust.ours is idle.robust.at_means
    assert idle.robust.stints == 0


def test_ways_that_change_an_order_are_judged_as_they_run():
    place = Placement.loop(3)
    again = with_recompute(Way(place, pricing("6.2B", 1.0).on(place)), None, 1.0)
    options = Options(60.0, processes=1, stints=1, noise=Noise(0.2), draws=20)
    found = solve(Costs.uniform, again, 6, 1.2, options=options)
    robust = found.robust
    assert robust.stints == 0
    assert not problems(found.plan, found.costs, 1.2)
    assert (found.plan.ops[:, 0] == Kind.R).any()
    assert robust.ours.seconds == noisy(found.plan, found.costs, Noise(0.2), 20).mean("sync")
    assert robust.bound.seconds < robust.ours.seconds <= min(robust.at_means.seconds, robust.named.seconds)


def test_the_watcher_is_told_and_ends_it():
    seen = []

    def watch(found, bound_s):
        seen.append(found.where)
        return "noise" not in found.where

    options = Options(60.0, processes=1, noise=Noise(0.2), draws=10)
    found = solve(Costs.uniform, Placement.loop(3), 6, 3.0, options=options, watch=watch)
    assert [where.endswith("under noise") for where in seen] == [False] * (len(seen) - 1) + [True]
    assert found.robust.stints == 1


def test_the_command_says_what_is_saved(tmp_path, capsys):
    file = tmp_path / "a.json"
    words = f"-p 4 -m 8 --memory 0.75 --placements line --stints 1 --processes 1 --straggler 2 --draws 8 --json {file}"
    main(["solve", *words.split(), "--robust"])
    out = capsys.readouterr().out
    facts = json.loads(file.read_text())
    robust = facts["robust"]
    assert robust["expected"] == pytest.approx(50.0)
    assert robust["expected"] == facts["noisy_makespan"]
    assert robust["gap"] == pytest.approx(0.0, abs=1e-9)
    assert robust["at_mean_costs"]["saved"] == pytest.approx(robust["at_mean_costs"]["expected"] - 50)
    assert robust["best_named"]["saved"] > 2
    assert robust["draws"] == 8
    assert "expected under noise: 50, 0.00 % above what no order is expected to beat (50, " in out
    assert "the best named schedule (zb-1p, line): 52.75; this saves 5.21 +- 0.00 %" in out


@pytest.mark.parametrize(("words", "message"), [
    ("--robust", "--robust needs noise; give --jitter"),
    ("--robust --jitter 0.1 --draws 0", "--draws 0; draw at least once"),
    ("--robust --straggler 0", "straggler=0; give a positive factor"),
    ("--robust --slow 9=2", "rank 9 is slow, but ranks are 0..3"),
])  # fmt: skip
def test_wrong_flags_are_one_line(words, message, penstock):
    code, _, err = penstock(f"solve -p 4 -m 8 --time 1 {words}")
    assert code == 2
    assert message in err
