"""What compute hides of messages between replicas, as a user says: times, plans, and files of other frameworks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.mesh import replicas
from penstock.core.setup import OVERLAPS, Setup
from penstock.cost.stack import stack
from penstock.export.begin import improve
from penstock.export.frameworks import export
from penstock.export.read import read_file
from penstock.predict import Grid, predict, scores
from penstock.predict.explain import explain
from penstock.predict.step import begun
from penstock.search.planner import plan

MODEL = gpt(layers=8, hidden=4096, heads=32, vocab=50304, positions=2048)
NODES = Cluster.read("dgx-h100:2")
BASE = Setup(seq=2048, batch=32, tp=2, pp=2, dp=4, zero=1, sp=True)
CORE = stack("megatron-core")
WORDS = "--num-layers 12 --hidden-size 768 --num-attention-heads 12 --seq-length 1024 --micro-batch-size 1 --bf16"


def seconds(**more: Any) -> list[float]:
    return [predict(MODEL, NODES, replace(BASE, overlap=way, **more), CORE).seconds for way in OVERLAPS]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("more", [{}, {"zero": 0}, {"zero": 2, "pp": 1, "dp": 8}, {"zero": 3, "pp": 1, "dp": 8}])
def test_scores_are_predictions_whatever_hides(overlap: str, more: dict[str, int]) -> None:
    setup = replace(BASE, overlap=overlap, **more)
    grid = Grid.of(setup, **{axis: [getattr(setup, axis)] for axis in ("tp", "pp", "dp", "zero")})
    scored = scores(MODEL, NODES, grid, CORE)
    found = predict(MODEL, NODES, setup, CORE)
    assert scored.seconds[0] == pytest.approx(found.seconds, rel=0.01 if setup.pp > 1 else 1e-9)


def test_the_less_hides_the_longer_a_step_is() -> None:
    own, gradients, none = seconds()
    assert own < gradients < none
    assert seconds(zero=0) == [seconds(zero=0)[0]] * 2 + [seconds(zero=0)[2]]
    for zero in (2, 3):
        own, gradients, none = seconds(zero=zero, pp=1, dp=8)
        assert own <= gradients <= none
        assert own < none


def test_messages_take_their_whole_time_where_nothing_hides_them() -> None:
    step = begun(MODEL, NODES, replace(BASE, overlap="none"), CORE)
    assert {one.name for one in step.sums} == {"gradients, dense", "weights, dense"}
    assert all((one.shown_s == one.whole_s).all() for one in step.sums)
    step = begun(MODEL, NODES, replace(BASE, overlap="gradients"), CORE)
    assert {one.name: bool((one.shown_s < one.whole_s).all()) for one in step.sums} == {
        "gradients, dense": True,
        "weights, dense": False,
    }
    step = begun(MODEL, NODES, replace(BASE, overlap="none", zero=3, pp=1, dp=8), CORE)
    forward_s, backward_s = (each.sum() for each in step.gathers_s)
    assert forward_s == pytest.approx(step.rank.among("all_gather", 2 * step.dense, replicas(step.setup), True).sum())
    assert backward_s > 2 * forward_s  # gradients are wider


def test_an_opened_step_says_that_the_setup_hides_nothing() -> None:
    def said(overlap: str) -> list[Any]:
        tree = explain(MODEL, NODES, replace(BASE, overlap=overlap), CORE).time
        (part,) = (one for one in tree.parts if one.name == "gradients and weights")
        return list(part.parts)

    assert all("overlap=none" in one.how for one in said("none"))
    assert not any("dp_hidden" in constant.name for one in said("none") for constant in one.constants)
    assert all("dp_hidden" in str(one.constants) for one in said("own"))


def test_a_plan_is_made_with_what_hides() -> None:
    bests = [
        plan(MODEL, NODES, seq=2048, batch=32, fix={"overlap": overlap, "pp": 1, "sp": False}).best
        for overlap in OVERLAPS
    ]
    assert [one.setup.overlap for one in bests] == [*OVERLAPS]
    assert bests[0].seconds <= bests[1].seconds <= bests[2].seconds
    assert bests[0].seconds < bests[2].seconds


def test_a_wrong_word_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="overlap='nothing' is unknown; did you mean 'none'"):
        replace(BASE, overlap="nothing")


@pytest.mark.parametrize(
    ("flags", "overlap"),
    [
        ("", "none"),
        ("--use-distributed-optimizer", "none"),
        ("--overlap-grad-reduce", "own"),
        ("--use-distributed-optimizer --overlap-grad-reduce", "gradients"),
        ("--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather", "own"),
    ],
)
def test_flags_of_megatron_say_what_hides(flags: str, overlap: str, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(f"run {WORDS} --global-batch-size 64 {flags}\n")
    assert read_file(script, 16).fields["overlap"] == overlap


@pytest.mark.parametrize(
    ("words", "overlap"),
    [
        ("", "own"),
        ("ddp.overlap_grad_reduce=false", "own"),
        ("comm_overlap.overlap_param_gather=false", "gradients"),
        ("comm_overlap.overlap_param_gather=false comm_overlap.overlap_grad_reduce=False", "none"),
    ],
)
def test_keys_of_bridge_say_what_hides(words: str, overlap: str, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(f"python run_recipe.py --recipe llama3_8b_pretrain_config -tp 1 -mb 1 -gb 64 -sl 1024 {words}\n")
    assert read_file(script, 16).fields["overlap"] == overlap


def test_a_script_without_the_flag_is_told_what_it_costs(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(f"run {WORDS} --global-batch-size 64 --use-distributed-optimizer\n")
    found = improve(script, "dgx-h100:2", fix="tp=1,pp=1,cp=1")
    assert (found.mine.setup.overlap, found.planned.best.setup.overlap) == ("none", "own")
    assert "overlap=own" in [change.said for change in found.changes]
    kept = improve(script, "dgx-h100:2", fix="tp=1,pp=1,cp=1,overlap=none")
    assert kept.planned.best.setup.overlap == "none"


@pytest.mark.parametrize(
    ("zero", "overlap"),
    [
        ({"stage": 0}, "own"),
        ({"stage": 2}, "none"),
        ({"stage": 2, "overlap_comm": True}, "own"),
        ({"stage": 3}, "own"),
        ({"stage": 3, "overlap_comm": False}, "none"),
    ],
)
def test_deepspeed_hides_by_its_defaults(zero: dict[str, Any], overlap: str, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"train_batch_size": 32, "bf16": {"enabled": True}, "zero_optimization": zero}))
    assert read_file(file, 16).fields["overlap"] == overlap


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_exports_say_what_hides(overlap: str, tmp_path: Path) -> None:
    setup = replace(BASE, overlap=overlap)
    left = {
        name: {one.field for one in export(f"{name}:{tmp_path / name}", MODEL, NODES, setup)}
        for name in ("megatron", "bridge", "torchtitan")
    }
    text = (tmp_path / "megatron").read_text()
    assert [word in text for word in ("--overlap-grad-reduce", "--overlap-param-gather")] == [
        overlap != "none",
        overlap == "own",
    ]
    assert {name: "overlap" in fields for name, fields in left.items()} == {
        "megatron": False,
        "bridge": overlap != "own",
        "torchtitan": overlap != "own",
    }


def test_deepspeed_hides_all_or_nothing(tmp_path: Path) -> None:
    plain = replace(BASE, pp=1, dp=8, sp=False)
    export(f"deepspeed:{tmp_path / 'ds.json'}", MODEL, NODES, replace(plain, overlap="none"))
    assert not json.loads((tmp_path / "ds.json").read_text())["zero_optimization"]["overlap_comm"]
    with pytest.raises(ValueError, match="or neither; use overlap=own or none"):
        export(f"deepspeed:{tmp_path / 'ds.json'}", MODEL, NODES, replace(plain, overlap="gradients"))
