"""Runs on this machine's CPU, predicted from its calibration alone. Wide margins: other programs run here too."""

import json
import os
import statistics
import subprocess
import sys
from importlib.resources import files

import pytest
import torch

from penstock.calibrate.bench import blocks
from penstock.calibrate.bench.pieces import Machine
from penstock.calibrate.cluster_file import cluster_file
from penstock.calibrate.measure import measure
from penstock.calibrate.settings import Settings
from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.micro import Rank

pytestmark = pytest.mark.slow
MODEL = files("penstock") / "data" / "models" / "tiny-llama.json"
BUSY = 1.0
"""Other processes that ran in the last minute, from which on steps say nothing."""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """This machine as it was just calibrated."""
    folder = tmp_path_factory.mktemp("calibrated")
    parts = ("launch", "memory", "block", "attention", "matmul", "collective")
    rows = measure(folder, Settings(device="cpu", ranks=2, seconds=50.0, parts=parts))
    (folder / "here.toml").write_text(cluster_file(rows, "here"))
    return Cluster.read(folder / "here.toml")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setup(**changes):
    return Setup(**({"seq": 256, "batch": 8, "precision": "fp32"} | changes))


@pytest.mark.usefixtures("one_thread")
def test_blocks_of_the_default_model_take_what_is_predicted(here):
    """By the clock of the process: none of these sizes was calibrated."""
    model, machine = read_architecture(str(MODEL)), Machine.of(torch.device("cpu"), 0, 1)
    machine.timer.target_s = 0.5
    part = Rank(model, here, setup(), stack("penstock")).parts[model.blocks[0]]
    shape = blocks.Blocks(hidden=192, inner=384, heads=6, kv_heads=2, seq=256, batch=1, layers=4)
    (_, forward_s), (_, backward_s) = blocks._run(machine, shape)
    both_s = 4 * (part.f_s + part.i_s + part.w_s)
    print(f"blocks predicted {both_s * 1e3:.1f} ms, measured {(forward_s + backward_s) * 1e3:.1f} ms")
    assert both_s == pytest.approx(forward_s + backward_s, rel=0.3)
    assert 4 * part.f_s == pytest.approx(forward_s, rel=0.4)


@pytest.mark.parametrize("changes", [{"pp": 2}, {"pp": 1}, {"pp": 2, "schedule": "zb-h1"}])
def test_steps_of_the_default_run_take_what_is_predicted(here, tmp_path, changes):
    if os.getloadavg()[0] > BUSY + here.devices:  # the calibration before was busy itself
        pytest.skip("other programs run here: a step takes as long as they let it")
    flags = ["--ranks", changes["pp"], "--schedule", changes.get("schedule", "1f1b"), "--steps", 25]
    flags += ["--held-out-sequences", 0, "--checkpoint-every", 0, "--out", tmp_path / "run"]
    subprocess.run([sys.executable, "-m", "penstock", "run", *map(str, flags)], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured_s = statistics.median([row["step_s"] for row in rows if "step_s" in row][5:])
    found = predict(read_architecture(str(MODEL)), here, setup(**changes), stack("penstock"))
    print(f"steps {changes} predicted {found.seconds * 1e3:.0f} ms, measured {measured_s * 1e3:.0f} ms")
    assert found.seconds == pytest.approx(measured_s, rel=0.25)
