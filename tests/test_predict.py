"""The command ``penstock predict``."""

import dataclasses
import json
from pathlib import Path

import pytest

from penstock.core.setup import Setup

GPT = "gpt:L=24,h=1024,a=16,vocab=50304"
WORDS = f"predict --model {GPT} --cluster a100-80gb:8 --seq 2048 --batch 64 --micro-batch 2"


def facts(penstock, words):
    code, out, err = penstock(f"{words} --json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_text_says_what_the_json_does(penstock, tmp_path):
    code, out, err = penstock(f"{WORDS} --tp 2 --pp 2 --json {tmp_path / 'a.json'}")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "a.json").read_text())
    low, high = found["seconds_interval"]
    assert low < found["seconds"] < high
    assert f"{found['tokens_per_s']:,.0f} per second, {found['tokens_per_s_per_device']:,.0f} per device" in out
    assert f"MFU {found['mfu']:.1%}, HFU {found['hfu']:.1%}" in out
    assert "devices  8 a100-80gb-sxm, megatron-core" in out
    assert "split    tp=2 cp=1 pp=2 dp=2 ep=1 etp=1" in out
    for name in (*found["parts_s"], *(key for key, value in found["memory_bytes"].items() if value and key != "total")):
        assert f"  {name} " in out
    for guess in found["guessed"]:
        assert guess in out


def test_the_page_names_every_key(penstock):
    page = (Path(__file__).parent.parent / "docs" / "predict.md").read_text()
    assert not [key for key in facts(penstock, WORDS) if f"`{key}`" not in page]


def test_figures_agree_among_themselves(penstock):
    found = facts(penstock, f"{WORDS} --tp 2 --pp 2")
    tokens = 64 * 2048
    assert found["tokens_per_s"] == pytest.approx(tokens / found["seconds"])
    assert found["tokens_per_s_per_device"] == pytest.approx(found["tokens_per_s"] / 8)
    assert sum(found["parts_s"].values()) == pytest.approx(found["seconds"])
    assert found["mfu"] == pytest.approx(found["tflops_per_device"] / 312)
    assert found["hfu"] == found["mfu"]
    memory = dict(found["memory_bytes"])
    assert memory.pop("total") == pytest.approx(sum(memory.values()))
    assert found["headroom_bytes"] == pytest.approx(found["device_memory_bytes"] - sum(memory.values()))
    assert max(found["memory_by_rank_bytes"]) == pytest.approx(sum(memory.values()))
    assert found["fits"] is True


def test_cost_and_energy_are_those_of_the_devices_that_work(penstock):
    from penstock.core.cluster import Cluster

    cluster = Cluster.read("a100-80gb:8")
    found = facts(penstock, f"{WORDS} --tp 2 --dp 2 --usd-per-hour 36")
    used = found["seconds"] / 3600 * 4 / 8
    assert found["devices"] == 4
    assert found["usd_per_step"] == pytest.approx(36 * used)
    assert found["usd_per_billion_tokens"] == pytest.approx(36 * used / (64 * 2048) * 1e9)
    assert found["price_date"] == "given by hand"
    assert found["joules_per_step_most"] == pytest.approx(cluster.power_w * used * 3600)
    assert found["joules_per_step"] == pytest.approx(0.76 * found["joules_per_step_most"])
    listed = facts(penstock, f"{WORDS} --tp 2 --dp 2")
    assert listed["usd_per_step"] == pytest.approx(cluster.usd_per_hour * used)


def test_what_nobody_rents_has_no_cost(penstock):
    code, out, _ = penstock("predict --model tiny-llama --cluster a64fx:2 --seq 256 --batch 8")
    assert code == 0
    assert "cost " not in out


def test_every_field_of_a_setup_is_a_flag(penstock):
    words = (
        "--tp 2 --cp 2 --pp 2 --dp 1 --ep 1 --etp 1 --vpp 2 --schedule interleaved --sp --cp-heads --zero 1 --shards 2 "
        "--recompute mlp,attention.core --offload 0.5 --optimizer-offload 0.25 --precision fp16 --no-flash --graphs "
        "--optimizer sgd --imbalance 1.5 --stage-layers 6,6,7,5 --vocabulary 0 --rank-order tp-cp-ep-pp-dp "
        "--cp-inner 0 --dropout --fused-loss --adapter 8 --frozen-bytes 0.5 --adapter-on attention.qkv,mlp"
    )
    found = facts(penstock, f"{WORDS} {words}")["setup"]
    assert found == json.loads(json.dumps(dataclasses.asdict(Setup(
        seq=2048, batch=64, micro=2, tp=2, cp=2, pp=2, dp=1, chunks=2, schedule="interleaved", sp=True, cp_heads=True,
        zero=1, shards=2, recompute=("mlp", "attention.core"), offload=0.5, optimizer_offload=0.25, precision="fp16",
        flash=False, graphs=True, optimizer="sgd", imbalance=1.5, stage_layers=(6, 6, 7, 5), dropout=True,
        fused_loss=True, adapter=8, adapter_on=("attention.qkv", "mlp"), frozen_bytes=0.5, order="tp-cp-pp-dp",
    ))))  # fmt: skip
    _, out, _ = penstock("predict --help")
    names = {field.name: field.name.replace("_", "-") for field in dataclasses.fields(Setup)}
    names["order"] = "rank-order"  # of ``penstock plan``, --order is a file
    assert not [name for name in names.values() if f"--{name} " not in out]


def test_an_order_of_ranks_is_said_and_wrong_ones_are_refused(penstock):
    words = "predict --model llama-3-8b --cluster dgx-h100:4 --seq 4096 --batch 256 --tp 2 --pp 4 --zero 1"
    _, out, _ = penstock(f"{words} --rank-order tp-pp-dp")
    assert "ep=1 etp=1 order=tp-cp-pp-dp\n" in out
    code, _, err = penstock(f"{words} --rank-order dp-tp-cp-pp")
    assert code != 0
    assert (
        "order=dp-tp-cp-pp is no order of tp, cp, dp and pp, with tp first, since it talks most; use tp-cp-dp-pp" in err
    )


def test_what_is_left_out_is_taken_from_the_cluster(penstock):
    assert facts(penstock, WORDS)["setup"]["dp"] == 8
    assert facts(penstock, f"{WORDS} --tp 2 --pp 2 --cp 2")["setup"]["dp"] == 1
    assert facts(penstock, f"{WORDS} --pp 2 --chunks 2")["setup"]["schedule"] == "interleaved"


def test_recompute_takes_time_and_saves_memory(penstock):
    plain, again = (facts(penstock, f"{WORDS} --recompute {how}") for how in ("none", "full"))
    assert again["seconds"] > plain["seconds"]
    assert again["hfu"] > 1.2 * again["mfu"]
    assert again["memory_bytes"]["activations"] < plain["memory_bytes"]["activations"]


def test_what_does_not_fit_is_said(penstock):
    code, out, _ = penstock("predict --model llama-3-70b --cluster a100-40gb:8 --seq 4096 --batch 8")
    assert code == 0
    assert "does not fit" in out


def test_models_by_other_spellings_and_files(penstock, tmp_path):
    from penstock.core.config.read import catalogue

    assert facts(penstock, WORDS.replace(GPT, "Meta-Llama-3-8B"))["parameters"] == 8030261248
    (tmp_path / "config.json").write_text(json.dumps(catalogue()["llama-3-8b"]))
    for path in (tmp_path, tmp_path / "config.json"):
        assert facts(penstock, WORDS.replace(GPT, str(path)))["parameters"] == 8030261248


@pytest.mark.parametrize("suffix", ["html", "png", "json"])
def test_the_timeline_is_written(penstock, tmp_path, suffix):
    path = tmp_path / f"step.{suffix}"
    code, _, err = penstock(f"{WORDS} --pp 2 --timeline {path}")
    assert (code, err) == (0, "")
    assert path.stat().st_size > 1000


BASE = {"model": GPT, "cluster": "h100:8", "seq": "2048", "batch": "64"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"model": "llama-3-8c"}, "model='llama-3-8c' is unknown; did you mean 'llama-3-8b'?"),
        ({"model": "no/config.json"}, "model='no/config.json' does not exist"),
        ({"model": "gpt:L=2,hh=5"}, "'hh=5' is no size of a GPT; did you mean 'h'?"),
        ({"model": "gpt:L=2,h=x"}, "'h=x' is no whole number"),
        ({"model": "gpt:L=2,gated=maybe"}, "'gated=maybe' says neither yes nor no"),
        ({"model": "gpt:L=2,h=64"}, "lacks heads, vocab; write gpt:L=24"),
        ({"model": "gpt:L=2,h=5,a=2,vocab=9"}, "heads=2 does not divide hidden=5; use 1, 5"),
        ({"cluster": "h10:8"}, "'h10' is no node or device; did you mean 'h100'?"),
        ({"framework": "megatron-cor"}, "framework 'megatron-cor' is unknown; did you mean 'megatron-core'?"),
        ({"schedule": "1f2b", "pp": "2"}, "unknown schedule '1f2b'; did you mean 1f1b?"),
        ({"schedule": "chimera", "pp": "2"}, "schedule=chimera holds its weights twice, which is not predicted yet"),
        ({"schedule": "DualPipe", "pp": "2"}, "not predicted yet; use dualpipev"),
        ({"precision": "bf17"}, "precision='bf17' is unknown; did you mean 'bf16'?"),
        ({"recompute": "ful"}, "no operator is called 'ful'; did you mean 'full'?"),
        ({"model": "gpt:L=99999999,h=64,a=2,vocab=9"}, "layers=99,999,999 is beyond all models; use at most 10,000"),
        ({"model": "gpt:L=2,h=1000000000,a=2,vocab=9"}, "hidden=1,000,000,000 is beyond all models"),
        ({"model": "gpt2-xl", "ep": "8"}, "ep=8: gpt2-xl has no experts; use ep=1"),
        ({"tp": "3"}, "tp=3 does not divide 8 devices; use a product of 1, 2, 4, 8, or give dp"),
        ({"tp": "2", "pp": "3"}, "tp=2 times pp=3 does not divide 8 devices"),
        ({"tp": "0"}, "tp=0 is too small; use 1 or more"),
        ({"tp": "8", "dp": "2"}, "the setup takes 16 devices, h100:8 has 8"),
        ({"chunks": "2"}, "chunks=2 are stages of each rank of a pipeline; use chunks=1, or pp=2 or more"),
        ({"batch": "7"}, "batch=7 is no multiple of dp=8 times micro=1; use batch=8"),
        ({"seq": None}, "--seq is missing; say how many tokens of a sequence"),
        ({"batch": None}, "--batch is missing; say how many sequences per step"),
        ({"pp": "8", "vpp": "3", "schedule": "1f1b"}, "1f1b has one chunk per rank, not chunks=3"),
        ({"stage-layers": "1,x"}, "--stage-layers 1,x: write whole numbers with commas"),
        ({"offload": "2"}, "offload=2.0 is no share"),
        ({"offload": "mlp"}, "offload=mlp: blocks keep nothing of that name; did you mean"),
        (
            {"adapter": "8", "adapter_on": "mpl.up"},
            "adapter_on=mpl.up: blocks have no matrix of that name; did you mean",
        ),
        ({"recompute": "mlp,attention.cor"}, "no operator is called 'attention.cor'"),
        ({"pp": "2", "schedule": "seq1f1b"}, "schedule=seq1f1b slices sequences, which is not predicted yet"),
        ({"imbalance": "nan"}, "imbalance=nan is no number from 1"),
        ({"batch": "9" * 20}, f"batch={'9' * 20} is no number from 1 to 1,000,000,000"),
        ({"pp": "2", "stage-layers": "33,-1"}, "stage_layers=-1 is too small; use 0 or more"),
        ({"usd-per-hour": "-1"}, "usd_per_hour=-1.0 must be a number above 0"),
        ({"timeline": "a.doc"}, "a.doc: cannot write .doc"),
        ({"json": "/nowhere/a.json"}, "the folder /nowhere does not exist"),
        ({"json": "a.json b.json"}, "name one file, or none"),
        ({"json": "a.json", "timeline": "a.json"}, "a.json is named twice; give each file a name of its own"),
        ({"export": "megatron:a.sh --export bridge:a.sh"}, "a.sh is named twice"),
        ({"tq": "3"}, "--tq"),
    ],
)
def test_errors_are_one_line(penstock, flags, says):
    words = " ".join(f"--{name} {value}" for name, value in (BASE | flags).items() if value is not None)
    code, _, err = penstock(f"predict {words}")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
