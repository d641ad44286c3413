"""What waits in host memory: what leaves the device, what the link takes, and what the engine says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.op import Kind
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.engine import last_s, simulate
from penstock.lower import offload
from penstock.predict import Grid, predict, scores
from penstock.predict.host import copy_rate, copy_s
from penstock.predict.step import begun
from penstock.search.beside import own, reason
from penstock.search.planner import best_of
from penstock.search.space import space_of

MODEL = gpt(layers=8, hidden=8192, heads=64, vocab=8192, positions=4096)
FAST = Cluster.read("dgx-h100:1")
SETUP = Setup(seq=4096, batch=16, pp=4, dp=2, tp=1)
STACK = stack("megatron-core")


def found(share: Any, cluster: Cluster = FAST, **fields: Any) -> Any:
    return predict(MODEL, cluster, replace(SETUP, offload=share, **fields), STACK)


def slower(cluster: Cluster, times: float) -> Cluster:
    """The cluster with a slower link to the host."""
    ((node, count),) = cluster.groups
    link = replace(node.host_link, bytes_per_s=node.host_link.bytes_per_s / times)
    return replace(cluster, groups=((replace(node, host_link=link), count),))


def test_a_fast_link_takes_no_time_and_a_slow_one_its_own() -> None:
    assert found(0.5).seconds == found(0.0).seconds
    slow = slower(FAST, 40)
    some, more = found(0.5, slow), found(1.0, slow)
    assert found(0.0).seconds < some.seconds < more.seconds
    assert sum(more.parts.values()) == pytest.approx(more.seconds, rel=1e-12)
    node, one = slow.node_of(0), begun(MODEL, slow, replace(SETUP, offload=1.0), STACK)
    ((block, part),) = [(b, p) for b, p in one.rank.parts.items() if not isinstance(b, str)]
    each_s = copy_s(one.rank, block)
    assert each_s == pytest.approx(found(0.0, slow).rooms[3].activations / 2 / copy_rate(node), rel=1e-3)
    assert part.f_s == each_s
    assert part.i_s + part.w_s == pytest.approx(each_s, rel=1e-12)
    assert more.parts["copies to the host"] == pytest.approx(SETUP.micros * 2 * part.copied_s, rel=1e-12)


def test_what_leaves_the_device_is_on_the_host() -> None:
    none = found(0.0)
    for share in (0.25, 1.0):
        some = found(share)
        assert some.rooms[0].needed < none.rooms[0].needed - 0.4 * some.host_bytes[0]
        for before, after, host in zip(none.rooms, some.rooms, some.host_bytes, strict=True):
            assert host == pytest.approx(share * before.activations, rel=1e-12)
            assert after.activations == pytest.approx((1 - share) * before.activations, rel=1e-12)
            assert before.needed - host <= after.needed <= before.needed
    assert set(none.host_bytes) == {0.0}
    full = found(0.5, recompute="full")
    assert max(full.host_bytes) < 0.1 * max(found(0.5).host_bytes)


def test_the_engine_moves_as_much_in_as_much_time() -> None:
    share, setup = 0.5, replace(SETUP, batch=64)
    base, less = begun(MODEL, FAST, setup, STACK), begun(MODEL, FAST, replace(setup, offload=share), STACK)
    kept = base.costs.saved_bytes
    seconds = base.costs.seconds.copy()
    seconds[[Kind.OFFLOAD, Kind.FETCH]] = share * kept / copy_rate(FAST.node_of(0))
    costs = replace(base.costs, seconds=seconds, host_share=np.full(4, share))
    plan = offload(base.plan, costs, trips=1.0)
    assert last_s(plan, costs) == pytest.approx(last_s(less.plan, less.costs), rel=1e-9)
    by_engine, by_form = simulate(plan, costs).peak_bytes, less.timeline.peak_bytes
    for r in range(3):  # the last rank uses at once what it made
        assert by_form[r] <= by_engine[r] * (1 + 1e-9)
        assert by_engine[r] <= by_form[r] + 2 * share * kept[r]
    assert by_engine[0] < 0.8 * base.timeline.peak_bytes[0]


def test_scores_are_predictions() -> None:
    slow = slower(FAST, 40)
    base = replace(SETUP, offload=0.6, optimizer_offload=0.5, batch=64)
    grid = Grid.all_of(base, 8, pp=(1, 2, 4), micro=(1, 2), recompute=("none", "full"))
    by_form = scores(MODEL, slow, grid, STACK)
    for row in range(len(grid)):
        one = predict(MODEL, slow, grid.setup(row), STACK)
        assert by_form.seconds[row] == pytest.approx(one.seconds, rel=0.01)
        assert by_form.host_bytes[row] == pytest.approx(max(one.host_bytes), rel=1e-9)
        assert by_form.fits[row] == one.fits
        assert by_form.needed_bytes[row] == pytest.approx(max(room.needed for room in one.rooms), rel=1e-9)


ZERO = {"pp": 1, "dp": 8, "micro": 2, "zero": 3, "optimizer_offload": 1.0}


@pytest.mark.parametrize("name", ["deepspeed", "torchtitan"])
def test_weights_on_the_host_leave_room_and_come_for_each_pass(name: str) -> None:
    framework, setup = stack(name), replace(SETUP, batch=64, **ZERO)
    here, there = (
        [predict(MODEL, cluster, replace(setup, weight_offload=share), framework) for share in (0.0, 0.5, 1.0)]
        for cluster in (FAST, slower(FAST, 200))
    )
    shard = here[0].rooms[0].weights
    assert [one.rooms[0].weights for one in here] == pytest.approx([shard, shard / 2, 0.0])
    assert [one.host_bytes[0] - here[0].host_bytes[0] for one in here] == pytest.approx([0.0, shard / 2, shard])
    assert here[2].parts["gathering weights"] == pytest.approx(here[0].parts["gathering weights"], rel=0.15)
    copies_s = 2 * setup.micros * shard / copy_rate(slower(FAST, 200).node_of(0))
    waits_s = [one.parts["gathering weights"] for one in there]
    assert waits_s[0] <= waits_s[1] < waits_s[2]
    assert waits_s[2] == pytest.approx(copies_s, rel=0.35)  # less what compute hides


def test_gradients_leave_with_the_optimizer_where_zero_shards_them() -> None:
    framework, setup = stack("deepspeed"), replace(SETUP, batch=64, **ZERO)
    on, off = (predict(MODEL, FAST, replace(setup, optimizer_offload=share), framework) for share in (0.0, 1.0))
    assert (on.rooms[0].gradients > 0, off.rooms[0].gradients, on.host_bytes[0]) == (True, 0.0, 0.0)
    first = predict(MODEL, FAST, replace(setup, zero=1), framework)
    assert first.rooms[0].gradients > 0


def test_scores_of_weights_on_the_host_are_predictions() -> None:
    for name in ("deepspeed", "torchtitan"):
        base = replace(SETUP, batch=64, **ZERO, weight_offload=0.5)
        grid = Grid.all_of(base, 8, micro=(1, 2), zero=(1, 2, 3), recompute=("none", "full"))
        by_form = scores(MODEL, slower(FAST, 40), grid, stack(name))
        for row in range(len(grid)):
            one = predict(MODEL, slower(FAST, 40), grid.setup(row), stack(name))
            assert by_form.seconds[row] == pytest.approx(one.seconds, rel=0.01)
            assert by_form.host_bytes[row] == pytest.approx(max(one.host_bytes), rel=1e-9)
            assert by_form.needed_bytes[row] == pytest.approx(max(room.needed for room in one.rooms), rel=1e-9)


def test_host_memory_is_a_limit() -> None:
    ((node, count),) = FAST.groups
    small = replace(FAST, groups=((replace(node, host_bytes=2**33), count),))
    one = found(1.0, small)
    assert one.host_memory_bytes == 2**30
    assert max(one.host_bytes) > 2**30
    assert not one.fits
    assert not one.fits_host
    space = space_of(MODEL, small, seq=4096, batch=16, fix="pp=4,tp=1,cp=1,micro=1,zero=0,offload=0/1")
    best = best_of(space, top=4, headroom=0.05)
    assert best.choices
    assert max(choice.host_bytes for choice in best.choices) <= 2**30
    assert reason(best.best, own(space, "pp=4,offload=1"), 0.05).endswith("of 1 GiB in host memory")


def test_shares_are_searched_if_they_are_asked_for() -> None:
    space = space_of(
        MODEL, FAST, seq=4096, batch=64, fix="pp=4,tp=1,cp=1,micro=4,zero=0,recompute=none/full,offload=0/0.5/1"
    )
    plain = [predict(MODEL, FAST, Setup(seq=4096, batch=64, micro=4, pp=4, dp=2, offload=o), STACK) for o in (0.0, 0.5)]
    left = [1 - max(room.needed for room in one.rooms) / one.memory_bytes for one in plain]
    best = best_of(space, top=9, headroom=sum(left) / 2)
    assert best.proven
    assert best.best.setup.offload in (0.5, 1.0)
    assert best.best.setup.recompute == "none"
    assert "offload=" in best.best.split
