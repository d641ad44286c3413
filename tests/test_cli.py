import json
import os
import re
import subprocess
import sys

import pytest

from penstock import api
from penstock.cli.main import main

KEYS = [
    *("name", "ranks", "micros", "slices", "chunks", "costs", "w_share", "passes", "memory", "bound_memory"),
    *("makespan", "span", "bubble_span"),
    *("bubble_sync", "peak_over_p", "peak_by_rank", "lower_bound_span", "lower_bound_makespan", "gap_span"),
    *("gap_makespan", "bound_span_kind", "bound_makespan_kind", "messages", "message_bytes", "weight_copies"),
    *("gradient_equal", "weights", "staleness", "weight_versions", "seconds"),
]


def test_schedule_shows_the_timeline_and_the_bounds(penstock):
    code, out, err = penstock("schedule zb-h1 --ranks 4 --micros 8")
    assert (code, err) == (0, "")
    assert "rank 3" in out
    assert re.search(r"makespan +27 +11\.11 % +27 +0\.00 % +work \+ warm-up", out)
    assert "peak memory 1 of 1F1B's" in out


def test_schedule_writes_the_figures_that_scripts_read(penstock, tmp_path):
    file = tmp_path / "a.json"
    line = f"schedule interleaved --ranks 8 --micros 24 --chunks 2 --costs 29.718,29.444,19.927,0.527 --json {file}"
    assert penstock(line + " --w-share 0.94")[0] == 0
    found = json.loads(file.read_text())
    assert list(found) == KEYS
    assert found["name"] == "interleaved"
    assert (found["ranks"], found["micros"], found["chunks"], found["w_share"]) == (8, 24, 2, 0.94)
    assert found["costs"] == [29.718, 29.444, 19.927, 0.527]
    assert round(found["bubble_span"], 2) == round(found["bubble_sync"], 2) == 13.36
    assert round(found["makespan"], 2) == 2190.76
    assert round(found["peak_over_p"], 3) == 1.438
    assert found["lower_bound_span"] <= found["span"]
    assert 0 < found["seconds"] < 5


def test_files_read_back_and_simulate_alike(penstock, tmp_path):
    csv, first, second = tmp_path / "a.csv", tmp_path / "a.json", tmp_path / "b.json"
    assert penstock(f"schedule zb-h1 --ranks 3 --micros 5 --costs 1,2,1,0.5 --csv {csv} --json {first}")[0] == 0
    assert penstock(f"simulate {csv} --costs 1,2,1,0.5 --json {second}")[0] == 0
    a, b = json.loads(first.read_text()), json.loads(second.read_text())
    same = set(KEYS) - {"name", "seconds"}
    assert {key: a[key] for key in same} == {key: b[key] for key in same}


@pytest.mark.parametrize("suffix", [".json", ".txt"])
@pytest.mark.parametrize("sends", ["none", "overlapped", "blocking"])
def test_simulate_reads_plans_and_adds_sends(penstock, tmp_path, suffix, sends):
    plan = tmp_path / f"plan{suffix}"
    api.show(api.build("1f1b", 2, 4), plan)
    code, out, _ = penstock(f"simulate {plan} --sends {sends} --costs 1,1,1,0.25")
    assert code == 0
    assert "1f1b" in out


def test_forwards_alone_have_no_bounds(penstock, tmp_path):
    plan, figures = tmp_path / "plan.csv", tmp_path / "a.json"
    plan.write_text("0F0,0F1\n1F0,1F1\n")
    assert penstock(f"simulate {plan} --json {figures}")[0] == 0
    assert json.loads(figures.read_text())["lower_bound_span"] is None


@pytest.mark.parametrize("kind", ["html", "png", "svg"])
def test_pictures_are_written(penstock, tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    option = "png" if kind == "svg" else kind
    assert penstock(f"schedule 1f1b --ranks 2 --micros 2 --{option} {file}")[0] == 0
    begins = {"html": b"<!", "png": b"\x89PNG", "svg": b"<?xml"}[kind]
    assert file.read_bytes().lower().startswith(begins.lower())


def test_help_and_version(penstock):
    assert penstock("--version")[1].strip() == "0.1.0"
    code, out, _ = penstock("schedule --help")
    assert code == 0
    assert "--w-share" in out


WRONG = {
    "schedule 1f2b --ranks 4 --micros 8": "unknown schedule '1f2b'; did you mean 1f1b?",
    "schedule 1f1b --rank 4 --micros 8": "Did you mean --ranks instead of --rank?",
    "schedul 1f1b": 'Unknown command "schedul". Did you mean "schedule"?',
    "schedule 1f1b --ranks four --micros 8": 'unable to convert "four" into int',
    "schedule 1f1b --ranks 4.5 --micros 8": "Invalid value for --ranks: 4.5 is no whole number",
    "schedule interleaved --ranks 4 --micros 8 --chunks 0": "chunks=0; it must be at least 1",
    "schedule 1f1b --ranks 4 --micros 8 --jitter 0.1 --seed -1": "seed=-1; give 0 or more",
    "solve --ranks 2 --micros 2 --processes 0": "processes=0; give 1 or more",
    "solve --ranks 2 --micros 2 --stints -1": "stints=-1; give 0 or more",
    "run --json /tmp": "/tmp is a folder; give a file name in it",
    "schedule 1f1b --micros 8": "--ranks requires an argument",
    "schedule 1f1b --ranks 4 --micros 8 --memry 1": "--memory",
    "schedule 1f1b --ranks 0 --micros 8": "ranks=0; it must be at least 1",
    "schedule chimera --ranks 4 --micros 6": "micros=6 is not a multiple of ranks=4; use",
    "schedule 1f1b --ranks 4 --micros 8 --chunks 2": "use chunks=1 or interleaved",
    "schedule 1f1b --ranks 4 --micros 8 --costs 1,1,1": "--costs 1,1,1: give four numbers F,I,W,link",
    "schedule 1f1b --ranks 4 --micros 8 --costs 1": "--costs 1: give four numbers F,I,W,link",
    "schedule 1f1b --ranks 4 --micros 8 --costs 6.2": "--costs 6.2: give four numbers F,I,W,link",
    "schedule 1f1b --ranks 4 --micros 8 --costs 6.3B": "--costs 6.3B: no such profile or file; did you mean '6.2B'?",
    "schedule 1f1b --ranks 4 --micros 8 --costs no.json": "--costs no.json: no such file; profiles are uniform, 1.5B",
    "schedule 1f1b --ranks 4 --micros 8 --sync --span": "--objective is sync or span, not both",
    "schedule 1f1b --ranks 4 --micros 8 --objective sync --span": "--objective is sync or span, not both",
    "schedule 1f1b --all --ranks 4 --micros 8": "--all ranks every schedule; leave out 1f1b or --all",
    "schedule --ranks 4 --micros 8": "name a schedule, for example 1f1b, or --all",
    "schedule --all --ranks 4 --micros 8 --option group=4": "all takes no option",
    "schedule bitpipe --ranks 4 --micros 7": "bitpipe: micros=7 is not a multiple of ranks=4; use 8",
    "peers none.csv": "none.csv: No such file or directory",
    "peers --only v-haf": "--only v-haf: no row has this peer; did you mean 'v-half'?",
    "schedule 1f1b --ranks 4 --micros 8 --costs=-1,1,1,0": "F is -1; times are finite and not negative",
    "schedule 1f1b --ranks 4 --micros 8 --costs nan,1,1,0": "F is nan; times are finite",
    "schedule 1f1b --ranks 4 --micros 8 --w-share 2": "--w-share 2: a share lies between 0 and 1",
    "schedule 1f1b --ranks 4 --micros 8 --memory 0": "--memory 0: give a positive fraction",
    "schedule 1f1b --ranks 4 --micros 8 --png x.bmp": "--png x.bmp: the suffix must be .png or .svg",
    "schedule 1f1b --ranks 4 --micros 8 --json /nowhere/at/all.json": "the folder /nowhere/at does not exist (/ does)",
    "schedule 1f1b --ranks 4 --micros 8 --json /tmp": "/tmp is a folder; give a file name in it",
    "schedule 1f1b --ranks 10000 --micros 100000": "at most 20,000,000 forwards",
    "schedule 1f1b --ranks 100000 --micros 4": "at most 10,000 in one pipeline",
    "solve --ranks 8 --micros 10000000": "at most 20,000,000 forwards",
    "simulate nothing.json": "nothing.json: No such file or directory",
    "simulate plan.yaml": "cannot read a plan from .yaml; choose from .json, .txt, .csv",
    "simulate plan": "cannot read a plan from a file without suffix",
    "simulate /tmp": "/tmp: is a folder; name a plan in it (.json, .txt or .csv)",
    "check /tmp": "/tmp: is a folder; name a plan in it (.json, .txt or .csv)",
    "schedule 1f1b --ranks 4 --micros 8 --csv a.txt": "a.txt: the suffix must be .csv; use a.csv",
    "schedule all --ranks 4 --micros 8 --csv a": "a: the suffix must be .csv; use a.csv",
    "peers --csv a.json": "a.json: the suffix must be .csv; use a.csv",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_users_get_wrong_is_one_line_and_exit_code_2(penstock, line):
    code, out, err = penstock(line)
    assert (code, out) == (2, "")
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1
    assert WRONG[line] in err


@pytest.mark.parametrize(
    ("name", "memory", "says"),
    [
        (
            "gpipe",
            1.0,
            "gpipe peaks at 2 of 1F1B's memory, 1 more than --memory 1; interleaved-zb --chunks 8 fits with 1",
        ),
        ("1f1b", 0.1, "nothing fits less than 0.125, one micro-batch"),
    ],
)
def test_too_much_memory_names_what_fits(penstock, name, memory, says):
    code, _, err = penstock(f"schedule {name} --ranks 8 --micros 16 --memory {memory}")
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("v-auto --memory 0.1", "--memory 0.1 does not hold one micro-batch; v-auto needs at least 0.25"),
        ("zb-1p --memory inf", "--memory inf: give a positive fraction of 1F1B's peak"),
        ("--all --memory inf", "--memory inf: give a positive fraction of 1F1B's peak"),
        ("/tmp:f", "unknown schedule '/tmp:f'; choose one, or FILE.py:FUNCTION"),
    ],
)
def test_limits_and_names_that_cannot_be_say_what_can(penstock, arguments, says):
    code, _, err = penstock(f"schedule {arguments} --ranks 4 --micros 8")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


def test_fewer_micro_batches_are_advised_where_no_other_schedule_fits(penstock, monkeypatch):
    monkeypatch.setattr("penstock.cli.fit.candidates", lambda sizes: iter(()))
    code, _, err = penstock("schedule 1f1b --ranks 8 --micros 16 --memory 0.5")
    assert code == 2
    assert "0.5 more than --memory 0.5; 1f1b fits with --micros 4" in err


def test_what_is_said_to_fit_does(penstock):
    assert penstock("schedule zb-h1 --ranks 8 --micros 16 --memory 1.0")[0] == 0
    assert penstock("schedule 1f1b --ranks 8 --micros 4 --memory 0.5")[0] == 0


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.json", "{", "a.json: malformed JSON at line 1"),
        ("a.json", "[1]", "a.json: not a Penstock plan"),
        ("a.txt", "hello", "a.txt: the plan lacks the line"),
        ("a.csv", "0F0,0Q0\n", "a.csv, row 1, cell 2: '0Q0': unknown kind 'Q'"),
        ("a.csv", "0F0,0B0\n0F0,0B0\n", "a.csv, row 2: 0F0 stands here, but stage 0 has ops in row 1 too"),
        ("a.csv", "0B0,0F0\n", "deadlock: rank 0 waits at 0B0 for 0F0"),
        ("a.csv", "", "a.csv holds no ops"),
    ],
)
def test_files_that_hold_no_legal_plan_are_named(penstock, tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    code, _, err = penstock(["simulate", tmp_path / file])
    assert code == 2
    assert err.count("\n") == 1
    assert says in err


def test_binary_files_are_named(penstock, tmp_path):
    for suffix in (".json", ".txt", ".csv"):
        file = tmp_path / f"a{suffix}"
        file.write_bytes(b"\xff\xfe\x00\x01" * 9)
        code, _, err = penstock(["simulate", file])
        assert (code, err.count("\n")) == (2, 1), err


def test_a_full_disk_leaves_the_old_file(penstock, tmp_path, monkeypatch):
    old = tmp_path / "a.json"
    old.write_text("precious")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = penstock(f"schedule 1f1b --ranks 2 --micros 2 --json {old}")
    assert (code, err) == (2, f"penstock: {old}: No space left on device\n")
    assert old.read_text() == "precious"
    assert os.listdir(tmp_path) == ["a.json"]


def test_devices_are_written_to_not_replaced(penstock):
    code, _, err = penstock("schedule 1f1b --ranks 2 --micros 2 --json /dev/full")
    assert (code, err) == (2, "penstock: /dev/full: No space left on device\n")
    assert not os.path.isfile("/dev/full")


def test_nothing_is_written_if_one_file_cannot_be(penstock, tmp_path):
    good = tmp_path / "a.json"
    assert penstock(f"schedule 1f1b --ranks 2 --micros 2 --json {good} --csv /nowhere/a.csv")[0] == 2
    assert not good.exists()


def test_bugs_keep_their_traceback(monkeypatch):
    from penstock.cli import tries

    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(tries, "simulate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["schedule", "1f1b", "--ranks", "2", "--micros", "2"])


def test_output_that_is_closed_early_is_no_error():
    command = f"{sys.executable} -m penstock schedule gpipe --ranks 64 --micros 64 | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""


def test_check_says_why_a_file_cannot_run(penstock, tmp_path):
    good, stuck, twice = (tmp_path / f"{name}.csv" for name in ("good", "stuck", "twice"))
    good.write_text("0F0,0B0\n1F0,1B0\n")
    stuck.write_text("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")
    twice.write_text("0F0,0B0,0F0\n1F0,1B0\n")
    assert penstock(["check", good])[:2] == (0, f"{good}: legal; 2 ranks, 2 stages, 1 micro-batches, 4 ops\n")
    code, out, _ = penstock(["check", stuck])
    assert code == 1
    assert "move 0F1 before 0B0 on rank 0" in out
    code, out, _ = penstock(["check", twice])
    assert code == 1
    assert "0F0: stands 2 times" in out
    assert penstock(["check", tmp_path / "none.csv"])[0] == 2


def test_check_reads_what_pytorch_lowers_and_names_bad_cells(penstock, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("0UNSHARD,0F0,(0F1;0B0)OVERLAP_F_B,0B1,0REDUCE_GRAD,0RESHARD\n")
    assert penstock(["check", file])[:2] == (0, f"{file}: legal; 1 ranks, 1 stages, 2 micro-batches, 7 ops\n")
    file.write_text("0UNSHARD,0F0,0F1,0B0,0B1,0REDUCE_GRAD\n")
    code, out, _ = penstock(["check", file])
    assert (code, out) == (1, f"{file}: rank 0, 0UNSHARD: no 0RESHARD follows, and the next step would "
                              "gather twice; add it after the stage's last op\n")  # fmt: skip
    file.write_text("0F0,0Q0,0B0\n")
    code, out, _ = penstock(["check", file])
    assert code == 1
    assert out.startswith(f"{file}, row 1, cell 2: '0Q0': unknown kind 'Q'; did you mean ")


def test_all_schedules_are_ranked_by_what_is_asked(penstock, tmp_path):
    figures, table, page = (tmp_path / name for name in ("all.json", "all.csv", "all.html"))
    line = ["schedule", "all", "--ranks", "4", "--micros", "8", "--costs", "3,2,1,0.5", "--memory", "1.2"]
    code, out, _ = penstock([*line, "--objective", "span", "--json", figures, "--csv", table, "--html", page])
    assert code == 0
    found = json.loads(figures.read_text())
    spans = [row["span"] for row in found]
    assert spans == sorted(spans)
    assert all(row["peak_over_p"] <= 1.2 for row in found)
    assert all(row["lower_bound_makespan"] <= row["makespan"] * (1 + 1e-9) for row in found)
    assert {*KEYS, "options"} == set(found[0])
    assert len(table.read_text().splitlines()) == 1 + len(found)
    assert "not gpipe: peaks at 2 of 1F1B's memory" in out
    by_name = {(row["name"], row["chunks"]): row for row in found}
    single = tmp_path / "one.json"
    penstock([*line[:1], "zb-h1", *line[2:], "--json", single])
    assert json.loads(single.read_text())["makespan"] == by_name["zb-h1", 1]["makespan"]
    assert by_name["1f1b", 1]["messages"] == 2 * 8  # an inner rank sends outputs up and gradients down


def test_schedules_without_a_flush_say_so(penstock, tmp_path):
    found = []
    for name in ("pipedream", "1f1b"):
        code, out, _ = penstock(["schedule", name, "--ranks", "4", "--micros", "8", "--json", tmp_path / "one.json"])
        found.append(json.loads((tmp_path / "one.json").read_text()))
        assert (code, "not gradient-equal: weights stashed" in out) == (0, name == "pipedream")
    late, synced = found
    assert [late[key] for key in ("gradient_equal", "weights")] == [False, "stashed"]
    assert [late[key] for key in ("staleness", "weight_versions")] == [[3, 2, 1, 0], [4, 3, 2, 1]]
    assert [synced[key] for key in ("gradient_equal", "weights", "staleness")] == [True, "synced", None]


def test_all_with_too_little_memory_says_why_none_fits(penstock):
    code, _, err = penstock("schedule all --ranks 4 --micros 8 --memory 0.1")
    assert code == 2
    assert err.startswith("penstock: no schedule fits: gpipe peaks at 2 of 1F1B's memory; ")


def test_a_knob_of_a_schedule_is_an_option(penstock, tmp_path):
    figures = tmp_path / "figures.json"
    line = ["schedule", "interleaved", "--ranks", "4", "--micros", "16", "--chunks", "2", "--json", figures]
    peaks = []
    for group in (4, 8):
        assert penstock([*line, "--option", f"group={group}"])[0] == 0
        peaks.append(json.loads(figures.read_text())["peak_over_p"])
    assert peaks[0] < peaks[1]
    assert "interleaved has no option 'groop'; did you mean 'group'?" in penstock([*line, "--option", "groop=4"])[2]
    assert "--option group=x: write NAME=NUMBER" in penstock([*line, "--option", "group=x"])[2]
