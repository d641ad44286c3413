"""What notes of a row say of its memory and its setup."""

import pytest

from penstock import predict_step
from penstock.calibrate.printed import (
    GB,
    GIB,
    Printed,
    adapter,
    dense_layers,
    frozen_bytes,
    offloads,
    printed,
    vocabulary,
)
from penstock.cost.stack import stack

MEGATRON = stack("megatron-core")


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("", Printed(GIB, "allocated")),
        ("GB as printed (likely GiB)", Printed(GIB, "allocated")),
        ("max over ranks of max_memory_allocated = 66.55 GiB", Printed(GB, "allocated")),
        ("memory of PP stage 2 (rank 32); max allocated MB/1000*1.048576", Printed(GB, "allocated", 2)),
        ("rank-0 peak", Printed(GIB, "allocated", 0)),
        ("memory = max post-optimizer allocated (GB as printed)", Printed(GIB, "resting")),
        ("mem as printed 'x/80' GiB", Printed(GIB, "device")),
        ("by nvidia-smi", Printed(GIB, "device")),
    ],
)
def test_figures(notes, expected):
    assert printed({"notes": notes, "devices": "64", "pp": "4"}, MEGATRON) == expected


@pytest.mark.parametrize(
    ("cells", "stage"),
    [
        ({"pipeline_rank": "3", "notes": "PP stage 1"}, 3),
        ({"notes": "peak of pipeline rank 1"}, 1),
        ({"notes": "peak of rank 32"}, 2),
        ({"notes": "rank-17 peak"}, 1),
        ({"notes": "on the last stage"}, -1),
        ({"notes": "LoRA of rank 64; first stage"}, 0),
        ({"notes": "LoRA of rank 64"}, None),
    ],
)
def test_the_rank_that_a_figure_is_of(cells, stage):
    assert printed({"devices": "64", "pp": "4"} | cells, MEGATRON).stage == stage


def test_a_figure_is_that_of_its_rank():
    found = predict_step("llama-3-8b", "h100:8", seq=4096, batch=64, pp=4, dp=2)
    first, *_, last = (room.counted("device") / GIB for room in found.rooms)
    assert [Printed(GIB, "device", stage).of(found) for stage in (0, -1)] == [first, last]
    assert Printed(GIB, "device", 9).of(found) == Printed(GIB, "device").of(found) == max(first, last)


def test_a_framework_prints_its_own_figure():
    assert printed({}, stack("torchtitan")).counts == "reserved"
    assert printed({}, stack("megatron-deepspeed")).counts == "device"


def test_offloads():
    guessed = []
    assert offloads("", 32, guessed) == offloads("None", 32, guessed) == (0.0, 0.0)
    assert offloads("optimizer-cpu 100% + D2H/H2D overlap", 32, guessed) == (0.0, 1.0)
    assert offloads("activation:act_norm,mlp_norm", 32, guessed) == (("input", "attention.sum"), 0.0)
    assert offloads("activation:8 layers", 32, guessed) == (0.25, 0.0)
    assert offloads("activations", 32, guessed) == (1.0, 0.0)
    assert guessed == []
    assert offloads("optimizer and weights", 32, guessed) == (0.0, 1.0)
    assert guessed == ["offload='optimizer and weights': the optimizer's state in host memory, and nothing else"]


def test_setups():
    guessed = []
    assert adapter({"task": "lora", "notes": "rank 64, all layers"}, guessed) == 64
    assert adapter({"task": "pretrain", "notes": "rank 64"}, guessed) == 0
    assert not guessed
    assert adapter({"task": "lora"}, guessed) == 16
    assert guessed == ["adapters of rank 16 on all matrices of blocks"]
    assert (frozen_bytes({"notes": "QLoRA"}), frozen_bytes({})) == (0.52, 2.0)
    assert dense_layers({"notes": "dense_layers=1 per note"}) == 1
    schedules = ("1F1B", "1F1B + vocabulary parallelism, vocab-2", "1F1B + TP-style vocab (interlaced)", "vocab")
    assert [vocabulary(text) for text in schedules] == [0, 2, 3, 1]
