"""Strategies over several sites."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import gcd
from operator import truediv

import pytest

from penstock.core.cluster import Cluster
from penstock.search.apart import site_plans
from penstock.search.planner import best_of
from penstock.search.site_plan import SitesPlanned
from penstock.search.sites import shares_of, sites_of
from penstock.search.space import space_of

FIX = "tp=1,cp=1,pp=1,micro=1/2,recompute=none,zero=1"


def planned(cluster: str, how: str, rate: float, fix: str = FIX, model: str = "gpt2-xl", **more: int) -> SitesPlanned:
    machines = Cluster.read(cluster)
    space = space_of(model, machines, seq=1024, batch=128, fix=fix)
    return site_plans(space, sites_of(machines, how, bytes_per_s=rate, latency_s=0.01), **more)


def test_on_a_slow_link_only_local_updates_are_worth_a_second_site() -> None:
    found = planned("dgx-h100:2", "2", 1e8)
    names = [one.name for one in found.plans]
    assert names[3] == "site 1 alone"
    assert found.impossible == {"pipeline over sites": "no pipeline of a multiple of 2 ranks fits"}
    local = [one for one in found.plans if not one.gradient_equal]
    assert {one.name for one in local} == {"diloco", "streaming-diloco", "co2"}
    alone = next(one for one in found.plans if one.name == "site 1 alone")
    assert alone.seconds / 2.2 < found.plans[0].seconds < alone.seconds / 1.5
    assert all(one.outer_bytes and one.every for one in local)
    assert not any(one.outer_bytes or one.every for one in found.plans if one.gradient_equal)


def test_on_a_quick_link_gradients_go_over_it_in_each_step() -> None:
    found = planned("dgx-h100:2", "2", 4e11)
    data = next(one for one in found.plans if one.name == "data parallel over sites")
    inner = next(one for one in found.plans if one.name == "streaming-diloco")
    assert data.seconds < 1.05 * inner.seconds


def test_more_steps_between_outer_ones_wait_less() -> None:
    waits = [
        next(one.exposed_s for one in planned("dgx-h100:2", "2", 1e8, every=every).plans if one.name == "diloco")
        for every in (10, 100)
    ]
    assert waits[0] == pytest.approx(10 * waits[1])


def test_a_faster_site_has_more_of_the_batch() -> None:
    found = planned("h100:4+a100-80gb:4", "groups", 1e9)
    assert sum(found.batches) == 128
    assert found.batches[0] > found.batches[1]
    with pytest.raises(ValueError, match="one group of nodes; say how many"):
        sites_of(Cluster.read("dgx-h100:4"))


def test_sites_of_different_sizes_have_no_pipeline_over_them() -> None:
    found = planned("h100:4+h100:2", "groups", 1e9)
    assert found.impossible == {"pipeline over sites": "sites of 4 and 2 devices have no equal parts of it"}


@pytest.mark.parametrize(
    ("framework", "impossible", "axis"),
    [
        ("llm-foundry", "pipeline over sites", "dp"),
        pytest.param("penstock", "data parallel over sites", "pp", marks=pytest.mark.slow),
    ],
)
def test_a_framework_without_an_axis_has_none_over_sites(framework: str, impossible: str, axis: str) -> None:
    machines = Cluster.read("h100:2+h100:2")
    space = space_of("gpt2-xl", machines, framework, seq=1024, batch=16)
    found = site_plans(space, sites_of(machines, bytes_per_s=1e9), ())
    assert found.impossible == {impossible: f"{framework} splits {axis} alone"}


def test_what_does_not_divide_a_site_may_be_a_pipeline_over_them() -> None:
    found = planned("h100:2+h100:2", "groups", 1e10, "pp=4,cp=1,tp=1,micro=1,recompute=full")
    assert [one.name for one in found.plans] == ["pipeline over sites"]
    assert found.impossible["diloco"] == (
        "inside of a site, pp=4 does not divide 2 devices; use a product of 1, 2, or give dp"
    )
    with pytest.raises(ValueError, match="inside of a site, tp=8 does not divide 2 devices"):
        planned("h100:2+h100:2", "groups", 1e10, "tp=8")


def test_the_outer_optimizer_lives_where_there_is_room() -> None:
    machines = Cluster.read("dgx-h100:2")
    sites = sites_of(machines, "2", bytes_per_s=1e9)
    fix = "tp=2,pp=1,cp=1,micro=4,sp=1,zero=1,recompute=none"
    space = space_of("llama-3-8b", machines, seq=1024, batch=128, fix=fix)
    for least in (False, True):
        inner = best_of(replace(space, cluster=sites.clusters[0]), top=1, headroom=0.0).best
        found = site_plans(space, sites, ("diloco",), headroom=least * (inner.headroom - 0.001))
        diloco = next(one for one in found.plans if one.name == "diloco")
        assert diloco.outer_place == ("host" if least else "device")
        outer_bytes = sum(diloco.outer_bytes.values())
        assert diloco.needed_bytes == pytest.approx(inner.needed_bytes + (not least) * outer_bytes)


def test_measured_rates_stay_with_their_site() -> None:
    rates = tuple(tuple(0.0 if a == b else 1e9 * (1 + a + 10 * b) for b in range(4)) for a in range(4))
    found = sites_of(replace(Cluster.read("dgx-h100:4"), measured=rates), 2)
    assert found.clusters[1].measured == ((0.0, 1e9 * 33), (1e9 * 24, 0.0))
    assert found.uplink.bytes_per_s < 1e11


def test_shares_are_whole_and_add_up() -> None:
    for batch in (12, 96, 100, 128, 1000):
        for speeds in ([1.0, 1.0], [5.0, 1.0], [1.0, 1.0, 1.0], [3.0, 2.0, 0.01]):
            found = shares_of(batch, speeds)
            assert sum(found) == batch
            assert min(found) >= 1
    with pytest.raises(ValueError, match="too small for 4 sites; use 4 or more"):
        shares_of(3, [1.0] * 4)


@pytest.mark.parametrize(
    ("cluster", "how", "says"),
    [
        ("dgx-h100:4", "3", "3 sites do not divide the 4 nodes of dgx-h100:4; use 1, 2, 4"),
        ("dgx-h100:4", "1", "--sites 1: give 2 or more, or groups"),
        ("dgx-h100:1+dgx-a100-80gb:3", "2", "nodes of several kinds; use --sites groups"),
    ],
)
def test_sites_that_cannot_be(cluster: str, how: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sites_of(Cluster.read(cluster), how)


@pytest.mark.parametrize("speeds", [(18.9, 7.48), (3.0, 1.1), (1.0, 2.0, 4.1), (1.0, 1.0, 1.3)])
@pytest.mark.parametrize("batch", [24, 45, 64])
def test_no_other_shares_let_the_last_site_be_done_earlier(batch: int, speeds: tuple[float, ...]) -> None:
    found = shares_of(batch, [*speeds])
    assert sum(found) == batch
    grain = gcd(*found)
    ways = product(range(grain, batch + 1, grain), repeat=len(speeds))
    assert max(map(truediv, found, speeds)) == min(max(map(truediv, way, speeds)) for way in ways if sum(way) == batch)
