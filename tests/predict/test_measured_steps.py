"""Steps that were measured on one GPU through our own runtime, predicted from a calibration of that GPU.

``bench/gpu_steps.py`` measured them; ``data/clusters/measured-*.toml`` holds what ``penstock calibrate`` measured in
the same hour on the same machine. Constants of the host were taken from the steps of one sequence of 1,024 tokens on
the H100, those of the optimizer from its calibration; traffic of norms and losses from the calibrations of both GPUs,
and what lasts of attention and memory through a step is what it is for all devices of the kind. Nothing was taken from
the steps on the H200.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict.step import predict

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module", params=["h100", "h200"])
def steps(request, tmp_path_factory):
    """Predictions and measurements of a GPU."""
    folder, found = tmp_path_factory.mktemp("models"), []
    head, *rows = map(json.loads, (DATA / f"steps_{request.param}.jsonl").read_text().splitlines())
    cluster = Cluster.read(f"measured-{request.param}")
    for name, keys in head["models"].items():
        (folder / f"{name}.json").write_text(json.dumps(keys))
    for row in rows:
        sizes = {"seq": row["seq"], "micro": row["micro"], "batch": row["micro"] * row["micros"]}
        setup = Setup(**sizes, recompute=row["recompute"] or "none", precision="bf16", optimizer="adam-bf16")
        model = read_architecture(folder / f"{row['model']}.json")
        found.append((predict(model, cluster, setup, stack("penstock-bf16")), row))
    return found


def test_the_time_of_a_step(steps):
    off = np.array([predicted.seconds / row["step_s"] - 1 for predicted, row in steps])
    print(f"median {np.median(np.abs(off)):.3f}, 90 % {np.quantile(np.abs(off), 0.9):.3f}, bias {np.median(off):+.3f}")
    assert len(off) == 23
    assert np.median(np.abs(off)) < 0.045
    assert np.quantile(np.abs(off), 0.9) < 0.1
    assert abs(np.median(off)) < 0.04


def test_the_order_of_steps(steps):
    predicted, measured = (
        np.argsort(np.argsort(each)) for each in zip(*((p.seconds, row["step_s"]) for p, row in steps), strict=True)
    )
    assert np.corrcoef(predicted, measured)[0, 1] > 0.98


def test_the_peak_of_memory(steps):
    """PyTorch's own figure, without the workspace of cuBLAS that this counts and the prediction leaves out."""
    for predicted, row in steps:
        assert predicted.rooms[0].counted("allocated") == pytest.approx(row["peak_allocated_bytes"], rel=0.01)


def test_what_a_forward_keeps(steps):
    for predicted, row in steps:
        if not row["recompute"]:
            kept = predicted.rooms[0].activations + predicted.rooms[0].loss
            assert kept == pytest.approx(row["saved_bytes"], rel=0.15)


def test_intervals_hold_what_was_measured(steps):
    inside = [predicted.low_s <= row["step_s"] <= predicted.high_s for predicted, row in steps]
    assert np.mean(inside) > 0.8
    assert not any(predicted.guessed for predicted, _ in steps)
