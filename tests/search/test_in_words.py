"""Questions and strategies in sentences: who holds what, and what was fixed."""

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config.text import model_of
from penstock.core.setup import Setup
from penstock.search.in_words import question, strategy
from penstock.search.space import space_of


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dp": 4, "zero": 1, "shards": 2}, "the optimizer's state is shared out within groups of 2 ranks (ZeRO-1)"),
        ({"dp": 4, "zero": 3}, "are shared out among the replicas (ZeRO-3)"),
        ({"cp": 2, "zero": 1}, "; the optimizer's state is shared out among the 2 ranks that share tokens (ZeRO-1)"),
        ({"zero": 1}, "as 64 micro-batches of 1. Nothing is"),
        ({"pp": 2, "stage_layers": (15, 17)}, "over 2 pipeline ranks (15+17 layers); micro-batches"),
        ({"cp": 4, "cp_inner": 2}, "(context parallelism; tokens are exchanged for heads among 2, keys go round among"),
        ({"pp": 2, "order": "tp-cp-pp-dp"}, "Over devices lie tp, cp, pp, dp, from neighbours on (order=tp-cp-pp-dp)."),
        ({"precision": "mxfp8"}, "Products are in mxfp8 (one scale of 8 bits for 32 values), the optimizer is adam."),
        ({"precision": "nvfp4", "wide_last": 4}, "Those of the first 0 and the last 4 blocks are in 16 bits."),
        ({"precision": "mxfp8", "low_weights": True}, "Weights of blocks are kept and gathered in mxfp8."),
        ({"pp": 2, "vocabulary": 1}, "share embedding and head (vocabulary=1)"),
    ],
)
def test_who_holds_what_is_said(fields, said):
    assert said in " ".join(strategy(Setup(seq=4096, batch=64, **fields)))


def test_fixed_layers_of_stages_are_said():
    model, cluster = model_of("llama-3-8b"), Cluster.read("dgx-h100:1")
    space = space_of(model, cluster, "megatron-core", seq=4096, batch=64, fix="pp=2,chunks=1,stage_layers=15+17/even")
    assert "Fixed: pp=2, chunks=1, stage_layers=15+17/even." in question(space, None, 0.05)
