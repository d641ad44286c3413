"""A setup as ``penstock run``'s job file, and the order of its pipeline as PyTorch's CSV."""

from dataclasses import replace

import numpy as np
import pytest
from exported import CLUSTER
from test_round_trip import differing

from penstock.core.config import read_architecture
from penstock.core.jobfile import make_spec
from penstock.core.setup import Setup
from penstock.export import read_csv
from penstock.export.begin import improve
from penstock.export.frameworks import export
from penstock.export.read import read_file
from penstock.schedules import build

SETUP = Setup(seq=256, batch=16, pp=4)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "fp32"},
        {"chunks": 2, "schedule": "interleaved", "micro": 2, "precision": "fp32"},
        {"schedule": "zb-h1", "recompute": "full", "stage_layers": (2, 1, 3, 2), "optimizer": "adam-bf16"},
        {"recompute": ("attention.core",), "offload": 0.5, "vocabulary": 2, "zero": 1},
        {"precision": "fp8", "vocabulary": 3, "offload": ("attention.core",), "sp": True, "imbalance": 1.2},
        {"optimizer": "muon", "graphs": True, "dropout": True, "flash": False, "cp_heads": True, "fused_loss": True},
    ],
)
def test_a_pipeline_is_a_job_and_is_read_again_but_for_what_is_left(fields, tmp_path):
    file, setup = tmp_path / "job.toml", replace(SETUP, **fields)
    left = {each.field for each in export(f"job:{file}", read_architecture("tiny-llama"), CLUSTER, setup)}
    read, spec = read_file(file, setup.devices), make_spec(file, {})
    assert not read.unread
    assert (spec.model, spec.strategy.ranks, spec.strategy.micro_batches) == ("tiny-llama", 4, setup.micros)
    lacking = {name: getattr(setup, name) for name in left if name not in read.fields}
    assert differing(setup, Setup(**read.fields | lacking)) <= left <= {*fields, "optimizer"}
    assert ("optimizer" in left) == (setup.optimizer != read.fields["optimizer"])
    assert all(f"#   {name}: " in file.read_text() for name in left)


def test_a_job_begins_a_plan_on_as_many_devices(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('model = "tiny-llama"\n[job]\nbatch = 16\n[strategy]\nranks = 4\nmicro_batches = 8\n')
    read = read_file(file, 4)
    assert (read.framework, read.model, read.fields["pp"], read.fields["micro"]) == ("penstock", "tiny-llama", 4, 2)
    found = improve(file, "h100:4", fix={"tp": 1, "cp": 1}, top=1)
    assert found.mine.setup.precision == found.planned.best.setup.precision == "fp32"
    assert found.planned.best.seconds <= found.mine.seconds


@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved", "zb-v"])
def test_the_order_of_a_pipeline_is_pytorch_s_csv(name, tmp_path):
    file = tmp_path / "order.csv"
    chunks = 2 if name in ("interleaved", "zb-v") else 1
    setup = Setup(seq=4096, batch=32, pp=4, dp=2, micro=2, schedule=name, chunks=chunks)
    (left,) = export(f"schedule:{file}", read_architecture("llama-3-8b"), CLUSTER, setup)
    assert left.field == "setup"
    plan, again = build(name, 4, 8, chunks), read_csv(file)
    assert again.placement.rank_of == plan.placement.rank_of
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(plan.lanes, again.lanes, strict=True))


@pytest.mark.parametrize(
    ("target", "change", "says"),
    [
        ("job:x.toml", {"tp": 2, "dp": 2}, "this has tp=2, dp=2; fix tp=1,dp=1"),
        ("job:x.txt", {}, "its readers want .toml; write job:x.txt.toml"),
        ("schedule:x.csv", {"pp": 1}, "pp=1 is no pipeline"),
        ("schedule:x", {}, "its readers want .csv"),
        ("schedule:x.csv", {"schedule": "chimera"}, "PyTorch's CSV cannot hold replicas"),
    ],
)
def test_what_they_cannot_say_is_refused(target, change, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        export(target, read_architecture("tiny-llama"), CLUSTER, replace(SETUP, **change))
    assert not [*tmp_path.iterdir()]


def test_a_wrong_job_is_named_once(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('model = "tiny-llama"\n[strategy]\nrank = 4\n')
    with pytest.raises(ValueError, match="unknown key 'rank'") as error:
        read_file(file, 4)
    assert str(error.value).count(str(file)) == 1
