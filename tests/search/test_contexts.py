"""Context parallelism by heads among neighbours and in a ring among groups of them: what it takes, where it pays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.cost.collectives import collective_s, send_s
from penstock.cost.stack import stack
from penstock.predict import Grid, scores
from penstock.predict.contexts import context_links, given_bytes, ring_of, turned_bytes
from penstock.predict.micro import Rank
from penstock.search.beside import neighbours
from penstock.search.choice import split_of
from penstock.search.planner import plan
from penstock.search.space import space_of

MODEL = gpt(layers=8, hidden=2048, heads=32, kv_heads=8, vocab=32000, ffn=8192, gated=True)
CLUSTER = Cluster.read("dgx-h100:4")
STACK = stack("megatron-core")
SETUP = Setup(seq=65536, batch=4, tp=2, cp=16, dp=1, sp=True, cp_inner=4)


def test_heads_stay_inside_the_node_and_the_ring_goes_outside() -> None:
    rank, block = Rank(MODEL, CLUSTER, SETUP, STACK), MODEL.blocks[0]
    inner, ring = context_links(rank)
    assert [level.kind for level in inner] == ["nvswitch"]
    assert [(level.ranks, level.kind) for level in ring] == [(4, "infiniband")]
    each = 2 * 64 * 65536 / 16 / 2  # keys and values, bytes of bf16 a head and rank
    assert given_bytes(rank, block) == each * 2 * (8 + 32) * 0.5 * 2
    given_s = float(collective_s("all_to_all", given_bytes(rank, block), inner))
    ring_s = 3 * float(send_s(turned_bytes(rank, block), ring))
    assert ring_of(rank, block).left_s(0.0) == pytest.approx(given_s + ring_s)
    assert ring_of(rank, block).left_s(1e9) == pytest.approx(given_s + STACK.cp_shown * ring_s)


def test_it_lies_between_a_ring_and_heads_alone() -> None:
    ring, heads = replace(SETUP, cp_inner=0), replace(SETUP, tp=1, dp=2, cp_inner=0, cp_heads=True, cp=8)
    alone = {way: Rank(MODEL, CLUSTER, way, STACK) for way in (SETUP, ring, heads)}
    assert [rank.setup.cp_turned for rank in alone.values()] == [4, 1, 8]
    block = MODEL.blocks[0]
    assert given_bytes(alone[ring], block) == turned_bytes(alone[heads], block) == 0
    assert turned_bytes(alone[SETUP], block) == turned_bytes(alone[ring], block)


@pytest.mark.parametrize("more", [{"cp_heads": True}, {"cp_inner": 3}, {"cp_inner": 16}, {"cp_inner": 1}])
def test_what_is_no_part_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cp_inner=\d+ is no part of cp=16 .*; use 2, 4, 8 without cp_heads"):
        replace(SETUP, **more)
    columns = {"cp": 16, "tp": 2, "dp": 1, "cp_inner": 4, "cp_heads": 0} | more
    assert not scores(MODEL, CLUSTER, Grid.of(SETUP, **columns), STACK).possible.any()


def test_a_cp_without_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="cp_inner=2 is no part of cp=2 that exchanges heads; use 0, or a cp of 4 or"):
        Setup(seq=8, batch=1, cp=2, cp_inner=2)


def test_ways_that_leave_every_rank_some_keys_are_tried() -> None:
    space = space_of(MODEL, CLUSTER, seq=65536, batch=4)
    assert space.context_ways(1, 1) == [(False, 0)]
    assert space.context_ways(1, 2) == [(False, 0), (True, 0)]
    assert space.context_ways(1, 8) == [(False, 0), (False, 2), (False, 4), (True, 0)]
    assert space.context_ways(2, 16) == [(False, 0), (False, 2), (False, 4)]
    assert space.context_ways(8, 4) == [(False, 0)]
    fixed = space_of(MODEL, CLUSTER, seq=65536, batch=4, fix="cp_inner=2")
    assert (fixed.context_ways(1, 8), fixed.context_ways(1, 2)) == ([(False, 2)], [])
    assert space_of(MODEL, CLUSTER, "torchtitan", seq=65536, batch=4).context_ways(1, 8) == [(False, 0)]


def test_it_is_found_where_it_pays() -> None:
    fix = "tp=2,cp=16,pp=1,micro=1,sp=1,zero=1,recompute=none/full,shards=0"
    found = plan(MODEL, CLUSTER, seq=65536, batch=16, fix=fix, top=9)
    assert found.proven
    assert found.best.setup.cp_inner == 4
    assert " cp_inner=4 " in split_of(found.best.setup)
    others = {one.setup.cp_inner: one.seconds for one in found.choices if one.setup.recompute == "none"}
    assert found.best.seconds == min(others.values()) < 0.99 * others[0]
    space = space_of(MODEL, CLUSTER, seq=65536, batch=16, fix=fix)
    lines = [line for line in neighbours(space, found.best, 0.05) if line.startswith("cp_inner=")]
    assert [line.split(":")[0] for line in lines] == ["cp_inner=0", "cp_inner=2"]
    assert lines[0].startswith(f"cp_inner=0: {others[0] / found.best.seconds - 1:+.1%} step time, context parallel")
