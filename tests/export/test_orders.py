"""Orders of ranks, and context parallelism of both kinds, in the words of frameworks: said, refused, or left out."""

from pathlib import Path

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.export.frameworks import export
from penstock.export.read import read_file

CLUSTER = Cluster.read("dgx-h100:8")
DENSE, EXPERTS = model_of("llama-3-8b"), model_of("mixtral-8x7b")
NEAR = {"seq": 8192, "batch": 64, "tp": 2, "pp": 4, "dp": 8, "sp": True, "zero": 1, "order": "tp-cp-pp-dp"}


@pytest.mark.parametrize("name", ["megatron", "bridge"])
def test_stages_that_are_neighbours_are_asked_for(name: str, tmp_path: Path) -> None:
    file = tmp_path / "train.sh"
    left = export(f"{name}:{file}", DENSE, CLUSTER, Setup(**NEAR))
    word = {"megatron": "--use-tp-pp-dp-mapping", "bridge": "dist.use_tp_pp_dp_mapping=true"}[name]
    assert word in file.read_text()
    assert "order" not in {one.field for one in left}
    assert read_file(file, 64).fields["order"] == "tp-cp-pp-dp"


@pytest.mark.parametrize("name", ["megatron", "bridge"])
def test_heads_and_a_ring_are_asked_for(name: str, tmp_path: Path) -> None:
    file = tmp_path / "train.sh"
    setup = Setup(seq=8192, batch=64, tp=2, cp=8, dp=4, cp_inner=4, zero=1)
    assert "cp_inner" not in {one.field for one in export(f"{name}:{file}", DENSE, CLUSTER, setup)}
    fields = read_file(file, 64).fields
    assert (fields["cp"], fields["cp_inner"], fields["cp_heads"]) == (8, 4, False)
    plain = file.read_text().replace("sizes 4 2", "sizes 8 1").replace("sizes=[4,2]", "sizes=[8,1]")
    file.write_text(plain)
    assert read_file(file, 64).fields["cp_heads"] is True
    file.write_text(plain.replace("sizes 8 1", "sizes 8 2").replace("sizes=[8,1]", "sizes=[8,2]"))
    with pytest.raises(ValueError, match=r"a2a.p2p takes two sizes, whose product is the context-parallel size 8"):
        read_file(file, 64)


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        (DENSE, {"zero": 3}, r"order=tp-cp-pp-dp \(--use-tp-pp-dp-mapping\) goes with ZeRO 0 and 1 alone"),
        (EXPERTS, {"ep": 8}, "order=tp-cp-pp-dp needs ep times etp to be tp times cp: the same pipelines for experts"),
    ],
)
def test_what_megatron_refuses_is_refused(model, more: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        export(f"megatron:{tmp_path / 'train.sh'}", model, CLUSTER, Setup(**NEAR | more))
    fits = Setup(**NEAR | {"ep": 2}) if model is EXPERTS else Setup(**NEAR)
    export(f"megatron:{tmp_path / 'train.sh'}", model, CLUSTER, fits)


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("megatron", {"order": "tp-pp-cp-dp"}, "its scripts have tp-cp-dp-pp and tp-cp-pp-dp alone, not tp-pp-cp-dp"),
        ("torchtitan", {"zero": 2}, "its mesh has pp outside of dp, cp and tp (order=tp-cp-pp-dp)"),
        ("deepspeed", {}, "PipelineModule(topology=...) in the training script (order=tp-cp-pp-dp)"),
    ],
)
def test_what_others_cannot_say_is_said(name: str, more: dict[str, object], why: str, tmp_path: Path) -> None:
    left = export(f"{name}:{tmp_path / 'out'}", DENSE, CLUSTER, Setup(**NEAR | more))
    assert f"order: {why}" in [str(one) for one in left]
