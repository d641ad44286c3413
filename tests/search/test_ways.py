"""A search that may also decide how layers are cut, what runs again, what is copied away and whether ends are split."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api import read_plan
from penstock.cli.main import main
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.cost import layered, pricing, with_whole
from penstock.engine import problems, simulate
from penstock.search import Options, solve
from penstock.search.choices import cuts, to_fit, with_copies, with_cuts, with_recompute, with_vocabulary
from penstock.search.ways import Way

SHORT = Options(20.0, processes=1, stints=2)
LAYERS = layered(pricing("6.2B", 32 / 34), 4, 16)
HEAD_S = 1.6 * LAYERS.figures[0] * 4 / 16


def headed(place, *cut):
    """Layers, and a head of 1.6 of them."""
    return with_whole(LAYERS.on(place, *cut), place, HEAD_S)


@given(st.integers(1, 5), st.integers(0, 12), st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_no_single_move_makes_a_cut_better(parts, more, extra):
    place, layers = Placement.loop(parts), parts + more

    def load_s(cut):
        return [n + extra[part] for part, n in enumerate(cut)]

    found = cuts(place, layers, load_s)
    for cut in found:
        assert sum(cut) == layers
        assert min(cut) >= 1
    least = max(load_s(found[0]))
    assert least == best_of_all(parts, layers, extra)


def best_of_all(parts, layers, extra):
    """The least that the busiest rank can have, tried from below."""
    least = 0
    while True:
        least += 1
        room = [max(1, least - extra[part]) for part in range(parts)]
        if sum(room) >= layers and all(least >= 1 + extra[part] for part in range(parts)):
            return least


@pytest.mark.parametrize(
    "place", [Placement.loop(4), pytest.param(Placement.vee(4), marks=pytest.mark.slow)], ids=["line", "v"]
)
def test_a_heavy_head_is_evened_out(place):
    even = solve(headed, place, 12, 4.0, "sync", SHORT)
    cut = solve(headed, with_cuts(place, 16, headed), 12, 4.0, "sync", SHORT)
    assert cut.where.startswith("cut ")
    assert cut.bound.seconds < even.bound.seconds
    assert cut.seconds < 0.95 * min(even.seconds, even.named[1])
    assert simulate(cut.plan, cut.costs).makespan_s == cut.seconds
    layers = [int(n) for n in cut.where.removeprefix("cut ").split("+")]
    assert cut.costs.saved_bytes == pytest.approx(np.array(layers) * 4 / 16)


def test_a_slow_rank_gets_fewer_layers():
    def slow(place, *cut):
        costs = LAYERS.on(place, *cut)
        seconds = costs.seconds.copy()
        seconds[:, np.array(place.rank_of) == 2] /= 0.5
        return replace(costs, seconds=seconds)

    assert next(iter(with_cuts(Placement.loop(4), 16, slow))) == "cut 5+5+1+5"
    place = Placement.vee(4)
    twice = next(iter(with_cuts(place, 16, slow).values()))
    cut, even = (costs.seconds[[Kind.F, Kind.I, Kind.W]].sum(axis=0) for costs in (twice.costs, slow(place)))
    assert np.bincount(place.rank_of, cut).max() < 0.7 * np.bincount(place.rank_of, even).max()


def test_a_split_head_too():
    place = Placement.vee(4)
    even = solve(headed, place, 12, 4.0, "sync", SHORT)
    found = solve(headed, with_vocabulary(Way(place, LAYERS.on(place)), HEAD_S, 0.0), 12, 4.0, "sync", SHORT)
    assert (found.plan.ops[:, 0] == Kind.S).any()
    assert not problems(found.plan, found.costs, 4.0)
    assert found.bound.seconds <= found.seconds < 0.95 * even.seconds


@pytest.mark.parametrize("choice", ["recompute", "fit", "offload"])
def test_what_no_order_alone_can_hold(choice):
    """At a limit where a plain order runs nearly one micro-batch after the other."""
    place, limit = Placement.loop(4), 2.0 if choice == "offload" else 1.5
    way = Way(place, pricing("6.2B", 32 / 34).on(place))
    ways = {
        "recompute": lambda: with_recompute(way, None, 1.0),
        "fit": lambda: to_fit(way, None, 1.0, limit),
        "offload": lambda: with_copies(way, time=0.2),
    }[choice]()
    plain = solve(lambda place: way.costs, place, 12, limit, "sync", SHORT)
    found = solve(lambda place: way.costs, {"plain": way, **ways}, 12, limit, "sync", SHORT)
    assert found.where != "plain"
    assert found.seconds < 0.8 * plain.seconds
    assert not problems(found.plan, found.costs, limit)
    assert found.timeline.peak_bytes.max() <= limit * (1 + 1e-9)
    kinds = set(found.plan.ops[:, 0].tolist())
    assert kinds & ({Kind.OFFLOAD} if choice == "offload" else {Kind.R})


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=2, deadline=None)
def test_bounds_of_ways_hold(seed):
    dice = np.random.default_rng(seed)
    place = [Placement.loop(2), Placement.vee(2), Placement.loop(3), Placement((0, 1, 1))][dice.integers(4)]
    costs = pricing(f"{dice.integers(1, 9)},{dice.integers(1, 9)},{dice.integers(1, 9)},{dice.integers(2)}").on(place)
    limit = float(dice.uniform(1.0, 2.0)) * max(costs.saved_bytes.sum() / place.ranks, 1.0)
    way = Way(place, costs)
    ways = with_recompute(way, 0.2, 0.7) | to_fit(way, 0.2, 0.7, limit) | with_copies(way, time=0.1)
    for objective in ("sync", "span"):
        for name, one in ways.items():
            try:
                found = solve(
                    lambda place: costs, {name: one}, 4, limit, objective, Options(5.0, processes=1, stints=1)
                )
            except ValueError:
                continue
            assert found.bound.seconds <= found.seconds * (1 + 1e-9)
            assert not problems(found.plan, found.costs, limit)


def test_the_command_writes_a_plan_with_its_choices(tmp_path: Path, capsys):
    plan, figures = tmp_path / "plan.json", tmp_path / "figures.json"
    words = "-p 4 -m 8 --costs 6.2B --w-share 0.94 --memory 0.3 --placements line --allow recompute --stints 1"
    main(["solve", *words.split(), "--processes", "1", "--plan", str(plan), "--json", str(figures)])
    facts = json.loads(figures.read_text())
    assert facts["placement"].startswith("line recompute again ")
    assert facts["peak_over_p"] <= 0.3
    assert (read_plan(plan).ops[:, 0] == Kind.R).any()
    assert "placement line recompute again" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    ("--allow cut", "--allow cut: say how many layers there are with --layers"),
    ("--allow cutt", "--allow cutt: unknown; did you mean 'cut'?"),
    ("--allow vocabulary", "--allow vocabulary: say with --head and --embedding"),
    ("--head -1", "--head -1: times are finite and not negative"),
    ("--layers 8 --costs nothing.json", "nothing.json"),
    ("--layers 0", "layers=0; give 1 or more"),
    ("--allow cut --layers 3 --placements line", "3 layers do not fill 4 stages; take fewer chunks"),
    ("--placements 0:1:2", "--placements 0:1:2: give stages to all ranks, 0 to 3"),
])  # fmt: skip
def test_wrong_choices_are_one_line(words, message, penstock):
    code, _, err = penstock(f"solve -p 4 -m 8 {words}")
    assert code == 2
    assert message in err.replace(os.linesep, " ")
