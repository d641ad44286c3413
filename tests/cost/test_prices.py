"""What is behind --costs: numbers, profiles, files."""

import json

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.cost import pricing, profiles, whole_bytes
from penstock.schedules import SCHEDULES

PLACES = [Placement.loop(4), Placement.loop(4, 2), Placement.vee(4), Placement.both_ways(4), Placement.both_ways(4, 2)]


def file_of(tmp_path, data):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(data))
    return str(file)


def per_rank_s(costs, placement, kind=Kind.F):
    """Seconds of each rank for one micro-batch of the first chain."""
    first = [s for s, chain in enumerate(placement.chain_of) if chain == 0]
    return np.bincount([placement.rank_of[s] for s in first], costs.seconds[kind, first]).tolist()


@pytest.mark.parametrize("name", ["6.2B", "6.2b", "6.2B-m24"])
def test_a_profile_is_its_four_numbers(name):
    place = Placement.vee(8)
    found, numbers = pricing(name).on(place), pricing("29.718,29.444,19.927,0.527").on(place)
    assert found.to_dict() == numbers.to_dict()


def test_profiles_of_a_model_differ_by_micro_batches_and_state_their_sizes():
    found = profiles()
    assert {one.micros for name, one in found.items() if name.startswith("28.3B")} == {96, 128, 256}
    assert {one.ranks for one in found.values()} == {None, 8, 16, 32}
    assert len({one.numbers for one in found.values()}) == len(found) == 13


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.rank_of))
def test_a_rank_takes_its_time_whatever_its_chunks(tmp_path, place):
    data = {"per": "rank", "F": [1, 1, 1, 1.6], "I": 1, "W": [0.5, 0.5, 0.5, 0.9], "link": 0.25}
    found = pricing(file_of(tmp_path, data)).on(place)
    assert per_rank_s(found, place) == pytest.approx([1, 1, 1, 1.6])
    assert per_rank_s(found, place, Kind.B) == pytest.approx([1.5, 1.5, 1.5, 1.9])
    assert found.hop_s[0].tolist() == [0, 0.25, 0.25, 0.25]
    assert whole_bytes(place, found) == pytest.approx(4)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.rank_of))
def test_layers_go_in_order_and_the_head_on_the_last_part(tmp_path, place):
    parts = max(place.part_of) + 1
    data = {"per": "layer", "layers": 16, "F": 1, "I": 1, "W": 1, "first": {"F": 0.5}, "last": {"F": 3, "W": 2}}
    found = pricing(file_of(tmp_path, data)).on(place)
    each = [16 / parts] * parts
    each[0] += 0.5
    each[-1] += 3
    assert found.seconds[Kind.F].tolist() == [each[part] for part in place.part_of]
    assert found.seconds[Kind.B].sum() == pytest.approx((2 * 16 + 2) * place.chains)


def test_lists_of_layers_add_up_where_stages_hold_several(tmp_path):
    data = {"per": "layer", "F": [1, 2, 3, 4], "I": [0, 0, 0, 1], "W": 1, "saved_bytes": [8, 8, 8, 16]}
    found = pricing(file_of(tmp_path, data), 0.5).on(Placement.loop(2))
    assert found.seconds[[Kind.F, Kind.I, Kind.W]].tolist() == [[3, 7], [0, 1], [2, 2]]
    assert (found.saved_bytes.tolist(), found.w_share.tolist()) == ([16, 24], [0.5, 0.5])
    assert whole_bytes(Placement.loop(2), found) == 40


@pytest.mark.parametrize("place", [Placement.loop(4), Placement.both_ways(4)], ids=["loop", "both ways"])
def test_costs_as_written_by_a_run_come_back(tmp_path, place):
    costs = Costs.uniform(Placement.loop(4), 1, 2, 3, 0.5, 0.9).with_seconds(Kind.F, 3, 7.0)
    found = pricing(file_of(tmp_path, costs.to_dict())).on(place)
    assert found.seconds[Kind.F].tolist() == [costs.seconds[Kind.F, part] for part in place.part_of]
    assert found.w_share.tolist() == [0.9] * place.stages


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_per_rank_fit_every_schedule(tmp_path, name):
    file = file_of(tmp_path, {"per": "rank", "F": [1, 2, 1, 1], "I": 1, "W": 1})
    found = SCHEDULES[name]
    place = found.placement(4, found.least_chunks(4, 8))
    assert per_rank_s(pricing(file).on(place), place) == pytest.approx([1, 2, 1, 1])


GOOD = {"per": "rank", "F": 1, "I": 1, "W": 1}
LAYERS = GOOD | {"per": "layer", "layers": 8}
WRONG = [
    (GOOD | {"lnik": 1}, "unknown key 'lnik'; did you mean 'link'?"),
    (GOOD | {"per": "chunk"}, '"per" is \'chunk\'; it must be "rank" or "layer"'),
    ({"F": 1, "I": 1, "W": 1}, '"per" is None'),
    ({"per": "rank", "F": 1, "I": 1}, 'lacks "W"; give F, I and W'),
    (GOOD | {"F": -1}, '"F" is -1; figures are finite numbers, not negative'),
    (GOOD | {"F": "fast"}, "\"F\" is 'fast'; figures are finite"),
    (GOOD | {"I": []}, '"I" is []'),
    (GOOD | {"layers": 8}, '"layers" is for times per layer'),
    (GOOD | {"w_share": 2}, '"w_share" is 2; a share lies between 0 and 1'),
    (GOOD | {"F": [1, 2]}, '"F" holds 2 numbers, and there are 4 ranks; give 4'),
    (GOOD | {"link": [[0, 1], [1, 0]]}, '"link" has shape (2, 2); give one number, or a row per rank with 4 each'),
    (LAYERS | {"layers": 6}, "6 layers do not go evenly on 4 stages; take 1, 2, 3, 6 stages"),
    (LAYERS | {"layers": 0}, '"layers" is 0; give a whole number'),
    (LAYERS | {"F": [1, 2, 3]}, "numbers of layers differ: {'F': 3, 'layers': 8}"),
    (LAYERS | {"last": {"G": 1}}, "\"last\" is {'G': 1}; write times on top of the layers"),
    ({"per": "layer", "F": 1, "I": 1, "W": 1}, "say how many layers there are"),
    ({"seconds": 1, "saved_bytes": [1]}, "holds no costs as Costs.to_dict writes them"),
    ({"seconds": {"F": [1]}}, "the costs lack the key 'saved_bytes'"),
    (
        Costs.uniform(Placement.loop(2)).to_dict(),
        "holds times of 2 stages on 2 ranks, this placement has 4",
    ),
    (Costs.uniform(Placement.loop(4, 2)).to_dict(), "holds times of 8 stages on 4 ranks, this placement has 4 on 4"),
    ([1, 2], "holds no JSON object; write"),
]


@pytest.mark.parametrize(("data", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_files_get_wrong_is_named(tmp_path, data, says):
    file = file_of(tmp_path, data)
    with pytest.raises(ValueError, match=r"costs\.json: ") as caught:
        pricing(file).on(Placement.loop(4))
    assert says in str(caught.value)


def test_files_that_are_not_json_and_shares_said_twice_are_named(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="malformed JSON at line 1, column 2"):
        pricing(str(file))
    with pytest.raises(ValueError, match=r"--w-share 0\.5: .* says w_share too; leave one out"):
        pricing(file_of(tmp_path, GOOD | {"w_share": 1}), 0.5)
