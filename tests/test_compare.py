"""penstock schedule --all: the best of every family at the same sizes, and what is beside it."""

import csv
import json

import pytest

from penstock.cli.tries import KNOBS
from penstock.schedules import SCHEDULES
from penstock.schedules.table import options_of


@pytest.fixture
def ranked(penstock, tmp_path):
    """Rows of the JSON and the text of one table."""

    def run(line):
        figures = tmp_path / "all.json"
        code, out, err = penstock([*f"schedule --all {line}".split(), "--json", figures])
        assert (code, err) == (0, "")
        return json.loads(figures.read_text()), out

    return run


def lines_of(out):
    return [line.split() for line in out.splitlines()[1:] if "%" in line]


@pytest.mark.slow
def test_the_flag_means_the_name(ranked, penstock):
    line = "--ranks 2 --micros 4 --costs 6.2B"
    _, out = ranked(line)
    code, named, _ = penstock(f"schedule all {line}")
    assert (code, named) == (0, out)


def test_text_shows_the_best_of_each_schedule_and_files_the_best_of_each_number_of_chunks(ranked):
    rows, out = ranked("--ranks 4 --micros 8")
    pairs = [(row["name"], row["chunks"]) for row in rows]
    assert len(set(pairs)) == len(pairs)
    assert {v for name, v in pairs if name == "interleaved"} == {1, 2, 4, 8}
    assert {v for name, v in pairs if name == "hanayo"} == {2, 4, 8}
    shown = [line[0] for line in lines_of(out)]
    assert sorted(shown) == sorted(SCHEDULES)
    sliced = [name for name in shown if "slices" in options_of(SCHEDULES[name].lane)]
    assert len(sliced) == 3
    assert f"each of k slices of a sequence is taken to cost 1/k, whatever it attends to: {', '.join(sliced)}\n" in out
    best = {}
    for row in rows:
        best.setdefault(row["name"], row["makespan"])
    assert list(best) == shown
    assert f"hold {len(rows) - len(best)} more" in out


def test_knobs_find_a_schedule_that_fits_where_the_default_does_not(ranked):
    rows, out = ranked("--ranks 8 --micros 16 --chunks 2 --memory 0.8")
    found = {row["name"]: row for row in rows}
    assert found["gis"]["options"] == {"group": 4}
    assert found["gis"]["peak_over_p"] == 0.75
    assert "gis group=4" in out
    assert "not gpipe --chunks 2: has one chunk per rank\n" in out
    assert "not breadth-first --chunks 2: peaks at 2 of 1F1B's memory" in out


@pytest.mark.slow
def test_knobs_that_are_tried_make_a_difference(ranked):
    """Of the tried values of each knob, some is the best at some limit."""
    best = set()
    for memory in (0.8, 1.5, 2.5):
        rows, _ = ranked(f"--ranks 4 --micros 12 --memory {memory} --costs 3,3,2,0.5")
        best |= {row["name"] for row in rows if row["options"]}
    assert best == {*KNOBS}


@pytest.mark.slow
def test_span_ranks_otherwise_than_sync(ranked):
    by_span, _ = ranked("--ranks 4 --micros 8 --span")
    by_sync, _ = ranked("--ranks 4 --micros 8 --sync")
    assert [row["span"] for row in by_span] == sorted(row["span"] for row in by_span)
    assert [row["makespan"] for row in by_sync] == sorted(row["makespan"] for row in by_sync)
    assert [row["name"] for row in by_span] != [row["name"] for row in by_sync]


def test_gaps_and_peaks_are_those_of_the_figures_beside_them(ranked):
    rows, _ = ranked("--ranks 2 --micros 4 --costs 3,2,1,0.5 --w-share 0.9")
    for row in rows:
        for what in ("span", "makespan"):
            least = row[f"lower_bound_{what}"]
            assert row[f"gap_{what}"] == pytest.approx(100 * (row[what] / least - 1), abs=1e-6)
            assert row[f"gap_{what}"] >= 0
        assert len(row["peak_by_rank"]) == 2
        assert max(row["peak_by_rank"]) == row["peak_over_p"]
    copies = {row["name"]: row["weight_copies"] for row in rows}
    assert {name: SCHEDULES[name].copies for name in copies} == copies


def test_bytes_sent_are_known_where_the_file_says_their_size(ranked, tmp_path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"per": "layer", "layers": 8, "F": 1, "I": 1, "W": 1, "boundary_bytes": 100}))
    rows, out = ranked(f"--ranks 4 --micros 8 --costs {file}")
    assert "messages  bytes" in out
    assert all(row["message_bytes"] == 100 / row["slices"] * row["messages"] for row in rows)
    assert rows[0]["costs"]["layers"] == 8
    assert {row["name"]: row["messages"] for row in rows if row["chunks"] == 1}["1f1b"] == 2 * 8
    assert "not interleaved --chunks 4" not in out  # its smaller numbers of chunks fit the layers


def test_a_heavy_head_counts_in_times_and_bounds(ranked, tmp_path):
    """A rank with the head works (3 x 8 + 12) on each micro-batch, the other 24."""
    file = tmp_path / "costs.json"
    head = {"F": 4, "I": 4, "W": 4}
    file.write_text(json.dumps({"per": "layer", "layers": 16, "F": 1, "I": 1, "W": 1, "last": head}))
    rows, _ = ranked(f"--ranks 2 --micros 4 --costs {file}")
    one = next(row for row in rows if row["name"] == "1f1b")
    assert one["makespan"] >= 4 * (3 * 8 + 12)
    assert one["lower_bound_makespan"] >= 4 * (3 * 8 + 12)


def test_the_picture_names_every_schedule_shown(ranked, tmp_path):
    file = tmp_path / "all.svg"
    _, out = ranked(f"--ranks 2 --micros 4 --memory 1 --png {file}")
    drawn = file.read_text()
    for line in lines_of(out):
        assert f">{line[0]}" in drawn
    assert ">no order beats this<" in drawn


def test_csv_has_a_value_per_rank_and_no_value_for_what_is_not_known(penstock, tmp_path):
    table = tmp_path / "all.csv"
    assert penstock(f"schedule --all --ranks 3 --micros 6 --csv {table}")[0] == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert all(len(row["peak_by_rank"].split()) == 3 and row["message_bytes"] == "" for row in rows)
    assert {row["options"] for row in rows} > {""}


def test_chunks_left_out_are_the_fewest_that_fit(penstock, tmp_path):
    figures = tmp_path / "one.json"
    for name, fewest in (("zb-v", 2), ("hanayo", 2), ("bitpipe", 2), ("interleaved", 1), ("1f1b", 1)):
        assert penstock(f"schedule {name} --ranks 4 --micros 8 --json {figures}")[0] == 0
        found = json.loads(figures.read_text())
        assert found["chunks"] == fewest * found["weight_copies"]


def test_advice_names_other_numbers_of_chunks_and_knobs_that_do_fit(penstock, tmp_path):
    code, _, err = penstock("schedule 1f1b --ranks 4 --micros 16 --memory 0.76 --costs 6.2B")
    assert code == 2
    advice = err.rpartition("; ")[2].partition(" fits")[0]
    figures = tmp_path / "one.json"
    line = f"schedule {advice} --ranks 4 --micros 16 --memory 0.76 --costs 6.2B --json {figures}"
    assert penstock(line)[0] == 0
    assert json.loads(figures.read_text())["peak_over_p"] <= 0.76


def test_advice_for_a_function_of_one_s_own(penstock, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def early(r, p, m, v):\n    return [(m, 'F'), (m, 'B')]\n")
    code, _, err = penstock(f"schedule {mine}:early --ranks 4 --micros 8 --memory 0.25")
    assert code == 2
    assert "fits with" in err
