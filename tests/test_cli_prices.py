"""Flags that change what ops cost: noise, the ends of the model, slices."""

import json

import pytest

from penstock import api


def test_noise_is_drawn_from_its_seed_and_said(penstock, tmp_path):
    file = tmp_path / "a.json"
    line = f"schedule 1f1b -p 4 -m 8 --jitter 0.1 --slow 2=1.25 --draws 20 --json {file}"
    code, out, _ = penstock(line)
    found = json.loads(file.read_text())
    assert code == 0
    assert "with noise: makespan" in out
    assert found["makespan"] < found["noisy_makespan"] < found["noisy_makespan_p95"]
    assert found["noisy_span"] <= found["noisy_makespan"]
    penstock(line)
    assert json.loads(file.read_text())["noisy_makespan"] == found["noisy_makespan"]
    penstock(line + " --seed 1")
    assert json.loads(file.read_text())["noisy_makespan"] != found["noisy_makespan"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("schedule 1f1b -p 4 -m 8 --slow 2:1.25", "--slow 2:1.25: write RANK=FACTOR, for example 3=1.25"),
        ("schedule 1f1b -p 4 -m 8 --slow 7=2", "rank 7 is slow, but ranks are 0..3"),
        ("schedule 1f1b -p 4 -m 8 --jitter -1", "jitter=-1; give a deviation of 0 or more"),
        ("schedule --all -p 4 -m 8 --jitter 0.1", "all ranks schedules without noise; name the schedule"),
    ],
)
def test_wrong_noise_gets_one_line(penstock, line, says):
    code, _, err = penstock(line)
    assert code == 2
    assert says in err


def makespan_of(penstock, tmp_path, line):
    file = tmp_path / "figures.json"
    code, _, err = penstock(f"{line} --json {file}")
    assert (code, err) == (0, "")
    return json.loads(file.read_text())


def test_a_head_whole_or_split(penstock, tmp_path):
    """1F1B on 4 ranks, 8 micro-batches: the last rank has 3 + 3 x 1.6 of work for each, or all have 3 + 3 x 1.6 / 4."""
    line = "schedule 1f1b --ranks 4 --micros 8 --head 1.6"
    whole, first, second = (makespan_of(penstock, tmp_path, f"{line} --vocabulary {a}") for a in (0, 1, 2))
    assert whole["makespan"] == pytest.approx(8 * 7.8 + 3 * 3)
    assert whole["lower_bound_makespan"] is not None
    assert 8 * 4.2 < second["makespan"] <= first["makespan"] < 0.62 * whole["makespan"]
    assert (first["peak_over_p"], second["peak_over_p"]) == (1.5, 1.25)
    assert first["lower_bound_makespan"] is None  # bounds know nothing of vocabulary passes


def test_simulate_splits_a_plan_from_a_file(penstock, tmp_path):
    from penstock.lower import split_vocabulary

    plan = api.build("zb-h1", ranks=2, micros=4)
    for name, one in (("bare", plan), ("split", split_vocabulary(plan, 1))):
        api.show(one, tmp_path / f"{name}.json")
    ends = "--head 1 --embedding 0.1 --sends overlapped"
    split = makespan_of(penstock, tmp_path, f"simulate {tmp_path}/split.json {ends}")
    asked = makespan_of(penstock, tmp_path, f"simulate {tmp_path}/bare.json --vocabulary 1 {ends}")
    whole = makespan_of(penstock, tmp_path, f"simulate {tmp_path}/bare.json {ends}")
    assert split["makespan"] < whole["makespan"]
    assert asked["makespan"] < whole["makespan"]
    code, _, err = penstock(f"simulate {tmp_path}/split.json --vocabulary 2")
    assert (code, "has the passes of 1 already" in err) == (2, True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("schedule all --ranks 2 --micros 4 --vocabulary 1", "--vocabulary 1: all keeps the ends whole; name the"),
        ("schedule 1f1b --ranks 2 --micros 4 --head -1", "--head -1: times are finite and not negative"),
        ("schedule chimera --ranks 2 --micros 4 --vocabulary 1", "'chimera' has 2 chains of stages"),
    ],
)
def test_ends_that_cannot_be(penstock, line, says):
    code, _, err = penstock(line)
    assert code == 2
    assert says in err


def test_slices_are_priced_as_shares_of_whole_micro_batches(penstock, tmp_path):
    """1F1B's bubble of 3 (F + I + W), a fourth of it; and the same from a file of the plan."""
    first, second, plan = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "plan.json"
    line = "--costs 2,2,1,0 --json"
    assert penstock(f"schedule seq1f1b --ranks 4 --micros 8 --option slices=4 {line} {first}")[0] == 0
    found = json.loads(first.read_text())
    assert (found["micros"], found["slices"], found["makespan"]) == (8, 4, 8 * 5 + 3 * 5 / 4)
    assert found["peak_over_p"] == (4 + 4 - 1) / 4 / 4
    assert found["lower_bound_makespan"] <= found["makespan"]
    api.show(api.build("seq1f1b", 4, 8, slices=4), plan)
    assert penstock(f"simulate {plan} {line} {second}")[0] == 0
    again = json.loads(second.read_text())
    assert {**found, "seconds": 0} == {**again, "seconds": 0}
