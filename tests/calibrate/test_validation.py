"""Measured rows beside predictions, and the figures of many of them, against numbers worked out by hand."""

import dataclasses

import pytest

from penstock.calibrate import validation
from penstock.calibrate.conventions import convention, flops_in, measured_tflops
from penstock.calibrate.published import run_of
from penstock.calibrate.rows import read_rows
from penstock.calibrate.shipped import runs_file
from penstock.calibrate.summaries import choices, errors, spearman, summaries, summary
from penstock.calibrate.validation import compared
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.predict.flops import again_flops, model_flops

ROW = {
    "id": "A",
    "system": "Megatron-LM",
    "model_name": "llama-3-8b",
    "device": "H100-80GB-SXM",
    "devices": "8",
    "seq_len": "4096",
    "global_batch": "64",
    "tp": "2",
    "pp": "1",
    "micro_batch": "1",
}


def one(**cells):
    (found,) = compared([run_of(ROW | cells)])
    return found


def pair(measured, predicted, **cells):
    """A row whose prediction takes so many seconds, within 10 %."""
    row = one(seconds_per_iter=str(measured), **cells)
    figures = dataclasses.replace(row.figures, seconds=predicted, low_s=predicted / 1.1, high_s=predicted * 1.1)
    return dataclasses.replace(row, figures=figures)


def test_a_row_is_predicted_in_the_units_of_tables():
    row = one(seconds_per_iter="10", peak_mem_gb="50", measured_tflops_per_device="400")
    made = row.figures
    assert made.tokens_per_s_per_device == pytest.approx(64 * 4096 / 8 / made.seconds)
    assert row.time_error == pytest.approx(made.seconds / 10 - 1)
    assert row.memory_error == pytest.approx(made.room.counted("allocated") / 2**30 / 50 - 1)
    assert row.tflops_error == pytest.approx(made.tflops / 400 - 1)
    assert made.tflops * 1e12 * made.seconds * 8 == pytest.approx(6 * 8.03e9 * 64 * 4096, rel=0.12)
    assert sum(made.parts.values()) == pytest.approx(made.seconds)
    assert row.inside == (made.low_s <= 10 <= made.high_s)
    assert (row.device, row.framework, row.source) == ("h100-80gb-sxm", "megatron-core", "no source")


def test_time_from_tokens_per_second():
    assert one(tokens_per_s_per_device="8192").measured_s == 64 * 4096 / 8 / 8192
    assert one(seconds_per_iter="", calc_tokens_per_s_per_device="4096").measured_s == 8


def test_a_measured_cell_that_is_no_number_is_named_and_the_row_still_predicted():
    row = one(seconds_per_iter="fast")
    assert (row.unread, row.time_error) == ("seconds_per_iter='fast' is no number", None)
    assert row.figures.seconds > 0


def test_rows_that_cannot_be_predicted_say_why():
    huge = {"global_batch": "99999996", "tp": "8"}, "99,999,996 micro-batches are too many to simulate"
    for cells, says in (
        huge,
        ({"devices": ""}, "no devices"),
        ({"tp": "3"}, "tp=3 does not divide 8"),
        ({"device": "Z1"}, "Z1"),
    ):
        row = one(seconds_per_iter="3", **cells)
        assert row.figures is None
        assert says.lower() in row.why_not.lower()
        assert row.measured_s in (3, None)


def test_a_prediction_that_breaks_hides_no_other_row(monkeypatch):
    whole = validation.predict

    def breaks(model, cluster, setup, stack):
        if setup.batch == 64:
            raise KeyError("lost")
        return whole(model, cluster, setup, stack)

    monkeypatch.setattr(validation, "predict", breaks)
    broken, fine = compared([run_of(ROW), run_of(ROW | {"global_batch": "128"})])
    assert broken.why_not == "the prediction breaks: KeyError('lost')"
    assert fine.figures is not None


def test_equal_setups_are_predicted_once(monkeypatch):
    asked = []
    whole = validation.predict
    monkeypatch.setattr(validation, "predict", lambda *all_: asked.append(1) or whole(*all_))
    rows = list(compared([run_of(ROW | {"seconds_per_iter": str(n)}) for n in (1, 2, 3)]))
    assert len(asked) == 1
    assert [row.measured_s for row in rows] == [1, 2, 3]


def test_what_did_not_fit():
    ran, failed = one(seconds_per_iter="3"), one(status="oom", seconds_per_iter="3", peak_mem_gb="79")
    assert (ran.fitted, failed.fitted, one().fitted) == (True, False, None)
    assert failed.measured_s is failed.measured_gb is None
    assert one(set="oom_constraint").fitted is False
    assert one(seconds_per_iter="OOM").fitted is one(peak_mem_gb="OOM (80 GB)").fitted is False
    assert one(set="room").fitted is None
    assert ran.judged_right == ran.figures.fits
    assert failed.judged_right == (not failed.figures.fits)


@pytest.mark.parametrize(
    ("kind", "flags", "counts"),
    [
        ("", "", "model"),
        ("model", "CAUSAL_FLOPS", "causal"),
        ("model (causal)", "", "causal"),
        ("model (6N + attn full s^2, x3)", "", "model"),
        ("6N", "", "6n"),
        ("hardware", "", "hardware"),
        ("hardware (4x incl. full recompute)", "", "full-recompute"),
        ("hardware (size*4*2*tokens formula)", "", "8n"),
    ],
)
def test_conventions_by_their_words(kind, flags, counts):
    assert convention({"flops_kind": kind, "flags": flags}) == counts


def test_conventions_of_a_gpt_by_the_formula_of_megatron():
    """96 B s L h² (1 + s / 6h + V / 16Lh) with full recompute (arXiv:2104.04473, section 5.1)."""
    L, h, s, V, B = 24, 2048, 2048, 51200, 8
    model, setup = model_of(f"gpt:L={L},h={h},a=16,vocab={V}"), Setup(seq=s, batch=B)
    once, again = (n * B * s * L * h**2 * (1 + s / (6 * h) + V / (n / 6 * L * h)) for n in (72, 96))
    assert flops_in("model", model, setup) == pytest.approx(once, rel=1e-12)
    assert flops_in("full-recompute", model, setup) == pytest.approx(again, rel=1e-12)
    assert flops_in("hardware", model, setup) == flops_in("model", model, setup)
    assert flops_in("causal", model, setup) < flops_in("model", model, setup)
    assert flops_in("6n", model, setup) == 6 * model.parameters * B * s
    again = dataclasses.replace(setup, recompute="full")
    assert flops_in("hardware", model, again) == flops_in("full-recompute", model, setup)
    core = dataclasses.replace(setup, recompute=("attention.core",))
    assert again_flops(model, core, whole=True) == 4 * B * s**2 * h * L
    assert model_flops(model, core) == model_flops(model, setup)


def test_measured_tflops_as_printed_or_from_a_utilization():
    assert measured_tflops({"measured_tflops_per_device": "400", "mfu": "9"}, 1e15) == 400
    assert measured_tflops({"mfu": "40", "peak_dense_tflops_used": "989"}, 1e15) == pytest.approx(395.6)
    assert measured_tflops({"mfu": "0.4"}, 1e15) == pytest.approx(400)
    assert measured_tflops({}, 1e15) is None


@pytest.mark.parametrize(
    ("title", "counts"),
    [
        ("MosaicML llm-foundry", "model"),
        ("NVIDIA DGX Cloud Benchmarking recipes (v25.04.02)", "model"),
        ("NVIDIA Megatron-Bridge performance summary, 26.04 ", "causal"),
        ("BigScience BLOOM tr11-176B chronicles (prequel)", "full-recompute"),
        ("BigScience GPT2 experiments", "8n"),
    ],
)
def test_published_tflops_times_time_are_our_flops(title, counts):
    rows = [row for row in read_rows(runs_file()) if row["source_title"].startswith(title)]
    rows = [row for row in rows if convention(row) == counts and (row["measured_tflops_per_device"] or row["mfu"])]
    found = list(compared(map(run_of, rows[:: max(1, len(rows) // 8)])))
    told = [row for row in found if row.figures]
    ratios = sorted(row.measured_tflops * row.measured_s / row.figures.tflops / row.figures.seconds for row in told)
    assert len(ratios) > 5
    assert ratios[len(ratios) // 2] == pytest.approx(1, abs=0.005)


def test_errors_by_hand():
    found = errors([0.1, -0.3, 0.2, None, -0.1])
    assert (found.n, found.median, found.p90, found.bias) == (4, 0.15, pytest.approx(0.27), 0.0)
    assert errors([None]) is None


def test_rank_correlation_by_hand():
    assert spearman([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]) == pytest.approx(0.9)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [1, 2]) is None


def test_a_summary_by_hand():
    rows = [
        pair(1.0, 1.05, source_title="one"),
        pair(2.0, 1.0, source_title="one", pp="2"),
        pair(4.0, 5.0, source_title="one", global_batch="128"),
        pair(9.0, 1.0, source_title="one", strict_time="0"),
    ]
    found = summary(rows)
    assert (found.rows, found.predicted, found.time.n, found.memory) == (4, 4, 3, None)
    assert (found.time.median, found.time.bias) == (0.25, pytest.approx(0.05))
    assert found.time.p90 == pytest.approx(0.45)
    assert found.spearman == 0.5
    assert (found.regret, found.choices) == (1.0, 1)
    assert found.inside == pytest.approx(1 / 3)
    loose = summary(rows, strict=False)
    assert (loose.time.n, loose.regret) == (4, 1.0)


def test_other_heads_are_another_model_and_a_series_is_compared_with_itself():
    gpt, later = {"model_name": "GPT", "layers": "32", "hidden": "4096"}, {"notes": "series 02-25"}
    said = [{"heads": "32"}, {"heads": "32", "pp": "2"}, {"heads": "16", "pp": "4"}, {"heads": "32", "pp": "4"} | later]
    rows = [pair(1.0, 1.0, **gpt, **cells) for cells in (*said, {"heads": "32"} | later)]
    assert [len(one.rows) for one in choices(rows)] == [2, 2]


def test_choices_are_rows_of_one_task():
    alone = [pair(1.0, 1.0, global_batch="128"), *[pair(measured, 1.0, seq_len="2048") for measured in (1.0, 2.0)]]
    (one,) = choices([pair(3.0, 2.0), pair(2.0, 3.0, pp="2"), *alone])
    assert [row.measured_s for row in one.rows] == [3.0, 2.0]
    assert (one.picked.measured_s, one.fastest.measured_s, one.regret) == (3.0, 2.0, 0.5)


def test_times_that_hardly_differ_are_not_ranked():
    assert summary([pair(1.0, 1.0), pair(1.1, 2.0), pair(1.2, 3.0)]).spearman is None


def test_summaries_by_source_device_and_framework():
    rows = [
        pair(1.0, 1.1, source_title="one"),
        pair(1.0, 1.2, source_title="two"),
        pair(1.0, 1.3, source_title="two", device="A100-80GB", system="my own"),
    ]
    found = summaries(rows)
    assert list(found["source"]) == ["two", "one"]
    assert found["source"]["two"].time.median == pytest.approx(0.25)
    assert {name: each.rows for name, each in found["device"].items()} == {"h100-80gb-sxm": 2, "a100-80gb-sxm": 1}
    assert {name: each.rows for name, each in found["framework"].items()} == {"megatron-core": 2, "my own": 1}
    assert found["all"]["all"].time.n == 3
