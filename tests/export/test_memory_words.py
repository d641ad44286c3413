"""Layers made again and activations on the host in the words of frameworks, and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.export.bridge import bridge
from penstock.export.job import job
from penstock.export.megatron import megatron
from penstock.export.read import read_file
from penstock.export.torchtitan import torchtitan

MODEL, MACHINES = read_architecture("llama-3-8b"), Cluster.read("dgx-h100:1")
SETUP = Setup(seq=4096, batch=64, pp=4, dp=2, zero=1)


@pytest.mark.parametrize("write", [megatron, bridge])
@pytest.mark.parametrize(
    "fields",
    [
        {"recompute_layers": (3,)},
        {"recompute_layers": (3,), "chunks": 2, "schedule": "interleaved"},
        {"offload": 0.25, "pp": 1, "dp": 8},
        {"offload": ("input", "attention.result")},
    ],
)
def test_what_is_written_is_read(tmp_path: Path, write, fields) -> None:
    setup = replace(SETUP, **fields)
    found = write(MODEL, MACHINES, setup)
    assert not [left for left in found.left if left.field in fields]
    (tmp_path / "train.sh").write_text(found.files[""])
    read = read_file(tmp_path / "train.sh", 8)
    for name in ("recompute", "recompute_layers", "offload"):
        got, said = read.fields[name], getattr(setup, name)
        assert set(got) == set(said) if isinstance(said, tuple) else got == said
    assert not [word for word in read.unread if "recompute" in word or "offload" in word]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"recompute_layers": (8, 4, 0, 0)}, "recompute_layers: one number for all stages; the largest, 8, is written"),
        (
            {"recompute_layers": (2,), "recompute_first": "selective"},
            "recompute_layers: selective is for all layers",
        ),
        (
            {"recompute_layers": (2,), "recompute": "selective"},
            "recompute_layers: layers behind those made again",
        ),
        (
            {"offload": 0.5},
            "offload: whole layers go to the host without pipeline and recompute alone",
        ),
        ({"offload": 0.3, "pp": 1, "dp": 8}, "offload: whole layers: 10 of 32"),
        ({"offload": ("mlp.up.y",)}, "offload: no module has mlp.up.y as its input"),
    ],
)
def test_megatron_says_what_it_cannot(fields, why: str) -> None:
    assert any(str(left).startswith(why) for left in megatron(MODEL, MACHINES, replace(SETUP, **fields)).left)


def test_others_say_what_they_can() -> None:
    some = replace(SETUP, recompute_layers=(8, 8, 0, 0), dp=1, zero=0)
    one = job(MODEL, MACHINES, some)
    assert 'recompute = "full,stages=0+1"' in one.files[""]
    assert not [left for left in one.left if left.field.startswith("recompute")]
    part = job(MODEL, MACHINES, replace(some, recompute_layers=(8, 4, 0, 0)))
    assert "recompute_layers: whole stages are made again; all of 1 is" in map(str, part.left)
    assert any(left.field == "recompute_layers" for left in torchtitan(MODEL, MACHINES, some, "x").left)
