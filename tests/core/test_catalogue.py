"""The catalogue is plausible, dated and sourced; names resolve; errors name the value and the nearest fix."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest

from penstock.core.catalogue import catalogue, find, link_kinds
from penstock.core.device import PRECISIONS, device, plain

DEVICES = list(catalogue().devices.values())
NODES = list(catalogue().nodes.values())
WANTED = [
    "p100",
    "v100-pcie",
    "rtx-2080-ti",
    "a5000",
    "l40",
    "h800-pcie",
    "tpu-v2",
    "ironwood",
    "ascend-910c",
    "v100-16gb",
    "v100-32gb",
    "a100-40gb",
    "a100-80gb",
    "a100-80gb-pcie",
    "a100-64gb",
    "a800",
    "h100",
    "h100-pcie",
    "h100-96gb-hbm2e",
    "h100-64gb",
    "h800",
    "h20",
    "h200",
    "b200",
    "b300",
    "gb200",
    "gb300",
    "l40s",
    "l4",
    "a10",
    "a40",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "rtx-pro-6000",
    "mi210",
    "mi250x",
    "mi300x",
    "mi325x",
    "mi355x",
    "tpu-v3",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "trainium1",
    "trainium2",
    "ascend-910b",
    "a64fx",
    "metax-c500",
    "iluvatar-bi150",
    "cpu",
]
CUT = ("h20-96gb", "a10", "a10g")
"""Devices that are held below what their units could do."""
PUBLISHED = {
    "A100-SXM (40/80 not printed)": "a100-80gb-sxm",
    "A100-unknown-mem": "a100-80gb-sxm",
    "A100-40GB-SXM": "a100-40gb-sxm",
    "A100-80GB-SXM": "a100-80gb-sxm",
    "A800-80GB": "a800-80gb-sxm",
    "H100-80GB-SXM": "h100-80gb-sxm",
    "H800-80GB": "h800-80gb-sxm",
    "V100-16GB": "v100-16gb-sxm",
    "V100-32GB": "v100-32gb-sxm",
    "MetaX-C500-64GB": "metax-c500",
    "NVIDIA A100-SXM-64GB": "a100-64gb",
    "NVIDIA H100 80GB HBM3": "h100-80gb-sxm",
    "Tesla V100-SXM2-32GB": "v100-32gb-sxm",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "RTX3090-24GB": "rtx-3090",
    "AMD Instinct MI300X": "mi300x",
    "B200": "b200",
    "B300": "b300",
    "GB200": "gb200",
    "GB300": "gb300",
    "GB200 NVL72": "gb200",
    "H100 96GB HBM2e (500 W)": "h100-96gb-hbm2e",
    "A100-SXM-80GB": "a100-80gb-sxm",
    "A100-80GB-PCIe": "a100-80gb-pcie",
    "A100 80 GB": "a100-80gb-sxm",
    "dgx_h100": "h100-80gb-sxm",
}
"""Devices as published runs and drivers write them."""


def name(one):
    return one.name


def accelerators():
    return [one for one in DEVICES if one.node not in ("laptop", "2x-xeon-8480", "2x-epyc-9654", "fugaku")]


@pytest.mark.parametrize("wanted", WANTED)
def test_every_wanted_device_is_there(wanted):
    assert device(wanted).name in catalogue().devices


@pytest.mark.parametrize(("written", "meant"), PUBLISHED.items())
def test_published_names_resolve(written, meant):
    assert device(written).name == meant


@pytest.mark.parametrize("one", DEVICES, ids=name)
def test_a_device_sits_in_its_usual_node(one):
    assert catalogue().nodes[one.node].device is one


def test_no_name_means_two_things():
    for shelf in (DEVICES, NODES):
        names = [each for one in shelf for each in (one.name, *one.aliases)]
        words = [frozenset(re.sub(r"sxm\d", "sxm", each).split("-")) for each in names]
        assert not [each for each, mine in zip(names, words, strict=True) if words.count(mine) > 1]
        assert all(each == plain(each) for each in names)
    of_devices = {each for one in DEVICES for each in (one.name, *one.aliases)}
    assert not of_devices & {each for one in NODES for each in (one.name, *one.aliases)}
    assert find("laptop-cpu") is catalogue().nodes["laptop"]


@pytest.mark.parametrize("one", [*DEVICES, *NODES], ids=name)
def test_facts_have_a_source_and_derived_ones_a_reason(one):
    assert len(one.source) > 10
    assert all(len(how) > 3 for how in one.derived.values())


@pytest.mark.parametrize("one", accelerators(), ids=name)
def test_ratios_of_an_accelerator_are_plausible(one):
    half = one.peak_flops("bf16" if "bf16" in one.matrix_flops else "fp16")
    assert 25 < half / one.memory_bytes_per_s < 600  # FLOP per byte
    assert 0.004 < one.memory_bytes / one.memory_bytes_per_s < 0.12  # seconds to read it all
    assert 1.5 < half / one.vector_flops < 200
    per_cycle = half / (one.units * one.clock_hz)
    assert 250 < per_cycle < 140_000
    if one.power_w:
        assert (0.06e12 if one.architecture == "pascal" else 0.15e12) < half / one.power_w < 4e12


@pytest.mark.parametrize("one", [one for one in DEVICES if one.vendor == "NVIDIA" and one.name not in CUT], ids=name)
def test_peaks_of_nvidia_are_a_power_of_two_per_unit_and_cycle(one):
    """So many multiply-adds do its tensor and vector units; a peak with sparsity or of another chip stands out."""
    per_cycle = one.peak_flops("fp16") / (one.units * one.clock_hz)
    near = min((2**power for power in range(8, 14)), key=lambda whole: abs(whole / per_cycle - 1))
    assert per_cycle == pytest.approx(near, rel=0.14)
    few = one.architecture in ("pascal", "volta", "turing") or (one.architecture == "ampere" and one.l2_bytes > 2**24)
    lanes = 128 if few else 256
    assert one.vector_flops == pytest.approx(lanes * one.units * one.clock_hz, rel=0.12)


@pytest.mark.parametrize("one", DEVICES, ids=name)
def test_lower_precision_is_not_slower(one):
    peaks = one.matrix_flops
    if {"fp8", "bf16"} <= {*peaks}:
        assert peaks["bf16"] <= peaks["fp8"] <= 2.1 * peaks["bf16"]
    if {"fp4", "fp8"} <= {*peaks}:
        assert 1.5 * peaks["fp8"] <= peaks["fp4"] <= 4.1 * peaks["fp8"]
    if {"fp32", "tf32"} <= {*peaks}:
        assert peaks["fp32"] <= peaks["tf32"] * 1.001
    assert {*peaks} <= {*PRECISIONS}


def test_known_relations_between_devices():
    assert device("h200").matrix_flops == device("h100").matrix_flops == device("h100-96gb").matrix_flops
    assert device("a800").matrix_flops == device("a100").matrix_flops
    assert device("a100-64gb").peak_flops("bf16") == pytest.approx(312e12 * 124 / 108, rel=0.01)
    assert device("h20").peak_flops("bf16") < device("a100").peak_flops("bf16")
    assert device("h100-96gb").power_w == 500


@pytest.mark.parametrize("one", NODES, ids=name)
def test_nodes_are_plausible(one):
    if one.usd_per_hour is not None:
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", one.price_date)
        assert one.price_source
        assert 0.01 < one.usd_per_hour / one.devices < 16
    for link in (*one.links, one.host_link, one.nic):
        assert link.kind in link_kinds()
        assert link.latency_s == link_kinds()[link.kind]["latency_s"]
    if one.power_w and one.device.power_w:
        assert 0.9 < one.power_w / (one.devices * one.device.power_w) < 4
    assert one.nic.bytes_per_s * one.nics / one.devices < one.device.memory_bytes_per_s
    assert all(link.bytes_per_s < one.device.memory_bytes_per_s for link in one.links)
    assert one.devices % one.hosts == 0


def test_inner_links_are_faster_than_those_around_them_and_the_network():
    for one in NODES:
        rates = [link.bytes_per_s for link in one.links]
        assert rates == sorted(rates, reverse=True) or one.name == "tpu-v3-pod"
        assert not rates or rates[-1] >= one.nic_rate(one.devices), one.name


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("h100-80gb-sxn", "h100-80gb-sxm"), ("mi300", "mi300x"), ("A100 8OGB", "a100-80gb"), ("tpu-v5", "tpu-v5")],
)
def test_unknown_devices_are_named_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=rf"device='{wrong}' is unknown; did you mean '{near}"):
        device(wrong)


def test_a_name_like_none_is_sent_to_the_list():
    with pytest.raises(ValueError, match="'zzzz' is unknown; penstock machines lists all"):
        device("zzzz")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"memory_bytes": 0}, "memory_bytes=0 must be a number above 0"),
        ({"clock_hz": float("nan")}, "clock_hz=nan must be a number above 0"),
        ({"matrix_flops": {"bf16": -1.0}}, "bf16=-1.0 must be a number above 0"),
        ({"matrix_flops": {"bf61": 1e12}}, "unknown precision 'bf61'; did you mean 'bf16'"),
        ({"matrix_flops": {}}, "matrix_flops is empty"),
        ({"derived": {"clock": "guess"}}, "unknown field 'clock'; did you mean 'clock_hz'"),
    ],
)
def test_devices_refuse_what_cannot_be(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(device("h100"), **changes)


def test_devices_are_frozen_and_can_be_keys():
    with pytest.raises(FrozenInstanceError):
        device("h100").power_w = 1
    assert {device("h100"), device("H100-SXM5")} == {device("h100-80gb-sxm")}
