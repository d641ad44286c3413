"""Batches to choose from, clusters of several kinds, and strategies that need no score: against all without these."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.cost.laws import suggested
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.search import planner
from penstock.search.batches import MOST_TRIED, Batches, batches_of, read_batches
from penstock.search.finals import predicted_of
from penstock.search.fleet import Fleet, fleet_of
from penstock.search.nodes import kinds
from penstock.search.planner import best_of
from penstock.search.questions import size_cluster
from penstock.search.sizing import Limits, fewest, rent_of, sized
from penstock.search.space import Space, space_of

DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
FIX = "cp=1,zero=1,sp=1,micro=1..2,recompute=none,tp=1..2,schedule=1f1b,stage_layers=even,shards=0"


@pytest.mark.parametrize("devices", [1, 7, 8, 48, 752, 4096])
def test_batches_of_a_range_lie_in_it_and_devices_share_them(devices: int) -> None:
    found = read_batches("512..2048", 4096).on(devices)
    assert all(512 <= batch <= 2048 for batch in found)
    assert 1 <= len(found) <= MOST_TRIED
    assert list(found) == sorted(set(found), reverse=True)
    for batch in found:
        shared = max(d for d in range(1, devices + 1) if devices % d == 0 and batch % d == 0)
        assert batch + shared > 2048
    assert read_batches("64/512/64", 4096).on(devices) == (512, 64)


@pytest.mark.parametrize("text", ["0", "abc", "512..", "..512", "3/x", "-4", "1e3", ""])
def test_what_is_no_batch_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number of sequences; write 1024, 512\.\.2048"):
        read_batches(text, 4096)
    with pytest.raises(ValueError, match=r"an empty range; write 8\.\.16"):
        read_batches("16..8", 4096)


def test_where_nobody_says_a_batch_it_is_that_of_a_law_rounded_to_the_devices() -> None:
    batches = batches_of(None, DENSE, 2048, 8, 1e11)
    for devices in (8, 24, 48):
        assert batches.on(devices) == (suggested(DENSE, 2048, devices, 1e11).batch,)


def test_tokens_that_a_batch_costs_grow_from_the_share_at_the_critical_one() -> None:
    law = suggested(DENSE, 2048, 8, 1e11)
    assert law.more(law.critical_tokens) == pytest.approx(0.2)
    assert law.more(3 * law.critical_tokens) == pytest.approx(0.6)


def fleet(batches: Batches) -> Fleet:
    """Of 1 to 5 nodes."""

    def space_on(cluster: Cluster) -> Space:
        return space_of(DENSE, cluster, seq=2048, batch=batches.on(cluster.devices)[0], fix=FIX)

    return fleet_of(space_on, Cluster.read("dgx-h100:5"), headroom=0.05, batches=batches)


@pytest.mark.parametrize("text", [pytest.param("20..60", marks=pytest.mark.slow), "24/30"])
def test_each_number_of_nodes_has_its_best_batch(text: str) -> None:
    whole = fleet(read_batches(text, 2048))
    each_s = {}
    for nodes in whole.splits:
        spaces = [whole.of(nodes, batch) for batch in whole.tried(nodes)]
        found = [best_of(space, top=1, headroom=0.05).choices for space in spaces if space.splits()]
        each_s[nodes] = min(one[0].seconds / one[0].setup.batch for one in found if one)
    assert len(each_s) >= 3
    ref = whole.space.base.batch
    assert {n: whole.best(n).seconds / ref for n in each_s} == pytest.approx(each_s, rel=1e-12)
    assert all(fleet(whole.batches).floor_s(n) < each_s[n] * ref for n in each_s)
    assert len({whole.best(n).choice.setup.batch for n in each_s}) > 1
    for limit_s in sorted(each_s.values())[::2]:
        one = fewest(fleet(whole.batches), lambda nodes, limit_s=limit_s: limit_s * ref * (1 + 1e-9))
        assert one is not None
        assert one.nodes == min(n for n, seconds in each_s.items() if seconds <= limit_s * (1 + 1e-9))


def test_a_deadline_may_choose_the_batch() -> None:
    asked: dict[str, Any] = {"seq": 2048, "tokens": 1e9, "fix": FIX, "deadline_s": 1e5}
    single, several = (size_cluster(DENSE, "dgx-h100:2", batch=batch, **asked) for batch in (16, "16/64"))
    assert single.choice is not None
    assert several.choice is not None
    assert several.choice.setup.batch == 64
    assert several.choice.seconds / 64 < single.choice.seconds / 16


@pytest.mark.parametrize(
    ("model", "framework", "fix"),
    [
        pytest.param(
            *(EXPERTS, "torchtitan", "cp=1,sp=1,micro=1..4,recompute=none/full"), id="experts", marks=pytest.mark.slow
        ),
        pytest.param(DENSE, "megatron-core", "cp=1..2,sp=1,zero=1", id="dense"),
    ],
)
def test_strategies_without_a_score_change_no_answer(
    model: Any, framework: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(model, "dgx-h100:2", framework, seq=2048, batch=64, fix=fix)
    for top in (1, 20):
        pruned = best_of(space, top=top, headroom=0.05)
        assert pruned.too_slow > 0
        with monkeypatch.context() as patched:
            patched.setattr(planner, "first_choice", lambda space, headroom: None)
            patched.setattr(planner, "enough_s", lambda shares, top: np.inf)
            whole = best_of(space, top=top, headroom=0.05)
        assert whole.too_slow < pruned.too_slow
        assert pruned.choices == whole.choices
        assert pruned.proven == whole.proven
        assert pruned.considered == whole.considered


@pytest.mark.parametrize("framework", [pytest.param("torchtitan", marks=pytest.mark.slow), "deepspeed", "llm-foundry"])
def test_first_answers_are_of_the_space(framework: str) -> None:
    space = space_of(EXPERTS, "dgx-h100:2", framework, seq=2048, batch=64, fix="micro=1/2,cp=1..2")
    for share in space.typical().shares():
        few, all_of = space.typical().grid(share), space.grid(share)
        assert len(few) > 0
        known = {all_of.setup(row) for row in range(len(all_of)) if predictable(all_of, row)}
        assert all(few.setup(row) in known for row in range(0, len(few), 7) if predictable(few, row))


def predictable(grid: Any, row: int) -> bool:
    """Whether a row is a setup."""
    try:
        return isinstance(grid.setup(row), Setup)
    except ValueError:
        return False


def test_all_keep_the_pace_and_the_memory_of_the_slowest_device() -> None:
    fast, slow = Cluster.read("p5:2"), Cluster.read("p4d:2")
    setup = Setup(seq=2048, batch=32, tp=2, dp=8, zero=1, sp=True)
    for name in ("p5:1+p4d:1", "p4d:1+p5:1"):
        mixed = Cluster.read(name)
        seconds = [predict(DENSE, cluster, setup, stack("megatron-core")).seconds for cluster in (fast, mixed, slow)]
        assert 1.3 * seconds[0] < seconds[1] < 1.02 * seconds[2]
        assert predict(DENSE, mixed, setup, stack("megatron-core")).memory_bytes == slow.device.memory_bytes
    roomy = replace(slow.device, memory_bytes=2 * fast.device.memory_bytes)
    both = ((replace(slow.groups[0][0], device=roomy), 1), fast.groups[0])
    found = replace(fast, groups=both).device
    assert (found.name, found.memory_bytes) == (roomy.name, fast.device.memory_bytes)


def test_a_cluster_of_several_kinds_is_asked_for_as_a_whole_and_by_kind() -> None:
    cluster = Cluster.read("p5:1+p4d:1")

    def space_on(cluster: Cluster) -> Space:
        return space_of(DENSE, cluster, seq=2048, batch=32, fix=FIX)

    assert [*kinds(cluster)] == ["p5:1", "p4d:1"]
    whole = fleet_of(space_on, cluster, headroom=0.05)
    assert whole.counts == (2,)
    found = sized(whole, Limits(steps=1.0))
    assert found.devices == 16
    assert found.choice is not None
    again = predicted_of(space_on(cluster), found.choice.setup)
    assert again is not None
    assert found.seconds == again.seconds
    assert rent_of(whole) * 2 == pytest.approx(cluster.usd_per_hour)
    with pytest.raises(ValueError, match="keep the pace of the slowest; ask for all of its 2 nodes"):
        fleet_of(space_on, cluster, "1", headroom=0.05)
