"""``penstock predict --export`` and ``--from``."""

import json
import os
import re

import pytest

from penstock.core.job import settings

GPT = "gpt:L=24,h=1024,a=16,vocab=50304"
WORDS = f"predict --model {GPT} --cluster dgx-h100:2 --seq 2048 --batch 64 --micro-batch 2"
SCRIPT = """#!/bin/bash
# --tensor-model-parallel-size 8 in a comment
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NUM_NODES=${NUM_NODES:-2}
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))
TP=2; PP=4
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
    --master_addr $MASTER_ADDR
)
GPT_MODEL_ARGS=(
    --num-layers 24 --hidden-size 1024 \\
    --num-attention-heads 16
    --seq-length 2048
    --max-position-embeddings 2048
    --attention-backend auto # can be flash
)
TRAINING_ARGS="--micro-batch-size 2 --global-batch-size 64 --lr 6.0e-5 --bf16 --clip-grad 1.0"
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py ${GPT_MODEL_ARGS[@]} $TRAINING_ARGS \\
    --tensor-model-parallel-size=2 --pipeline-model-parallel-size 4 --sequence-parallel \\
    --use-distributed-optimizer --moe-shiny-thing 3 --data-path $1
"""


def facts(penstock, words):
    code, out, err = penstock([*words.split(), "--json"])
    assert code == 0, err
    return json.loads(out), err


def test_a_script_is_read_without_running_it(penstock, tmp_path):
    (tmp_path / "train.sh").write_text(SCRIPT)
    found, err = facts(penstock, f"predict --from {tmp_path / 'train.sh'} --cluster dgx-h100:4")
    setup = found["setup"]
    split = {name: setup[name] for name in ("tp", "pp", "dp", "zero", "sp", "micro", "batch", "seq", "precision")}
    same = {"tp": 2, "pp": 4, "dp": 2, "zero": 1, "sp": True, "micro": 2, "batch": 64, "seq": 2048}
    assert split == same | {"precision": "bf16"}
    assert found["framework"] == "megatron-core"
    assert 3.5e8 < found["parameters"] < 3.7e8
    assert err == f"penstock: not read from {tmp_path / 'train.sh'}: --moe-shiny-thing\n"


def test_a_model_that_sizes_do_not_say_is_asked_for(penstock, tmp_path):
    (tmp_path / "train.sh").write_text(f"{SCRIPT.strip()} --num-experts 8 --moe-layer-freq 2\n")
    code, _, err = penstock(f"predict --from {tmp_path / 'train.sh'} --cluster dgx-h100:2")
    assert code == 2
    assert "the model, which has experts in other layers than all but the first; give --model" in err
    found, _ = facts(penstock, f"predict --from {tmp_path / 'train.sh'} --cluster dgx-h100:2 --model {GPT}")
    assert found["setup"]["tp"] == 2


def test_flags_win_over_the_file_and_data_parallelism_follows(penstock, tmp_path):
    (tmp_path / "train.sh").write_text(SCRIPT)
    found, _ = facts(penstock, f"predict --from {tmp_path / 'train.sh'} --cluster dgx-h100:2 --pp 2 --seq 4096")
    assert [found["setup"][name] for name in ("tp", "pp", "dp", "seq")] == [2, 2, 4, 4096]


def test_a_torchtitan_table_is_read_and_its_other_keys_are_named(penstock, tmp_path):
    file = tmp_path / "train.toml"
    file.write_text(
        "[model]\nname = 'llama3'\nflavor = '8B'\n[training]\nlocal_batch_size = 1\nseq_len = 8192\n"
        "[parallelism]\ntensor_parallel_degree = 8\nenable_async_tensor_parallel = true\n"
        "enable_compiled_autograd = true\n[metrics]\nlog_freq = 10\n"
    )
    found, err = facts(penstock, f"predict --from {file} --cluster dgx-h100:2")
    setup = found["setup"]
    assert (found["model"], found["framework"]) == ("llama-3-8b", "torchtitan")
    assert [setup[name] for name in ("tp", "dp", "zero", "batch", "recompute")] == [8, 2, 3, 2, "selective"]
    assert setup["tp_overlap"] == "on"
    assert "parallelism.enable_compiled_autograd" in err
    assert "log_freq" not in err


def test_a_deepspeed_object_is_read_with_flags_for_the_rest(penstock, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 2,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "zero_quantized_weights": True},
    }))  # fmt: skip
    found, err = facts(penstock, f"predict --from {file} --model {GPT} --cluster dgx-h100:2 --seq 2048")
    assert [found["setup"][name] for name in ("dp", "zero", "batch", "micro")] == [16, 3, 64, 2]
    assert found["framework"] == "deepspeed"
    assert err.endswith(": zero_optimization.zero_quantized_weights\n")


@pytest.mark.parametrize("disk", ["optimizer", "weights", "all"])
def test_what_lies_on_disks_is_written_and_read(penstock, tmp_path, disk):
    file, asked = tmp_path / "ds.json", f"--model {GPT} --cluster dgx-h100:2 --seq 2048"
    setup = f"--framework deepspeed --batch 64 --zero 3 --optimizer-offload 1 --weight-offload 1 --disk {disk}"
    written, err = facts(penstock, f"predict {asked} {setup} --export deepspeed:{file}")
    assert "disk: nvme_path is /local_nvme; give the folder of each node's own disks" in err
    table = json.loads(file.read_text())["zero_optimization"]
    there = [table[name]["device"] for name in ("offload_optimizer", "offload_param")]
    assert there == ["nvme" if disk in (name, "all") else "cpu" for name in ("optimizer", "weights")]
    assert table.get("sub_group_size") == (None if disk == "weights" else 100_000_000)
    read, _ = facts(penstock, f"predict {asked} --from {file}")
    assert read["setup"] == written["setup"]
    assert read["disk_by_rank_bytes"] == written["disk_by_rank_bytes"] != [0.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--export megatrom:a.sh", "did you mean 'megatron'?"),
        ("--export megatron", "say where to write it, megatron:FILE"),
        ("--export megatron:a.sh --pp 4 --chunks 2 --schedule zb-v", "places stages in another way than in a loop"),
        ("--export accelerate:a.yaml --pp 4", "it has no pipelines (pp=4)"),
        ("--export deepspeed:a.json --pp 4 --zero 2", "its pipelines work with ZeRO 0 or 1, not zero=2"),
        ("--export torchtitan:out --precision fp16", "precision=fp16 is none of bf16, fp32, fp8"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(penstock, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = penstock(f"{WORDS} {words}")
    assert code == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.json", '{"train_batch_size": 64, "zero_optimization": 3}', "zero_optimization = 3 is no table"),
        ("a.json", '{"train_batch_size": 64, "bf16": true}', "bf16 = True is no table"),
        ("a.json", '{"train_batch_size": 64, "optimizer": "adam"}', "optimizer = 'adam' is no table"),
        (
            "a.json",
            '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 100, "gradient_accumulation_steps": 2}',
            "train_batch_size = 64 is no multiple of train_micro_batch_size_per_gpu = 100 times",
        ),
        (
            "a.json",
            '{"train_batch_size": 64, "zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": "x"}}}',
            "ratio = 'x' is no number",
        ),
        ("a.toml", "model = 'llama3'", "model = 'llama3' is no table"),
        ("a.toml", "[model]\nconverters = 3", "converters = 3 is no list"),
        ("a.toml", "[compile]\nenable = true\ncomponents = [3]", "components has 3, which is no text"),
        ("a.toml", "[parallelism]\ntensor_parallel_degree = 0", "tensor_parallel_degree = 0 is too small; use 1"),
        ("a.toml", "[parallelism]\ntensor_parallel_degree = '2'", "tensor_parallel_degree = '2' is no whole number"),
        (
            "a.toml",
            "[parallelism]\npipeline_parallel_degree = 2\nmodule_fqns_per_model_part = [3, 4]",
            "module_fqns_per_model_part = 3 is no list",
        ),
    ],
)
def test_files_with_values_that_cannot_be_say_which(penstock, tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    code, _, err = penstock(f"{WORDS} --from {tmp_path / file}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path / file}: {says}" in err


def test_every_file_says_what_it_leaves_out_and_so_does_the_standard_error(penstock, tmp_path):
    names = {"megatron": "a.sh", "torchtitan": "tt", "deepspeed": "ds.json", "accelerate": "a.yaml", "slurm": "s.sh"}
    targets = [word for name, file in names.items() for word in ("--export", f"{name}:{tmp_path / file}")]
    code, _, err = penstock([*WORDS.split(), "--zero", "3", "--imbalance", "1.5", *targets])
    assert code == 0
    for name in ("megatron", "torchtitan", "deepspeed", "accelerate"):
        path = tmp_path / names[name]
        text = (path / "train.toml" if name == "torchtitan" else path).read_text()
        said = re.findall(rf"^penstock: not in {name}:\S+: (imbalance: .*)$", err, re.MULTILINE)
        assert len(said) == 1
        assert said[0] in text
    for script in (tmp_path / "a.sh", tmp_path / "tt" / "train.sh", tmp_path / "s.sh"):
        assert os.access(script, os.X_OK)
        assert os.system(f"bash -n {script}") == 0


def test_a_plain_setup_is_said_whole_and_predicted_the_same(penstock, tmp_path):
    file = tmp_path / "a.sh"
    words = f"{WORDS} --tp 2 --pp 4 --chunks 2 --sp --zero 1 --recompute attention.core,attention_norm,mlp_norm"
    before, err = facts(penstock, f"{words} --stage-layers 2,3,3,3,3,3,3,4 --export megatron:{file}")
    assert err == ""
    assert "--pipeline-model-parallel-layout 'Ett|ttt|ttt|ttt|ttt|ttt|ttt|ttttL'" in file.read_text()
    after, err = facts(penstock, f"predict --from {file} --cluster dgx-h100:2")
    assert err == ""
    assert after["setup"] == before["setup"]
    assert after["parameters"] - before["parameters"] == 2 * (50432 - 50304) * 1024
    assert after["seconds"] == pytest.approx(before["seconds"], rel=0.01)


def test_orders_without_a_name_in_pytorch_are_files(penstock, tmp_path):
    code, _, _ = penstock(f"{WORDS} --pp 4 --zero 2 --schedule zb-h1 --export torchtitan:{tmp_path / 'tt'}")
    assert code == 0
    rows = (tmp_path / "tt" / "zb-h1.csv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[0].startswith("0F0,0F1,")
    assert f'"{tmp_path}/tt/zb-h1.csv"' in (tmp_path / "tt" / "train.toml").read_text()


def test_a_pipeline_alone_is_a_job_of_slurm_for_penstock_run(penstock, tmp_path):
    file = tmp_path / "job.sbatch"
    words = "--model tiny-llama --cluster dgx-h100:1 --seq 256 --batch 16 --pp 8 --schedule zb-h1 --precision fp32"
    code, _, err = penstock(f"predict {words} --export slurm:{file}")
    assert (code, err) == (0, "")
    text = file.read_text()
    assert "#SBATCH --nodes=1\n" in text
    assert "#SBATCH --gpus-per-node=8\n" in text
    flags = re.findall(r"--([a-z-]+) \S+", text.rpartition("penstock run")[2])
    assert set(flags) <= {name.replace("_", "-") for name in settings()}
    assert {"ranks", "schedule", "micro-batches", "seq-length"} <= set(flags)


def test_the_best_plan_is_written(penstock, tmp_path):
    file = tmp_path / "train.sh"
    words = "plan --model llama-3-8b --cluster dgx-h100:1 --seq 8192 --batch 64 --fix schedule=1f1b/interleaved"
    code, out, err = penstock([*words.split(), "--export", f"megatron:{file}", "--json"])
    assert code == 0, err
    best = json.loads(out)["choices"][0]
    again, _ = facts(penstock, f"predict --from {file} --cluster dgx-h100:1")
    for name in ("tp", "pp", "cp", "dp", "micro", "chunks", "zero"):
        assert again["setup"][name] == best["setup"][name]


@pytest.mark.parametrize(
    ("framework", "left"), [("megatron-core", False), ("megatron-bridge", False), ("nemo", False), ("pytorch", True)]
)
def test_selective_recompute_is_left_out_where_it_is_not_that_of_megatron(penstock, tmp_path, framework, left):
    asked = f"--model {GPT} --cluster dgx-h100:2 --seq 2048 --batch 64 --recompute selective --framework {framework}"
    for name in ("megatron", "bridge"):
        _, err = facts(penstock, f"predict {asked} --export {name}:{tmp_path / name}")
        assert ("recompute: its selective recompute makes norms and activations of experts again" in err) == left
        assert ("recompute: " in (tmp_path / name).read_text()) == left
