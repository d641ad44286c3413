"""Fits to measured runs: runs that predictions made with known constants are fitted back to these constants."""

import csv
import dataclasses
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from penstock.calibrate.dials import SUSTAINED, of_stack, of_tables, turned
from penstock.calibrate.fit_stacks import groups_of, held_out, problem_of, put, source_of, thinned
from penstock.calibrate.own_runs import fit_own, toml_of
from penstock.calibrate.published import run_of
from penstock.calibrate.run_fit import Problem, step_s, unusable
from penstock.cost.constants import table
from penstock.cost.stack import stack, stacks, tables
from penstock.cost.stack_file import named, read_stacks

TRUTH = {"moves": 2.4, "tp_shown": 0.5, "launch_s": 3e-5, "micro_s": 4e-3}
"""Constants that the runs are made with; they differ from those of the framework that a fit begins as."""
LIKE = "megatron-core"
BEGIN = {"moves": 1.5, "tp_shown": 1.0, "launch_s": 7e-5, "micro_s": 1e-3, "step_s": 0.05}
BASE = dataclasses.replace(stack(LIKE), **BEGIN)
"""Whatever is fitted to published runs."""


def row(number, hidden, tp, pp, micro, micros, **cells):
    sizes = {"layers": 8, "hidden": hidden, "heads": hidden // 128, "vocab": 32000, "seq_len": 2048}
    split = {"tp": tp, "pp": pp, "micro_batch": micro, "global_batch": 8 // tp // pp * micro * micros}
    text = {"id": f"T{number}", "system": "Megatron-LM", "model_name": "GPT", "device": "A100-80GB", "devices": 8}
    return {name: str(value) for name, value in (text | sizes | split | {"sp": 1} | cells).items()}


def made(noise, count=21):
    """Rows of many setups with times that a framework of known constants would take, and some noise."""
    sizes = [
        (hidden, tp, pp, micro, micros)
        for hidden in (512, 2048, 6144)
        for tp, pp in ((1, 1), (2, 1), (8, 1), (1, 4), (2, 2))
        for micro, micros in ((1, 4), (2, 8), (8, 2))
        if hidden // 128 % tp == 0
    ]
    lots = np.random.default_rng(1)
    truth, rows = dataclasses.replace(BASE, **TRUTH), []
    for number, size in enumerate(sizes[:: 2 if count > 12 else 1][:count]):
        run = run_of(row(number, *size), truth)
        seconds = step_s(run, truth) * np.exp(noise * lots.standard_normal())
        rows.append(run.row | {"seconds_per_iter": repr(float(seconds))})
    return rows


def write(path, rows):
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A fit to runs with 1 % noise."""
    return fit_own(write(tmp_path_factory.mktemp("runs") / "runs.csv", made(0.01)), "mine", BASE)


def test_runs_are_fitted_back_to_the_constants_they_were_made_with(own):
    for name, value in TRUTH.items():
        assert own.values[name] == pytest.approx(value, rel=0.2), name


def test_what_runs_say_nothing_about_stays(own):
    """Nothing of these runs goes to experts or over context ranks."""
    assert not {"ep_shown", "cp_shown", "experts_s", "routing", "casts"} & own.values.keys()
    assert {dial.name for dial in own.whole.dials} >= {"routing", *own.values}


def test_a_fit_leaves_the_noise_and_no_more(own):
    fitted = np.abs(own.problem.errors(np.log([*own.values.values()])))
    before = np.abs(own.problem.only([]).errors(np.zeros(0)))
    assert np.mean(before) > 0.07
    assert np.median(fitted) < 0.02
    assert np.median(np.abs(own.left_out)) < 0.03


def test_standard_errors_hold_the_constants(own):
    """The noise is six times smaller than a fit takes it to be, so that each is well inside."""
    deviations = own.problem.deviations(own.found)
    for dial, x, deviation in zip(own.problem.dials, own.found.x, deviations, strict=True):
        if dial.name in TRUTH:
            assert abs(x - np.log(TRUTH[dial.name])) < deviation
            assert deviation < dial.give


def test_the_file_of_a_fit_is_read_as_a_framework(own, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(toml_of(own))
    for text in (str(path), f"{path}:mine"):
        assert named(text).name == "mine"
    found = named(str(path))
    assert {name: getattr(found, name) for name in own.values} == own.values
    assert found.scratch_bytes == stack(LIKE).scratch_bytes
    assert "21 runs of runs.csv" in found.source


def test_few_runs_move_few_constants(tmp_path):
    rows = [one for one in made(0.0) if one["tp"] == "1"][:2]
    found = fit_own(write(tmp_path / "two.csv", rows), "mine", BASE)
    assert len(found.values) <= 2
    assert "tp_shown" not in found.values


def test_wild_rows_move_little(own):
    rows = made(0.01)
    for wild in rows[::9]:
        wild["seconds_per_iter"] = str(3 * float(wild["seconds_per_iter"]))
    found = dataclasses.replace(own.problem, runs=[run_of(one, own.problem.stacks["mine"]) for one in rows]).solved()
    values = dict(zip((dial.name for dial in own.problem.dials), np.exp(found.x), strict=True))
    for name in ("moves", "tp_shown"):
        assert values[name] == pytest.approx(own.values[name], rel=0.25)


def test_rows_that_are_left_out_do_not_count(own):
    """Constants without some rows are those of a fit that never saw them."""
    problem, held = own.problem, np.arange(0, len(own.problem.runs), 3)
    rest = [run for at, run in enumerate(problem.runs) if at not in held]
    alone = dataclasses.replace(problem, runs=rest, weight=np.ones(len(rest))).solved()
    assert np.exp(problem.without(own.found, held)) == pytest.approx(np.exp(alone.x), rel=0.05)


def test_every_shipped_constant_sets_its_takers_alone():
    dials, known = of_tables(), stacks()
    assert {dial.owner for dial in dials} >= {LIKE, "nemo", SUSTAINED}
    for at, dial in enumerate(dials):
        values = [one.value * (1.1 if number == at else 1) for number, one in enumerate(dials)]
        found, shares = turned(dials, values, known)
        changed = {name for name in known if found[name] != known[name]}
        assert changed == set(dial.takers), dial
        moved = {key for key, share in shares.items() if share != table()["levels"][SUSTAINED][key]["level"]}
        assert moved == ({dial.name} if dial.owner == SUSTAINED else set()), dial


def test_frameworks_take_what_they_do_not_set_from_the_one_they_are_like():
    (dial,) = (dial for dial in of_tables() if (dial.owner, dial.name) == (LIKE, "step_s"))
    assert "nemo" in dial.takers
    assert "step_s" not in tables()["nemo"]


def test_sources_count_like_the_root_of_their_runs():
    rows = made(0.0, 12)
    runs = [run_of(one | {"source_title": "a" if at < 9 else "b"}) for at, one in enumerate(rows)]
    problem = problem_of(runs, of_tables())
    assert problem.weight[:9].sum() == pytest.approx(3)
    assert problem.weight[9:].sum() == pytest.approx(3**0.5)
    assert {dial.owner for dial in problem.dials} == {LIKE, SUSTAINED}
    assert all(dial.name.startswith("ampere") for dial in problem.dials if dial.owner == SUSTAINED)


def test_large_sources_are_thinned_the_same_way_each_time():
    runs = [run_of(one) for one in made(0.0, 3)] * 50
    runs.append(run_of(row(999, 2048, 1, 1, 1, 4, source_title="another")))
    rows = thinned(runs)
    assert len(set(rows.tolist())) == len(rows) == 101
    assert rows.tolist() == thinned(runs).tolist()
    assert 150 in rows


def test_left_out_errors_are_those_of_other_constants():
    """Two sources of one framework: each is met by its own constants, and not by those of the other."""
    rows = made(0.0, 20)
    for at, one in enumerate(rows):
        one["source_title"] = "fast" if at % 2 else "slow"
        one["seconds_per_iter"] = str(float(one["seconds_per_iter"]) * (0.8 if at % 2 else 1.25))
    runs = [run_of(one) for one in rows]
    fitted = problem_of(runs, [dial for dial in of_tables() if dial.owner == LIKE]).settled()
    left = held_out(fitted, fitted.solved(turns=4), Problem(runs, fitted.dials, stacks(), np.ones(len(runs))))
    fast = np.array([source_of(run)[0] == "fast" for run in runs])
    assert np.median(left["alone"][fast]) > 0.15
    assert np.median(left["alone"][~fast]) < -0.05
    assert left["alone"] == pytest.approx(left["by title"], abs=1e-9)
    assert {len(rows) for rows in groups_of(runs).values()} == {10}


def test_values_are_put_into_the_files_and_nothing_else(tmp_path):
    for name in ("frameworks.toml", "constants.toml"):
        shutil.copy(Path(str(files("penstock") / "data")) / name, tmp_path)
    before = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir()}
    dials = [dial for dial in of_tables() if dial.name in ("moves", "hopper bf16")]
    put(dials, [0.5 if dial.owner == SUSTAINED else 2.9 for dial in dials], tmp_path)
    for name, lines in before.items():
        after = (tmp_path / name).read_text().splitlines()
        changed = [new for old, new in zip(lines, after, strict=True) if old != new]
        expected = sum((dial.owner == SUSTAINED) == (name == "constants.toml") for dial in dials)
        assert len(changed) == expected
        assert all("= 2.9" in line or "level = 0.5," in line for line in changed)


def test_a_run_says_why_it_cannot_be_fitted_to():
    good = made(0.0, 1)[0]
    assert unusable(run_of(good)) == ""
    assert "strict_time" in unusable(run_of(good | {"strict_time": "0"}))
    assert "DUPLICATE" in unusable(run_of(good | {"flags": "DUPLICATE_OF R1"}))
    assert "neither time" in unusable(run_of(good | {"seconds_per_iter": ""}))
    assert "Z9" in unusable(run_of(good | {"device": "Z9"}))


def test_dials_of_a_framework_are_its_own():
    found = of_stack(stack("nemo"))
    assert {dial.takers for dial in found} == {("nemo",)}
    assert {dial.name for dial in found} >= {"moves", "step_s"}
    assert all(dial.low < dial.high for dial in found)


# -- the command, and files of frameworks


def test_the_command_writes_a_file_that_predictions_take(penstock, tmp_path):
    runs, out = write(tmp_path / "runs.csv", [*made(0.0, 8), row(99, 512, 1, 1, 1, 4)]), tmp_path / "mine.toml"
    code, text, err = penstock(["calibrate", "--runs", runs, "--framework", "ours", "--like", LIKE, "--out", out])
    assert (code, err) == (0, "")
    assert "left out T99: neither time nor tokens per second were measured" in text
    assert "since the runs say too little: " in text
    assert read_stacks(out).keys() == {"ours"}
    code, text, err = penstock(["validate", runs, "--framework", f"{out}:ours", "--worst", "0"])
    assert (code, err) == (0, "")
    sizes = "--tp 2 --seq 2048 --batch 16"
    code, text, err = penstock(f"predict --model gpt2 --cluster a100-80gb:8 {sizes} --framework {out} --json")
    assert (code, err) == (0, "")
    assert '"framework": "ours"' in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--runs RUNS --like megatron-cor", "framework 'megatron-cor' is unknown; did you mean 'megatron-core'?"),
        ("--runs BAD", "has the unknown column 'micro_bach'; did you mean 'micro_batch'?"),
        ("--runs NONE", "holds no run that can be fitted to; T0: neither time nor tokens per second were measured"),
        ("--runs nowhere.csv", "nowhere.csv: No such file or directory"),
        ("--like nemo", "--like says what to fit; give --runs FILE.csv too"),
        ("--runs RUNS --out mine.txt", "mine.txt"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(penstock, tmp_path, words, says):
    good = made(0.0, 2)
    paths = {
        "RUNS": write(tmp_path / "runs.csv", good),
        "BAD": write(tmp_path / "bad.csv", [one | {"micro_bach": "1"} for one in good]),
        "NONE": write(tmp_path / "none.csv", [one | {"seconds_per_iter": ""} for one in good]),
    }
    code, text, err = penstock(["calibrate", *(paths.get(word, word) for word in words.split())])
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert says in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nmove = 1.0", "a has the unknown key 'move'; did you mean 'moves'?"),
        ("[a]\nlike = 'nem'", "a: like='nem' is unknown; did you mean 'nemo'?"),
        ("[a]\nmoves = 'many'", "a: moves='many'"),
        ("[a]\nmoves = 0", "a: moves=0 must be a number above 0"),
        ("[a]\nlaunch_s = -1e-6", "a: launch_s=-1e-06 must be a number from 0"),
        ("[a]\ntp_shown = 1.5", "a: tp_shown=1.5 is a share; use 0 to 1"),
        ("[a]\nkernels = { rop = true }", "a.kernels has the unknown key 'rop'"),
        ("[a]\nkernels = { like = 'fuse' }", "a.kernels: like='fuse' is unknown; did you mean 'fused'?"),
        ("moves = 1.0", "moves is 1.0; it must be a table"),
        ("[a]\n[b]", "holds 2 frameworks; "),
        ("", "holds no framework; write a table"),
        ("[a", "is not TOML"),
    ],
)
def test_wrong_files_of_frameworks_are_one_line(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml") as error:
        named(str(path))
    assert says in str(error.value)


def test_frameworks_of_a_file_by_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[a]\nlike = 'nemo'\nmoves = 2\n[b]\nlike = 'a'\n[b.kernels]\nlike = 'plain'\nrope = true\n")
    found = named(f"{path}:b")
    assert (found.name, found.moves, found.split_experts) == ("b", 2, True)
    assert found.kernels.rope
    assert not found.kernels.norm
    with pytest.raises(ValueError, match="has no framework 'c'"):
        named(f"{path}:c")
    with pytest.raises(ValueError, match=r"nowhere\.toml does not exist"):
        named("nowhere.toml")
