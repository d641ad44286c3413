"""What the solver says of its answers is true."""

import json

import numpy as np
import pytest

from penstock.api import read_plan
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.cost import layered, pricing, with_whole
from penstock.engine import problems, simulate
from penstock.export import read_csv
from penstock.schedules import SCHEDULES, build
from penstock.search import Options, solve

PLACES = {
    "line": Placement.loop(4),
    "loop": Placement.loop(4, 2),
    "v": Placement.vee(4),
    "zigzag": Placement.vee(3, 4),
    "uneven": Placement((0, 1, 2, 2, 1, 0, 0)),
    "both": Placement.both_ways(4),
}
SHORT = Options(stints=1, processes=1)


def uneven(place):
    """A heavy head, one slow rank, one slow link."""
    costs = Costs.uniform(place, 3.0, 2.8, 1.9, 0.2, w_share=0.9)
    seconds = costs.seconds.copy()
    seconds[:, place.next.index(-1)] *= 1.6
    seconds[:, np.array(place.rank_of) == 1] /= 0.8
    hop_s = costs.hop_s.copy()
    hop_s[0, 1] *= 5
    return Costs(**{**costs.__dict__, "seconds": seconds, "hop_s": hop_s})


@pytest.mark.parametrize(("costs", "objective"), [(Costs.uniform, "span"), (uneven, "sync")])
@pytest.mark.parametrize("name", PLACES)
def test_the_answer_is_legal_between_its_bound_and_the_best_named_schedule(name, costs, objective):
    place, micros = PLACES[name], 6
    limit = 3.0 * max(np.bincount(place.rank_of, costs(place).saved_bytes)) / place.chains
    found = solve(costs, place, micros, limit, objective, SHORT)
    assert not problems(found.plan, costs(place), limit)
    timeline = simulate(found.plan, costs(place))
    assert found.seconds == (timeline.makespan_s if objective == "sync" else timeline.span_s)
    assert found.bound.seconds <= found.seconds * (1 + 1e-9)
    assert found.named is None or found.seconds <= found.named[1]
    times = [one.seconds for one in found.history]
    assert times == sorted(set(times), reverse=True)
    assert times[-1] >= found.seconds * (1 - 1e-9)


@pytest.mark.parametrize("processes", [1, 2])
def test_it_is_never_worse_than_any_named_schedule_that_fits_however_short_the_time(processes):
    place, costs, limit = Placement.vee(4), uneven(Placement.vee(4)), 3.2
    found = solve(costs, place, 8, limit, "span", Options(time_s=1e-3, processes=processes))
    assert found.named is not None
    tried = 0
    for name, schedule in SCHEDULES.items():
        if not schedule.chunks or schedule.placement(4, 2) != place:
            continue
        try:
            plan = build(name, 4, 8, 2, costs=costs, memory_limit=limit, objective="span")
        except ValueError:
            continue
        if not problems(plan, costs, limit):
            tried += 1
            assert found.seconds <= simulate(plan, costs).span_s * (1 + 1e-12), name
    assert tried >= 3


@pytest.mark.parametrize(("place", "limit", "objective"), [
    (Placement.vee(4), 4.0, "sync"), (Placement.vee(4), 4.0, "span"), (Placement.loop(4, 2), 4.0, "sync"),
    (Placement.loop(4), 4.0, "sync"), (Placement.loop(4), 7.0, "span"),
])  # fmt: skip
def test_equal_times_are_solved_with_a_proof(place, limit, objective):
    found = solve(Costs.uniform, place, 8, limit, objective, SHORT)
    assert found.proven
    assert found.stints == 0


def test_real_costs_come_close_to_the_bound_and_far_below_named_schedules():
    costs = pricing("28.3B", 32 / 34).on
    found = solve(costs, Placement.loop(4, 2), 6, 4.0, "sync", Options(stints=2, processes=1))
    assert found.named is not None
    assert found.seconds < found.named[1] * 0.95
    assert found.gap < 0.03


@pytest.mark.slow
def test_the_same_seed_finds_the_same_and_goes_on_from_what_it_found():
    costs, place = pricing("28.3B", 1.0).on, Placement.vee(4)
    first, again = (solve(costs, place, 12, 2.0, "span", Options(seed=3, stints=2, processes=1)) for _ in range(2))
    assert first.plan == again.plan
    more = solve(costs, place, 12, 2.0, "span", Options(seed=4, stints=2, processes=1), start=first.plan)
    assert more.seconds <= first.seconds
    assert any("solved" in one.where for one in more.history)


def test_the_best_of_several_placements_is_taken_and_processes_share_the_work():
    costs = pricing("6.2B", 32 / 34).on
    places = {"line": Placement.loop(4), "v": Placement.vee(4), "loop4": Placement.loop(4, 4)}
    found = solve(costs, places, 12, 4.0, "sync", Options(600.0, stints=2, processes=2))
    alone = {name: solve(costs, place, 12, 4.0, "sync", Options(stints=0)) for name, place in places.items()}
    assert found.seconds <= min(one.seconds for one in alone.values())
    assert found.bound.seconds == min(one.bound.seconds for one in alone.values())
    assert found.stints == 4


def test_whole_backwards_are_used_where_they_are_quicker():
    place = Placement.loop(4)
    costs = Costs.uniform(place, 1.0, 1.0, 1.0)
    seconds = costs.seconds.copy()
    seconds[Kind.B] = 1.5
    quick = Costs(**{**costs.__dict__, "seconds": seconds})
    found = solve(quick, place, 8, 4.0, "sync", SHORT)
    assert (found.plan.ops[:, 0] == Kind.B).any()
    assert found.seconds <= simulate(build("1f1b", 4, 8), quick).makespan_s


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"memory_limit=0\.4 does not hold one micro-batch"):
        solve(Costs.uniform, Placement.vee(4), 8, 0.4)
    with pytest.raises(ValueError, match="no placement to search"):
        solve(Costs.uniform, [], 8)
    with pytest.raises(ValueError, match="which is none of the placements"):
        solve(Costs.uniform, Placement.vee(4), 8, start=build("1f1b", 4, 8))


def test_the_search_ends_when_its_watcher_says_so():
    seen = []
    costs = pricing("28.3B", 1.0).on
    solve(costs, Placement.vee(4), 12, 2.0, "span", Options(60, processes=1), watch=lambda f, b: bool(seen.append(f)))
    assert len(seen) >= 1


@pytest.mark.slow
def test_the_command_writes_figures_and_a_plan_that_has_them(tmp_path, penstock):
    figures, plan, own = (tmp_path / name for name in ("a.json", "a.csv", "plan.json"))
    words = "solve -p 4 -m 8 --costs 6.2B --w-share 0.94 --memory 0.75 --span --placements v,loop2 --stints 2 --seed 1"
    _, out, _ = penstock([*words.split(), "--jitter", 0.02, "--json", figures, "--csv", plan, "--plan", own])
    facts = json.loads(figures.read_text())
    assert "best named schedule" in out
    assert "with noise" in out
    found = read_csv(plan)
    assert read_plan(own).lanes == found.lanes
    costs = pricing("6.2B", 0.94).on(found.placement)
    assert not problems(found, costs, 0.75 * 4)
    assert simulate(found, costs).span_s == pytest.approx(facts["span"])
    assert facts["gap"] == pytest.approx(100 * (facts["span"] / facts["bound"] - 1))
    assert facts["span"] <= facts["best_named"]["seconds"]
    assert facts["history"][-1]["time"] == pytest.approx(facts["span"])
    assert {"bound_kind", "seconds", "peak_over_p", "bubble_span", "noisy_span"} <= facts.keys()


@pytest.mark.parametrize(("words", "message"), [
    ("--placements w2", "--placements 'w2': unknown; write line, v, loop2"),
    ("--placements v,", "--placements '': unknown"),
    ("--memory 0.1", "--memory 0.1 does not hold one micro-batch; it needs at least 0.25, on line"),
    ("--placements v,both --csv a.csv", "--csv a.csv: PyTorch's CSV cannot hold two copies of a stage, as both has"),
    ("--time 0", "--time 0: give a positive number"),
    ("--csv a.txt", "a.txt"),
    ("--plan a.csv", "--plan a.csv: the suffix must be .json or .txt"),
    ("--start nothing.csv", "nothing.csv"),
])  # fmt: skip
def test_wrong_flags_are_one_line(words, message, penstock):
    code, _, err = penstock(f"solve -p 4 -m 8 {words}")
    assert code == 2
    assert message in err


def test_the_best_named_schedule_is_known_where_a_search_is_proven_without_it():
    """The head takes longer: evenly spaced orders meet the bound before ``zb-v-auto``, which does too, is built."""
    layers, head_s = layered(pricing("28.3B", 32 / 34), 8, 64), 1.6 * pricing("28.3B").figures[0] / 8
    places = {"line": Placement.loop(8), "v": Placement.vee(8), "v4": Placement.vee(8, 4)}
    found = solve(lambda place: with_whole(layers.on(place), place, head_s), places, 24, 8.0, "sync", Options(2.0))
    assert found.proven
    assert found.named == ("zb-v-auto", pytest.approx(found.seconds))
