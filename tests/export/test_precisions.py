"""Recipes of low precision in the words of frameworks: what is written, what is refused and what is read."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.export.frameworks import export
from penstock.export.read import read_file
from penstock.export.shell import arguments, script_words

MODEL = read_architecture("llama-3-8b")
HOPPER, BLACKWELL = Cluster.read("dgx-h100:2"), Cluster.read("dgx-b200:2")
SETUP = Setup(seq=8192, batch=64, tp=2, pp=1, dp=8, zero=1, sp=True)


def written(target: str, folder: Path, cluster: Cluster = BLACKWELL, **more: Any) -> tuple[Path, set[str]]:
    path = (
        folder / {"megatron": "train.sh", "bridge": "bridge.sh", "torchtitan": "titan", "deepspeed": "ds.json"}[target]
    )
    left = export(f"{target}:{path}", MODEL, cluster, replace(SETUP, **more))
    return path, {one.field for one in left}


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("fp8-delayed", {"fp8-format": "hybrid", "fp8-recipe": "delayed"}),
        ("fp8-current", {"fp8-format": "hybrid", "fp8-recipe": "tensorwise"}),
        ("fp8-block", {"fp8-format": "e4m3", "fp8-recipe": "blockwise"}),
        ("mxfp8", {"fp8-format": "e4m3", "fp8-recipe": "mxfp8"}),
        ("nvfp4", {"fp4-format": "e2m1", "fp4-recipe": "nvfp4"}),
    ],
)
def test_megatron_says_each_recipe(precision: str, words: dict[str, str], tmp_path: Path) -> None:
    file, left = written("megatron", tmp_path, precision=precision, low_weights=True, optimizer="adam-fp8")
    found = arguments(script_words(file.read_text()))
    bits = "fp4" if precision == "nvfp4" else "fp8"
    wanted = words | {"bf16": "true", f"{bits}-param-gather": "true", "exp-avg-dtype": "fp8", "exp-avg-sq-dtype": "fp8"}
    assert {name: found[name] for name in wanted} == wanted
    assert ("reuse-grad-buf-for-mxfp8-param-ag" in found) == (precision == "mxfp8")
    assert not left & {"precision", "low_weights", "optimizer"}
    read = read_file(file, 16)
    assert {name: read.fields[name] for name in ("precision", "low_weights", "optimizer")} == {
        "precision": precision,
        "low_weights": True,
        "optimizer": "adam-fp8",
    }
    assert read.unread == ()


def test_blocks_that_stay_wide_are_written_and_read(tmp_path: Path) -> None:
    more: dict[str, Any] = {"precision": "fp8-current", "wide_first": 1, "wide_last": 4}
    file, _ = written("megatron", tmp_path, **more)
    found = read_file(file, 16).fields
    assert {name: found[name] for name in more} == more
    folder, _ = written("torchtitan", tmp_path, tp=1, dp=16, sp=False, **more)
    found = read_file(folder / "train.toml", 16).fields
    assert {name: found[name] for name in more} == more
    for line, wide in (
        ("--first-last-layers-bf16", (1, 1)),
        ("--first-last-layers-bf16 --num-layers-at-end-in-bf16 3", (1, 3)),
    ):
        file.write_text(f"run --num-layers 8 --tensor-model-parallel-size 1 --bf16 --fp8-format hybrid {line}")
        found = read_file(file, 8).fields
        assert (found["precision"], found["wide_first"], found["wide_last"]) == ("fp8-delayed", *wide)


@pytest.mark.parametrize(
    ("target", "more", "says"),
    [
        ("megatron", {"precision": "fp8-row"}, "it has no rowwise scaling; use fp8-current or fp8-block"),
        ("bridge", {"precision": "fp8-row"}, "it has no rowwise scaling"),
        ("megatron", {"precision": "fp8-delayed", "wide_last": 1}, "delayed scaling leaves no blocks in bf16"),
        ("megatron", {"precision": "mxfp8", "low_weights": True, "zero": 0}, "need ZeRO 1 to 3"),
        ("megatron", {"precision": "mxfp8", "low_weights": True, "optimizer_offload": 1.0}, "by fp8-delayed alone"),
        (
            "megatron",
            {"precision": "mxfp8", "wide_last": 9, "pp": 4, "dp": 2},
            "at most the 8 blocks of a pipeline rank",
        ),
        ("torchtitan", {"precision": "nvfp4"}, "is none of bf16, fp32, fp8, fp8-current, fp8-row, mxfp8"),
        ("torchtitan", {"precision": "mxfp8"}, "tensor parallelism does not go with mxfp8"),
        ("torchtitan", {"precision": "fp8-row", "low_weights": True}, "with fp8-current alone, not fp8-row"),
    ],
)
def test_what_a_framework_has_not_is_refused(target: str, more: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        written(target, tmp_path, **more)


def test_torchtitan_has_a_converter_for_each(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"tp": 1, "dp": 16, "sp": False, "zero": 3}
    for precision, name, recipe in (
        ("fp8-current", "float8", "tensorwise"),
        ("fp8-row", "float8", "rowwise"),
        ("mxfp8", "mx", "mxfp8_cublas"),
    ):
        folder, left = written("torchtitan", tmp_path, precision=precision, **plain)
        table = tomllib.loads((folder / "train.toml").read_text())
        assert table["model"]["converters"] == [f"quantize.linear.{name}"]
        assert table["quantize"]["linear"][name] == {"recipe_name": recipe, "filter_fqns": ["output"]}
        assert ("precision" in left) == (precision == "fp8-current")  # not in 0.3
        assert read_file(folder / "train.toml", 16).fields["precision"] == precision
    folder, _ = written("torchtitan", tmp_path, precision="fp8-current", low_weights=True, **plain)
    said = tomllib.loads((folder / "train.toml").read_text())["quantize"]["linear"]["float8"]
    assert said["enable_fsdp_float8_all_gather"]
    assert "recipe_name" not in said  # torchtitan takes the one or the other
    assert read_file(folder / "train.toml", 16).fields["low_weights"]


def test_bridge_names_the_recipe_and_says_what_comes_with_it(tmp_path: Path) -> None:
    file, left = written("bridge", tmp_path, precision="fp8-block")
    assert "mixed_precision=bf16_with_fp8_subchannel_scaling_mixed" in file.read_text()
    assert not left & {"precision", "wide_first", "low_weights"}
    file, left = written("bridge", tmp_path, precision="fp8-current")
    assert {"wide_first", "wide_last", "low_weights"} <= left
    found = read_file(file, 16).fields
    assert [found[name] for name in ("precision", "wide_first", "wide_last", "low_weights")] == [
        "fp8-current",
        1,
        1,
        True,
    ]
    file.write_text(file.read_text().replace("fp8_current_scaling", "fp8_some_scaling"))
    assert read_file(file, 16).fields["precision"] == "fp8"


def test_bits_without_a_recipe_get_the_one_that_suits_the_device(tmp_path: Path) -> None:
    for cluster, recipe in ((HOPPER, "fp8-current"), (BLACKWELL, "mxfp8")):
        file, left = written("megatron", tmp_path, cluster, precision="fp8")
        assert read_file(file, 16).fields["precision"] == recipe
        assert "precision" in left
    _, left = written("deepspeed", tmp_path, precision="mxfp8")
    assert {"precision"} <= left
