"""Steps with sequences of many lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt, read_architecture
from penstock.core.lengths import Lengths
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.paces import Pace, Paces, paces
from penstock.search.length_ways import WAYS, bound_s
from penstock.search.lengthwise import LengthsPlanned, length_plans
from penstock.search.space import space_of

MEGATRON, CLUSTER = stack("megatron-core"), Cluster.read("dgx-h100:1")
LLAMA = read_architecture("llama-3-8b")
LONG = Lengths.of(np.clip(np.exp(np.random.default_rng(1).normal(7.3, 1.6, 5000)), 16, 32768).astype(int), "long")


def planned(lengths: Lengths = LONG, fix: str = "tp=1,zero=1,recompute=full", seq: int = 32768) -> LengthsPlanned:
    return length_plans(space_of(LLAMA, CLUSTER, seq=seq, batch=128, fix=fix), lengths)


def test_the_law_is_what_predict_says() -> None:
    setup = Setup(seq=32768, batch=8, dp=8, zero=1, recompute="full")
    (found,) = paces(LLAMA, CLUSTER, MEGATRON, [setup], longest=32768, headroom=0.05)
    assert [*found.by_degree] == [1, 2, 4, 8]
    for degree, pace in found.by_degree.items():
        assert pace.error < 0.1
        for seq, micro in ((12288, 1), (4096, 4), (24576, 1)):
            fields = {"seq": seq, "micro": micro, "cp": degree, "dp": 8 // degree}
            batches = (8 // degree * micro * n for n in (1, 2))
            steps = [predict(LLAMA, CLUSTER, replace(setup, batch=b, **fields), MEGATRON) for b in batches]
            whole_s = steps[1].seconds - steps[0].seconds
            assert pace.seconds([seq] * micro) == pytest.approx(whole_s, rel=0.12)
            needed = steps[0].peak.total - steps[0].peak.reserve
            assert (needed <= 0.95 * steps[0].memory_bytes) == (seq * micro <= pace.most_tokens)
    assert found.after_s == pytest.approx(2 * steps[0].seconds - steps[1].seconds, rel=0.3)


def test_each_way_is_faster_than_the_one_before() -> None:
    found = planned()
    assert [one.name for one in found.plans] == ["padded", "packed", "packed evenly", "flexible groups", "free groups"]
    seconds = [one.seconds for one in found.plans]
    assert seconds[0] > 3 * seconds[1]
    assert seconds[1] > seconds[2] >= seconds[3]
    assert seconds[3] < 1.3 * found.plans[3].bound_s
    assert seconds[3] >= found.plans[3].bound_s
    assert found.plans[0].padding > 0.8
    assert found.plans[1].padding < found.plans[0].padding
    assert (found.plans[2].padding, found.plans[3].padding) == (0, 0)
    assert len(found.plans[3].degrees) > 1
    for one in found.plans:
        assert sum(one.degrees.values()) == pytest.approx(1)
        assert 0 < one.busy <= 1
        assert one.tokens_per_s == pytest.approx(found.tokens / one.seconds)


@pytest.mark.parametrize("seed", range(12))
def test_ways_keep_to_the_bound_and_have_room_where_rows_have(seed: int) -> None:
    rng = np.random.default_rng(seed)
    most, micro_s = int(rng.choice([4096, 16384, 65536])), float(rng.choice([0, 1e-3]))
    lost, square_s, spread = rng.uniform(1.02, 1.4), rng.uniform(0, 2e-10), rng.uniform(0.1, 1.5)
    lengths = np.clip(np.exp(rng.normal(rng.uniform(5, 9), spread, 100)).astype(int), 8, most)
    by_degree = {
        d: Pace(d, micro_s * lost**n, 1e-6 / d * lost**n, square_s / d * lost**n, 1e-3, most * d, 0.0)
        for n, d in enumerate((1, 2, 4, 8))
    }
    made = Paces(Setup(seq=most, batch=8, dp=8), by_degree, 0.01, together=bool(seed % 2))
    found = {name: way(made, lengths, most) for name, way in WAYS.items()}
    assert (found["free groups"] is None) == made.together
    laid = {name: one for name, one in found.items() if one is not None}
    assert {*laid} >= {*WAYS} - {"free groups"}
    for one in laid.values():
        assert one.seconds >= bound_s(made, lengths) * (1 - 1e-9)
        assert sum(one.degrees.values()) == pytest.approx(1)
    assert laid["flexible groups"].seconds <= laid["packed evenly"].seconds < 1.15 * laid["packed"].seconds


def test_sequences_of_which_no_two_have_room_together_go_one_by_one() -> None:
    alone = Paces(Setup(seq=100, batch=1), {1: Pace(1, 0.1, 1e-3, 0.0, 0.0, 100, 0.0)}, 0.0, together=False)
    found = WAYS["packed evenly"](alone, np.full(10, 60), 100)
    assert found is not None
    assert (found.micros, found.seconds) == (10, pytest.approx(10 * 0.16))


def test_sequences_of_one_length_gain_nothing() -> None:
    found = planned(Lengths.of([4096]), seq=4096)
    padded, *others = found.plans
    assert padded.padding == 0
    for one in others:
        assert one.seconds == pytest.approx(padded.seconds, rel=0.05)


def test_what_is_fixed_stays_so() -> None:
    found = planned(Lengths.of([4096]), fix="dp=4,zero=1,recompute=full", seq=4096)
    assert {(one.setup.tp, one.setup.dp) for one in found.plans} == {(2, 4)}


def test_a_framework_that_splits_no_sequences_has_whole_ones() -> None:
    fix = "zero=3,recompute=full,micro=1"
    alone = length_plans(space_of(LLAMA, CLUSTER, "llm-foundry", seq=8192, batch=128, fix=fix), LONG)
    assert {one.setup.tp for one in alone.plans} == {1}
    assert {degree for one in alone.plans for degree in one.degrees} == {1}


def test_longer_sequences_are_cut() -> None:
    found = planned(seq=8192)
    assert found.lengths.longest == 8192
    assert 0 < found.cut_share < 0.5


def test_what_has_no_room_says_so() -> None:
    space = space_of("llama-3-70b", "h100:1", seq=2048, batch=8)
    with pytest.raises(ValueError, match="has room for a sequence of 2,048 tokens on 1 device;"):
        length_plans(space, Lengths.of([2048]))
    with pytest.raises(ValueError, match="pp=2: sequences of many lengths are planned with pp=1"):
        planned(fix="pp=2")
    with pytest.raises(ValueError, match="micro=4: sequences of many lengths are planned with micro=1"):
        planned(fix="micro=4")
    with pytest.raises(ValueError, match="no setup is left, and penstock splits pp alone; fix or exclude less"):
        length_plans(space_of(LLAMA, CLUSTER, "penstock", seq=2048, batch=8), Lengths.of([2048]))


def test_setups_keep_to_what_is_fixed_and_to_what_the_framework_splits() -> None:
    found = planned(LONG.cut(4096)[0], fix="dp=4", seq=4096)
    assert {(one.setup.tp, one.setup.dp) for one in found.plans} == {(2, 4)}
    space = space_of(LLAMA, CLUSTER, seq=4096, batch=64, fix="tp=1", exclude="cp=2/8")
    assert {d for one in length_plans(space, LONG).plans for d in one.degrees} <= {1, 4}
    space = space_of("gpt2-xl", CLUSTER, "llm-foundry", seq=4096, batch=64)
    for one in length_plans(space, LONG).plans:
        assert (one.setup.tp, [*one.degrees]) == (1, [1])


def test_small_models_are_bound_by_their_launches() -> None:
    small = gpt(layers=8, hidden=256, heads=4, vocab=1000, positions=512)
    setup = Setup(seq=512, batch=8, dp=8)
    (found,) = paces(small, CLUSTER, MEGATRON, [setup], longest=512, headroom=0.05)
    pace = found.by_degree[1]
    assert pace.floor_s <= pace.seconds([16]) < 1.1 * pace.floor_s
    assert pace.seconds([512] * 256) > 1.4 * pace.floor_s
