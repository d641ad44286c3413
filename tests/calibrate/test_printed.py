"""What notes of a row say of its memory and its setup."""

import pytest

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
    assert printed({"notes": notes}, MEGATRON) == expected


def test_a_framework_prints_its_own_figure():
    assert printed({}, stack("torchtitan")).counts == "reserved"
    assert printed({}, stack("megatron-deepspeed")).counts == "device"


def test_offloads():
    assert offloads("") == ((), 0.0)
    assert offloads("optimizer-cpu 100% + D2H/H2D overlap") == ((), 1.0)
    assert offloads("activation:act_norm,mlp_norm") == (("input", "attention.sum"), 0.0)
    for text in ("activation:all", "weights"):
        with pytest.raises(ValueError, match=f"offload={text} is not known"):
            offloads(text)


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
