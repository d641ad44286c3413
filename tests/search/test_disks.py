"""Disks that a search takes where nothing else fits, and what is said where these are too small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.search.beside import changed, own, reason
from penstock.search.choice import split_of
from penstock.search.in_words import strategy
from penstock.search.misses import too_much
from penstock.search.planner import best_of
from penstock.search.space import Space, space_of

MODEL = gpt(layers=8, hidden=8192, heads=64, vocab=8192, positions=4096)
PLAIN = "tp=1,cp=1,pp=1,micro=1,zero=3,recompute=full"


def asked(fix: str = "", framework: str = "deepspeed", **node_fields: Any) -> Space:
    """One node of four RTX 4090, whose 90 GB of host memory do not hold all of the optimizer's state."""
    ((node, count),) = Cluster.read("rtx-4090:4").groups
    node = replace(node, **{"host_bytes": 90 * 10**9} | node_fields)
    cluster = Cluster(name="small", groups=((node, count),))
    return space_of(MODEL, cluster, framework, seq=4096, batch=32, fix=f"{PLAIN},{fix}".strip(","))


def places(space: Space) -> list[list[tuple[float, float, str]]]:
    return [
        [(one.base.optimizer_offload, one.base.weight_offload, one.base.disk) for one in group]
        for group in space.offloads()
    ]


def test_disks_are_tried_last_and_only_for_what_is_offloaded() -> None:
    tried = places(asked())
    assert tried[:3] == [[(0, 0, "none")], [(1, 0, "none")], [(1, 1, "none")]]
    assert tried[3:5] == [[(1, 0, "optimizer")], [(1, 1, "optimizer")]]
    assert tried[5:] == [[(1, 1, "weights")], [(1, 1, "all")]]
    assert places(asked(disk_bytes=0)) == tried[:3] == places(asked("disk=none"))
    assert places(asked("disk=optimizer,optimizer_offload=1"))[0] == [(1, 0, "optimizer")]
    both = "disk=none/all,optimizer_offload=1,weight_offload=1"
    assert places(asked(both))[0] == [(1, 1, "none"), (1, 1, "all")]


def test_a_plan_takes_disks_where_host_memory_is_too_small() -> None:
    large = best_of(asked(host_bytes=2**40), top=1, headroom=0.05).best
    small = best_of(asked(), top=1, headroom=0.05).best
    assert (large.setup.disk, small.setup.disk) == ("none", "optimizer")
    assert small.seconds > large.seconds
    assert 0 < small.disk_bytes < small.disk_room_bytes
    assert too_much(small, 0.05).endswith(" GiB of 23.6 GiB, and fits")
    assert split_of(small.setup).count("disk=optimizer") == 1
    assert any("state lives on disks" in line for line in strategy(small.setup))
    none = best_of(asked("disk=none"), top=1, headroom=0.05)
    assert "in host memory" in too_much(none.nearest, 0.05)
    assert any(change.startswith("optimizer_offload=1, weight_offload=1, disk=all:") for change in none.changes)


def test_disks_that_are_too_small_are_said_to_be() -> None:
    space = asked("disk=all,optimizer_offload=1,weight_offload=1", disk_bytes=50 * 10**9)
    none = best_of(space, top=1, headroom=0.05)
    assert none.nearest is not None
    assert too_much(none.nearest, 0.05) == "27.7 GiB of 11.6 GiB on disks, 16.1 GiB too much"
    mine = own(space, "zero=3,recompute=full,optimizer_offload=1,weight_offload=1,disk=all")
    assert reason(none.nearest, mine, 0.05) == "needs 27.7 GiB of 11.6 GiB on disks"


def test_what_is_no_longer_offloaded_leaves_disks() -> None:
    setup = Setup(seq=4096, batch=32, dp=4, zero=3, optimizer_offload=1.0, weight_offload=1.0, disk="all")
    assert changed(asked(), setup, {"weight_offload": 0.0}).disk == "none"
    assert changed(asked(), setup, {"micro": 2}).disk == "all"


@pytest.mark.parametrize(
    ("fix", "framework", "says"),
    [
        ("disk=al", "deepspeed", "disk='al' is unknown; did you mean 'all'"),
        ("disk=all", "pytorch", "disk=all: pytorch has no words for it"),
        (
            "disk=all,weight_offload=0",
            "deepspeed",
            "disk=all with optimizer_offload=0, weight_offload=0 puts not",
        ),
    ],
)
def test_disks_that_cannot_be_are_refused(fix: str, framework: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        best_of(asked(fix, framework), top=1, headroom=0.05)
