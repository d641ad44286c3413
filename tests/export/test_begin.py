"""Plans that begin with a file of another framework: its setup beside the best, and what to change."""

from dataclasses import replace

import pytest

from penstock import improve
from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.export.begin import begin
from penstock.export.frameworks import export
from penstock.export.read import read_file
from penstock.predict import predict
from penstock.search.improve import changes_to

MODEL = "--num-layers 16 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048"
SCRIPT = f"""#!/bin/bash
TP=4
PP=${{PP:-2}}
WORLD=$(( 8 * 1 ))
MODEL_ARGS=(
    {MODEL}
    --swiglu --bf16   # precision
)
PARALLEL="--tensor-model-parallel-size $TP \\
    --pipeline-model-parallel-size ${{PP}}"
torchrun --nproc_per_node 8 --nnodes 1 pretrain_gpt.py ${{MODEL_ARGS[@]}} $PARALLEL \\
    --micro-batch-size 1 --global-batch-size 64 --recompute-granularity full --recompute-method uniform
"""
FEW = {"cp": 1, "micro": [1, 2], "schedule": ["1f1b", "interleaved"]}


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "train.sh"
    file.write_text(SCRIPT)
    return file


def test_the_file_s_setup_stands_beside_the_best_and_changes_lead_there(script):
    found = improve(script, "dgx-h100:1", fix=FEW)
    mine, best = found.mine, found.planned.best
    assert (mine.setup.tp, mine.setup.pp, mine.setup.dp, mine.setup.recompute) == (4, 2, 1, "full")
    assert best.seconds < mine.seconds
    assert found.changes[-1].after.seconds == pytest.approx(best.seconds, rel=1e-9)
    said = " ".join(change.said for change in found.changes)
    assert "recompute=none" in said
    was = " ".join(change.was for change in found.changes)
    assert "recompute=full" in was
    assert all(change.after.setup.devices == 8 for change in found.changes)
    times = [mine.seconds, *(change.after.seconds for change in found.changes)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("flag", "again"), [("--recompute-activations", ("attention.core",)), ("--checkpoint-activations", "full")]
)
def test_short_words_for_what_is_made_again_are_read(script, flag, again):
    script.write_text(SCRIPT.replace("--recompute-granularity full --recompute-method uniform", flag))
    read = read_file(script, 8)
    assert (read.fields["recompute"], read.unread) == (again, ())


def test_the_first_change_is_the_one_that_saves_most(script):
    cluster = Cluster.read("dgx-h100:1")
    begun = begin(read_file(script, 8), str(script), cluster)
    space, mine = begun.space(FEW), begun.mine()
    slower = replace(mine, setup=replace(mine.setup, recompute="none", sp=True))
    assert changes_to(space, mine, slower, 0.05) == ()
    best = replace(slower, seconds=0.0)
    (first, second) = changes_to(space, mine, best, 0.05)
    alone = {}
    for said, fields in (("recompute=none", {"recompute": "none"}), ("sp=1", {"sp": True})):
        alone[said] = predict(begun.model, cluster, replace(mine.setup, **fields), begun.stack).seconds
    assert first.said == min(alone, key=alone.get)
    assert {first.said, second.said} == set(alone)
    assert first.after.seconds == pytest.approx(alone[first.said])
    assert first.why.startswith(f"{alone[first.said] / mine.seconds - 1:+.1%} step time")


def test_what_is_not_searched_is_as_the_file_has_it(script):
    script.write_text(SCRIPT.replace("--bf16", "--fp16 --optimizer sgd"))
    begun = begin(read_file(script, 8), str(script), Cluster.read("dgx-h100:1"))
    assert (begun.space().base.precision, begun.space().base.optimizer) == ("fp16", "sgd")
    assert begun.space("precision=bf16").base.precision == "bf16"
    found = improve(script, "dgx-h100:1", fix=FEW | {"tp": 4, "pp": 2})
    assert found.planned.best.setup.precision == "fp16"


def test_on_other_devices_data_parallelism_takes_them_all(script):
    begun = begin(read_file(script, 16), str(script), Cluster.read("dgx-h100:2"))
    assert begun.setup.devices == 16
    assert begun.notes == (f"{script} is for 8 devices, dgx-h100:2 has 16; dp takes them all",)


def test_arguments_win_over_the_file(script):
    begun = begin(
        read_file(script, 8), str(script), Cluster.read("dgx-h100:1"), "llama-3-8b", "nemo", {"seq": 4096, "batch": 32}
    )
    assert (begun.model.name, begun.stack.name, begun.setup.seq, begun.setup.batch) == ("llama-3-8b", "nemo", 4096, 32)


@pytest.mark.parametrize("name", ["deepspeed:ds.json", "torchtitan:titan"])
def test_each_framework_s_file_begins_a_plan(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cluster = Cluster.read("dgx-h100:1")
    setup = Setup(seq=4096, batch=64, micro=1, dp=8, zero=3, recompute="full", precision="bf16")
    export(name, model_of("llama-3-8b"), cluster, setup)
    file = tmp_path / ("ds.json" if name.startswith("deepspeed") else "titan/train.toml")
    found = improve(file, cluster, model="llama-3-8b", seq=4096, fix={"cp": 1, "pp": 1, "micro": [1, 2]}, top=1)
    assert found.mine.setup.zero == 3
    assert found.mine.setup.devices == 8
    assert found.planned.best.seconds <= found.mine.seconds or found.mine.headroom < 0.05


@pytest.mark.parametrize(
    ("text", "batch"),
    [
        ('{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4, "bf16": {"enabled": true}}', 64),
        ('{"train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "bf16": {"enabled": "auto"}}', None),
    ],
)
def test_a_batch_of_deepspeed_follows_from_the_devices_or_is_asked_for(text, batch, tmp_path):
    file, cluster = tmp_path / "ds.json", Cluster.read("dgx-h100:1")
    file.write_text(text)
    read = read_file(file, 8)
    assert read.fields.get("batch") == batch
    if batch is None:
        with pytest.raises(ValueError, match="--batch is missing, and"):
            begin(read, str(file), cluster, "llama-3-8b", None, {"seq": 4096})
    begun = begin(read, str(file), cluster, "llama-3-8b", None, {"seq": 4096, "batch": 32})
    assert (begun.setup.batch, begun.setup.dp) == (32, 8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SCRIPT.replace("--hidden-size 2048", ""), "--model is missing"),
        (SCRIPT.replace("TP=4", ""), r"--tensor-model-parallel-size \$TP is no whole number"),
        (SCRIPT.replace("TP=4", "TP=3"), "tp=3 times pp=2 does not divide 8 devices"),
        (
            SCRIPT.replace("--micro-batch-size 1", "--micro-batch-size 3"),
            "batch=64 is no multiple of dp=1 times micro=3",
        ),
        (SCRIPT.replace("--seq-length 2048", ""), "--seq is missing, and .*train.sh does not say it"),
        ("echo hello", "is it a launch script"),
        (SCRIPT + "'", "quotation"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text, says, tmp_path):
    file = tmp_path / "train.sh"
    file.write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        improve(file, "dgx-h100:1", fix=FEW)
    assert "\n" not in str(error.value)


def test_files_of_accelerate_are_not_read(tmp_path):
    file = tmp_path / "fsdp.yaml"
    file.write_text("distributed_type: FSDP\n")
    with pytest.raises(ValueError, match=r"fsdp.yaml: YAML is not read; give a torchtitan or job TOML"):
        read_file(file, 8)
