"""The command ``penstock validate``."""

import csv
import json
import time
from pathlib import Path

import pytest

from penstock.calibrate.rows import read_rows
from penstock.calibrate.shipped import runs_file

KEYS = {
    *("id", "source", "device", "framework", "model"),
    *("predicted_seconds_per_iter", "predicted_seconds_interval", "predicted_peak_mem_gb", "predicted_fits"),
    *("memory_counts", "predicted_device_mem_gb"),
    *("predicted_tokens_per_s_per_device", "predicted_tflops_per_device", "predicted_mfu", "flops_convention"),
    *("measured_seconds_per_iter", "measured_peak_mem_gb", "measured_tflops_per_device", "measured_fits"),
    "measured_tokens_per_s_per_device",
    *("time_error", "memory_error", "tflops_error", "inside_interval", "strict_time", "strict_mem"),
    *("parts_s", "memory_gb", "guessed", "why_not", "unread"),
}
SOURCES = ("MosaicML", "Zero Bubble", "SimuMax")


@pytest.fixture(scope="module")
def some():
    """Every eighth row of three sources, those that did not fit, and one that cannot be predicted."""
    rows = [row for row in read_rows(runs_file()) if row["source_title"].startswith(SOURCES)][::8]
    rest = [row for row in read_rows(runs_file()) if row["set"] == "oom_constraint" or row["id"] == "R00077"]
    lora = next(row for row in read_rows(runs_file()) if row["task"] == "lora")
    return [*rows, *rest, lora, lora | {"device": "Z9000"}]


def table(path, rows):
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def report(penstock, path, *words):
    out = path.parent / "out.json"
    code, text, err = penstock(["validate", path, "--json", out, *words])
    assert (code, err) == (0, "")
    return json.loads(out.read_text(), parse_constant=pytest.fail), text


def test_every_row_and_every_summary_is_written(penstock, tmp_path, some):
    found, text = report(penstock, table(tmp_path / "runs.csv", some))
    assert [row["id"] for row in found["rows"]] == [row["id"] for row in some]
    for row in found["rows"]:
        assert row.keys() == KEYS
        assert (row["predicted_seconds_per_iter"] is None) == bool(row["why_not"])
    assert "'Z9000' is no node or device" in found["rows"][-1]["why_not"]
    everything = found["summaries"]["all"]["all"]
    assert everything["rows"] == len(some)
    assert everything["predicted"] == sum(not row["why_not"] for row in found["rows"])
    assert set(found["summaries"]) == {"all", "source", "device", "framework"}
    assert {"llm-foundry", "zero-bubble", "megatron-core"} <= {*found["summaries"]["framework"]}
    for name in found["summaries"]["device"]:
        assert f" {name} " in text


def test_the_page_names_every_key(penstock, tmp_path, some):
    found, _ = report(penstock, table(tmp_path / "runs.csv", some[:1]))
    page = (Path(__file__).parent.parent / "docs" / "predict.md").read_text()
    everything = found["summaries"]["all"]["all"]
    assert not [key for key in {*KEYS, *found["summaries"], *everything, *everything["time"]} if f"`{key}`" not in page]


@pytest.mark.slow
def test_the_shipped_table_is_predicted_within_half_a_minute(penstock, tmp_path):
    begun = time.process_time()
    code, _, err = penstock(["validate", "--json", tmp_path / "all.json"])
    assert (code, err) == (0, "")
    assert time.process_time() - begun < 30
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert len(rows) == len(read_rows(runs_file()))
    assert sum(row["predicted_seconds_per_iter"] is not None for row in rows) > 0.95 * len(rows)
    assert not [row["why_not"] for row in rows if "breaks" in row["why_not"]]


def test_figures_of_the_json_agree_among_themselves(penstock, tmp_path, some):
    found, _ = report(penstock, table(tmp_path / "runs.csv", some))
    given = {row["id"]: row for row in some}
    seen = 0
    for row in found["rows"]:
        if row["why_not"]:
            continue
        cells, seconds = given[row["id"]], row["predicted_seconds_per_iter"]
        tokens = float(cells["seq_len"]) * float(cells["global_batch"]) / float(cells["devices"])
        assert row["predicted_tokens_per_s_per_device"] == pytest.approx(tokens / seconds)
        assert sum(row["parts_s"].values()) == pytest.approx(seconds)
        assert sum(row["memory_gb"].values()) == pytest.approx(row["predicted_peak_mem_gb"])
        low, high = row["predicted_seconds_interval"]
        assert low < seconds < high
        if row["measured_seconds_per_iter"]:
            assert row["time_error"] == pytest.approx(seconds / row["measured_seconds_per_iter"] - 1)
            assert row["inside_interval"] == (low <= row["measured_seconds_per_iter"] <= high)
        if cells["peak_mem_gb"]:
            seen += 1
            assert row["memory_error"] == pytest.approx(row["predicted_peak_mem_gb"] / float(cells["peak_mem_gb"]) - 1)
    assert seen >= 10


def test_rows_alone_say_what_the_summaries_do(penstock, tmp_path, some):
    import numpy as np

    found, _ = report(penstock, table(tmp_path / "runs.csv", some))
    errors = [abs(row["time_error"]) for row in found["rows"] if row["time_error"] is not None and row["strict_time"]]
    time = found["summaries"]["all"]["all"]["time"]
    assert (time["n"], time["median"]) == (len(errors), pytest.approx(np.median(errors)))
    assert time["p90"] == pytest.approx(np.quantile(errors, 0.9))


def test_worst_rows_are_opened_up(penstock, tmp_path, some):
    found, text = report(penstock, table(tmp_path / "runs.csv", some), "--worst", "2")
    factors = {
        row["id"]: max(1 + row["time_error"], 1 / (1 + row["time_error"]))
        for row in found["rows"]
        if row["time_error"] is not None and row["strict_time"]
    }
    worst = sorted(factors, key=factors.get, reverse=True)[:2]
    assert [name for name in worst if f"\n{name}: " in text]
    assert text.count("  setup      ") == 2
    assert text.count("  of it      ") == 2
    _, text = report(penstock, tmp_path / "runs.csv", "--worst", "0")
    assert "  setup      " not in text


def test_tasks_with_several_setups_name_the_fastest_and_the_picked(penstock, tmp_path):
    rows = [row for row in read_rows(runs_file()) if row["source_title"].startswith("BigScience BLOOM")]
    found, text = report(penstock, table(tmp_path / "runs.csv", rows), "--regret", "--worst", "0")
    times = {row["id"]: row for row in found["rows"]}
    for one in found["choices"]:
        assert len(one["ids"]) > 1
        assert one["picked"] == min(one["ids"], key=lambda name: times[name]["predicted_seconds_per_iter"])
        measured = {name: times[name]["measured_seconds_per_iter"] for name in one["ids"]}
        assert one["fastest"] == min(measured, key=measured.get)
        assert one["regret"] == pytest.approx(measured[one["picked"]] / measured[one["fastest"]] - 1)
        assert (f" {one['picked']}: " in text) == (one["regret"] > 0)
    regrets = [one["regret"] for one in found["choices"]]
    everything = found["summaries"]["all"]["all"]
    assert (everything["choices"], everything["regret"]) == (len(regrets), pytest.approx(sum(regrets) / len(regrets)))
    wrong = sum(regret > 0 for regret in regrets)
    assert text.count("% slower: ") == wrong > 0
    assert (
        f"of {len(regrets)} tasks with several setups, the predicted best is the fastest in {len(regrets) - wrong}"
        in text
    )


def test_one_source_and_unsure_rows(penstock, tmp_path, some):
    rows = [row | {"strict_time": "0"} for row in some if "MosaicML" in row["source_title"]] + some[-1:]
    strict, _ = report(penstock, table(tmp_path / "runs.csv", rows), "--source", "mosaicml")
    loose, _ = report(penstock, tmp_path / "runs.csv", "--source", "mosaicml", "--no-strict")
    assert len(strict["rows"]) == len(loose["rows"]) == len(rows) - 1
    assert strict["summaries"]["all"]["all"]["time"] is None
    assert loose["summaries"]["all"]["all"]["time"]["n"] == len(rows) - 1


def test_a_table_with_five_columns_and_spoilt_cells(penstock, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "model_name,device,devices,seq_len,global_batch,seconds_per_iter\n"
        "llama-3-8b,H100,8,4096,64,11\n"
        "llama-3-8b,H100,eight,4096,64,11\n"
        "llama-3-8b,H100,8,4096,64,soon\n"
        "llama-3-8b,Z9,8,4096,64,11\n"
        ",,,,,\n"
        "llama-3-8b,H100,8,4096,64,nan\n"
    )
    found, text = report(penstock, path)
    reasons = [row["why_not"] for row in found["rows"]]
    assert [bool(reason) for reason in reasons] == [False, True, False, True, True, False]
    assert found["rows"][2]["unread"] == "seconds_per_iter='soon' is no number"
    assert any("framework" in guess for guess in found["rows"][0]["guessed"])
    assert found["rows"][0]["time_error"] is not None
    assert "not compared, 1 row: devices='eight' is no number" in text


def test_the_picture(penstock, tmp_path, some):
    path = tmp_path / "errors.png"
    code, _, err = penstock(["validate", table(tmp_path / "runs.csv", some[:6]), "--png", path])
    assert (code, err) == (0, "")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nothere.csv", "nothere.csv: No such file"),
        ("runs.csv --source Mosaik", "--source Mosaik: no title of a source in runs.csv holds this"),
        ("runs.csv --worst -1", "--worst -1 is too small; use 0 or more"),
        ("runs.csv --png a.gif", "--png a.gif: pictures end in .png or .svg"),
        ("runs.csv --json /nowhere/a.json", "the folder /nowhere does not exist"),
        ("empty.csv", "empty.csv holds no runs"),
        ("other.csv", "other.csv has no column model_name, device, devices, seq_len, global_batch"),
        ("unmeasured.csv --png a.png", "no row has both a measured and a predicted figure"),
        (".", "Is a directory"),
    ],
)
def test_errors_are_one_line(penstock, tmp_path, monkeypatch, some, words, says):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "runs.csv", some[:2])
    head = "model_name,device,devices,seq_len,global_batch\n"
    (tmp_path / "empty.csv").write_text(head)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "unmeasured.csv").write_text(f"{head}llama-3-8b,H100,8,1024,8\n")
    code, _, err = penstock(f"validate {words}")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
