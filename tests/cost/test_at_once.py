"""What is found of many parts of models at once is what is found of each."""

from __future__ import annotations

import numpy as np
import pytest

from families import CASES
from penstock.core.config import architecture_from_config
from penstock.core.device import device
from penstock.cost.model_operators import operators
from penstock.cost.operators import PLAIN, Microbatch, Shard
from penstock.cost.passes import timed, timed_each
from penstock.cost.rows import rows_of
from penstock.predict.works import block_rows

BATCHES = (
    Microbatch(micro=1, seq=128),
    Microbatch(micro=2, seq=512, shard=Shard(cp=2)),
    Microbatch(micro=1, seq=1024, kernels=PLAIN),
)


BLOCKS = [
    block
    for name, (family, config) in CASES.items()
    for block in architecture_from_config(name, {"model_type": family, **config}, name).kinds()
]
"""Of all families of models: windows, masks of their own, experts, scans, halves side by side."""


def test_halves_are_those_of_a_block_that_is_written_whole() -> None:
    for block in BLOCKS:
        whole = rows_of(operators(block, BATCHES[0], "layer0."))  # with a scope it is
        made, rows = operators(block, BATCHES[0]), block_rows(block, BATCHES[0])
        assert (
            whole.names == tuple(f"layer0.{op.name}" for op in made) == tuple(f"layer0.{name}" for name in rows.names)
        )
        for column in ("kind", "phase", "sizes", "moved_bytes", "launches", "low", "plain", "odd"):
            assert np.array_equal(getattr(rows, column), getattr(whole, column)), column


@pytest.mark.parametrize(("name", "low"), [("h100-80gb-sxm", "bf16"), ("b200", "fp8")])
def test_operators_take_together_what_they_take_alone(name: str, low: str) -> None:
    machine = device(name)
    each = [block_rows(block, BATCHES[place % 3]) for place, block in enumerate(BLOCKS)]
    crowds = [1 + number / 8 for number in range(len(each))]
    for rows, crowd, found in zip(each, crowds, timed_each(each, machine, low, "bf16", crowds), strict=True):
        alone = timed(rows, machine, low, "bf16", crowd)
        for column in ("seconds", "error", "kind", "cast_s", "launches"):
            assert np.array_equal(getattr(found, column), getattr(alone, column)), column
        assert found.guessed == alone.guessed
