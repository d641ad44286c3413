"""Local updates against a simulation of sites, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.across import across
from penstock.predict.outer import Uplink, outer_cost, outers, rate_for

UPLINK = Uplink(sites=4, bytes_per_s=1e8, latency_s=0.01)
MODEL = gpt(layers=16, hidden=4096, heads=32, vocab=32000, positions=1024)


def played_s(every: int, fragments: int, overlap: int, inner_s: float, message_s: float, rounds: int = 60) -> float:
    """Seconds of an inner step on average: fragments go over one link in a row, and are waited for."""
    between, now, free, done = every // fragments, 0.0, 0.0, {}
    begun = 0.0
    for step in range(1, rounds * every + 1):
        now += inner_s
        if step % between == 0:
            free = max(free, now) + message_s
            done[step] = free
        if (due := step - overlap) in done:
            now = max(now, done.pop(due))
        if step == rounds // 2 * every:
            begun = now
    return (now - begun) / ((rounds - rounds // 2) * every)


@pytest.mark.parametrize(("every", "fragments"), [(8, 1), (12, 3), (12, 4)])
@pytest.mark.parametrize("overlap", [0, 1, 2, 6])
@pytest.mark.parametrize("message_s", [0.3, 1.7, 2.5, 5.0, 20.0])
def test_the_closed_form_is_what_sites_do(every: int, fragments: int, overlap: int, message_s: float) -> None:
    outer = replace(outers(12)["diloco"], every=every, fragments=fragments, overlap=overlap)
    uplink = replace(UPLINK, latency_s=0.0)
    parameters = message_s * uplink.bytes_per_s / (1.5 * outer.wire_bytes / fragments)
    found = outer_cost(outer, uplink, inner_s=1.0, parameters=parameters, update_s=0.0)
    assert found.message_s == pytest.approx(message_s)
    assert found.seconds == pytest.approx(played_s(every, fragments, overlap, 1.0, message_s), rel=0.02)


def test_co2_takes_as_many_steps_as_hide_its_message() -> None:
    found = outer_cost(outers(32)["co2"], UPLINK, inner_s=2.0, parameters=1e9, update_s=0.3)
    assert (found.outer.every - 1) * 2.0 < found.message_s <= found.outer.every * 2.0
    assert found.exposed_s == 0
    assert found.seconds == pytest.approx(2.0 + 0.3 / found.outer.every)


@pytest.mark.parametrize("name", ["diloco", "streaming-diloco"])
def test_the_needed_rate_gives_that_share(name: str) -> None:
    outer = outers(32)[name]
    rate = rate_for(outer, UPLINK, 0.9, inner_s=3.0, parameters=8e9)
    assert rate is not None
    found = outer_cost(outer, replace(UPLINK, bytes_per_s=rate), inner_s=3.0, parameters=8e9, update_s=0.0)
    assert 3.0 / found.seconds == pytest.approx(0.9)
    assert rate_for(outer.at(1), replace(UPLINK, latency_s=1e3), 0.9, inner_s=3.0, parameters=8e9) is None


def test_4_bits_and_fragments_need_a_hundredth_of_the_rate() -> None:
    """Douillard et al. 2025 (arXiv:2501.18512) say two orders of magnitude less than gradients in each step."""
    found = outers(32)
    each_step = replace(found["diloco"], every=1)
    most, least = (
        rate_for(one, replace(UPLINK, latency_s=0.0), 0.95, inner_s=3.0, parameters=8e9)
        for one in (each_step, found["streaming-diloco"])
    )
    assert most is not None
    assert least is not None
    assert most > 100 * least


def setup(**fields: object) -> Setup:
    return Setup(**{"seq": 1024, "batch": 32, "pp": 4, "dp": 2, **fields})  # type: ignore[arg-type]


def test_a_pipeline_over_quick_links_is_a_pipeline() -> None:
    site = Cluster.read("h100:4")
    quick = Uplink(sites=2, bytes_per_s=1e13, latency_s=0.0)
    found = across(MODEL, (site, site), quick, setup(), stack("megatron-core"))
    whole = predict(MODEL, Cluster.read("h100:8"), setup(), stack("megatron-core"))
    assert found.seconds == pytest.approx(whole.seconds, rel=0.02)
    assert found.rooms[0].weights == whole.rooms[0].weights


def test_a_slow_link_bounds_a_pipeline_from_below() -> None:
    site, slow = Cluster.read("h100:4"), Uplink(sites=2, bytes_per_s=2e8, latency_s=0.0)
    seconds = [
        across(MODEL, (site, site), slow, setup(schedule=name), stack("megatron-core")).seconds
        for name in ("1f1b", "eager-1f1b")
    ]
    least_s = 32 * 1024 * 4096 * 2 / 2e8
    assert least_s < seconds[1] < seconds[0] < 3 * least_s


def test_slower_devices_get_fewer_layers() -> None:
    fast, slow = Cluster.read("h100:4"), Cluster.read("a100-80gb:4")
    quick = Uplink(sites=2, bytes_per_s=1e12, latency_s=0.0)
    found = across(MODEL, (fast, slow), quick, setup(), stack("megatron-core"))
    ahead, behind = sum(found.setup.stage_layers[:2]), sum(found.setup.stage_layers[2:])
    assert ahead > behind > 0
    assert ahead + behind == 16
    even = setup(stage_layers=(4, 4, 4, 4))
    slowest = predict(MODEL, Cluster.read("a100-80gb:8"), even, stack("megatron-core")).seconds
    assert found.seconds < slowest
    assert found.memory_bytes[0] == fast.device_of(0).memory_bytes
