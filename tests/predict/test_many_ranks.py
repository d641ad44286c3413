"""What is found of many ranks at once is what is found of each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.core.unchecked import like
from penstock.cost.stack import stack
from penstock.predict.again import ranks_on
from penstock.predict.micro import Rank
from penstock.predict.parts import parts_of

SPLITS = (
    {"tp": 2, "sp": True, "ep": 4, "dp": 4, "batch": 8},
    {"ep": 8, "dp": 8, "recompute": "full", "ep_overlap": "off"},
    {"cp": 4, "tp": 2, "recompute": "selective", "micro": 2},
    {"cp": 2, "dp": 4, "ep": 2, "batch": 8, "offload": 0.5},
)


@pytest.mark.parametrize(("model", "framework"), [("llama-4-maverick", "torchtitan"), ("deepseek-v3", "megatron-core")])
def test_ranks_take_together_what_they_take_alone(model: str, framework: str) -> None:
    machines, software, base = Cluster.read("dgx-h100:2"), stack(framework), Setup(seq=4096, batch=64)
    setups = [replace(base, **split) for split in SPLITS]
    ranks = [Rank(read_architecture(model), machines, setup, software) for setup in setups]
    known = ranks_on(read_architecture(model), machines, software)
    with_plain = [known(rank.setup, (rank.context_row, rank.expert_row, rank.devices)) for rank in ranks]
    for together in (parts_of(ranks), parts_of(with_plain)):
        assert together == [rank.parts for rank in ranks]


def test_a_setup_without_checks_is_the_same() -> None:
    one = Setup(seq=4096, batch=64, tp=4, order="tp-pp-dp")
    assert like(one, dp=2, sp=True) == replace(one, dp=2, sp=True)
