"""Clusters by name and from files, and the links that groups of ranks cross, worked out by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest

from penstock.core.catalogue import catalogue
from penstock.core.cluster import Cluster, Level, Link, Node, Tier

read = Cluster.read


def rates(levels: tuple[Level, ...]) -> list[tuple[int, float]]:
    return [(level.ranks, round(level.bytes_per_s / 1e9, 3)) for level in levels]


@pytest.mark.parametrize(
    ("text", "nodes", "per_node"),
    [
        ("dgx-h100:64", 64, 8),
        ("dgx-h100", 1, 8),
        ("a100-80gb:8", 1, 8),
        ("A100-80GB-SXM:4", 1, 4),
        ("h100:12", 2, 6),
        ("gb200:256", 4, 64),
        ("gb200:352", 8, 44),
        ("gb200-nvl72:2", 2, 72),
        ("v100-32gb", 1, 8),
        ("jean-zay:16", 16, 4),
        ("v100-32gb:16x4", 16, 4),
        ("h100:2x8", 2, 8),
        ("h100:3x2", 3, 2),
        ("dgx-h100:2x4", 2, 4),
        ("gb200:64x4", 4, 64),
        ("gb200:2x4", 1, 8),
    ],
)
def test_names_of_clusters(text, nodes, per_node):
    cluster = read(text)
    assert (cluster.nodes, cluster.devices) == (nodes, nodes * per_node)
    assert cluster.uniform


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dgx-h10:4", "'dgx-h10' is no node or device; did you mean 'dgx-h100'?"),
        ("8xH100", "'8xH100' is no node or device; did you mean 'H100:8'?"),
        ("p4d x 2", "did you mean 'p4d:2'?"),
        ("dgx-h100:0", "'0' is no number of nodes or devices"),
        ("dgx-h100:many", "'many' is no number of nodes or devices"),
        ("dgx-h100:", "'' is no number"),
        ("h100:11", "11 devices do not fill nodes of 8 .* use 8 or 16"),
        ("p4d:2+", "cluster='p4d:2[+]' is not read; write NODE:NODES"),
        ("a:b:c", "write NODE:NODES, DEVICE:DEVICES, NAME:HOSTSxDEVICES or FILE.toml"),
        ("h100:2x16", "dgx-h100 has 8 devices, not 16; use 1 to 8"),
        ("h100:2x", "'' is no number"),
        ("h100:2x4x2", "'4x2' is no number"),
        ("nothere.toml", "nothere.toml does not exist"),
    ],
)
def test_what_is_no_cluster(text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


def test_sums_over_the_nodes():
    cluster = read("p4d:2+p5:1")
    p4d, p5 = catalogue().nodes["p4d"], catalogue().nodes["p5"]
    assert cluster.usd_per_hour == pytest.approx(2 * p4d.usd_per_hour + p5.usd_per_hour)
    assert cluster.power_w == pytest.approx(2 * p4d.power_w + p5.power_w)
    assert not cluster.uniform
    assert [cluster.device_of(rank).name for rank in (0, 15, 16, 23)] == ["a100-40gb-sxm"] * 2 + ["h100-80gb-sxm"] * 2
    with pytest.raises(ValueError, match=r"rank=24 is not on p4d:2[+]p5:1, whose ranks are 0 to 23"):
        cluster.node_of(24)
    assert read("leonardo:2").usd_per_hour is None


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [
        (1, 1, []),
        (2, 1, [(2, 450)]),
        (8, 1, [(8, 450)]),
        (4, 2, [(4, 450)]),
        (4, 4, [(2, 450), (2, 50)]),
        (16, 8, [(16, 50)]),
        (16, 1, [(8, 450), (2, 50)]),
        (128, 1, [(8, 450), (16, 50)]),
        (2, 64, [(2, 50)]),
    ],
)
def test_paths_in_switched_nodes(size, stride, expected):
    assert rates(read("dgx-h100:16").path(size, stride)) == expected


def test_lanes_share_the_adapters_of_a_node():
    p4d, p5, polaris = read("p4d:2"), read("p5:2"), read("polaris:2")
    assert rates(p4d.path(2, 8)) == [(2, 6.25)]  # four adapters of 12.5 for eight devices
    assert [rates(p4d.path(2, 8, lanes=lanes))[0][1] for lanes in (1, 4, 5, 8)] == [12.5, 12.5, 10, 6.25]
    assert [rates(p5.path(2, 8, lanes=lanes))[0][1] for lanes in (1, 8)] == [50, 50]  # four adapters each, alone too
    assert rates(polaris.path(2, 4)) == [(2, 12.5)]
    with pytest.raises(ValueError, match="lanes=9 is not on a node of p4d:2; use 1 to 8"):
        p4d.path(2, 8, lanes=9)


def test_a_mesh_splits_its_links_over_the_others():
    box = read("mi300x-box")
    assert [rates(box.path(size)) for size in (2, 4, 8)] == [[(2, 64)], [(4, 192)], [(8, 448)]]
    assert rates(read("jean-zay:1").path(2)) == [(2, 50)]


def test_links_in_links():
    frontier = read("frontier:4")
    assert rates(frontier.path(2)) == [(2, 200)]
    assert rates(frontier.path(4)) == [(2, 200), (2, 50)]  # one other module: a third of the outer links
    assert rates(frontier.path(8)) == [(2, 200), (4, 150)]
    assert rates(frontier.path(4, 2)) == [(4, 75)]  # one die of each module: three of six others
    assert rates(frontier.path(16)) == [(2, 200), (4, 150), (2, 12.5)]


def test_a_torus_gives_a_group_one_axis_unless_it_is_everything():
    pod = read("tpu-v5e-pod")
    assert rates(pod.path(16)) == [(16, 100)]
    assert rates(pod.path(256)) == [(256, 200)]


def test_a_switch_over_a_rack_is_one_level():
    racks = read("gb200-nvl72:2")
    assert rates(racks.path(72)) == [(72, 900)]
    assert rates(racks.path(9, 8)) == [(9, 900)]
    assert rates(racks.path(144)) == [(72, 900), (2, 50)]
    assert racks.path(72)[0].reduces
    uneven = racks.path(16, 8)  # nine on the first rack, seven on the second
    assert rates(uneven) == [(9, 900), (2, 50)]


def test_a_part_of_a_node_keeps_its_share_of_adapters_and_links():
    assert read("v100-32gb:16x4").groups[0][0].name == "jean-zay-v100"
    assert [read(f"h100:{hosts}x4").groups[0][0].name for hosts in (1, 2)] == ["dgx-h100", "jean-zay-h100"]
    rack = read("gb200:64").groups[0][0]
    assert (rack.hosts, rack.nics, rack.usd_per_hour) == (16, 64, pytest.approx(16 * 42))
    assert rack.host_bytes == 16 * 960e9
    half = read("p4d").groups[0][0].part(4)
    assert (half.devices, half.nics, half.links[-1].devices) == (4, 2, 4)
    assert read("mi300x:4").path(4)[0].bytes_per_s == pytest.approx(192e9)
    assert read("mi300x:1").path(1) == ()
    assert read("mi250x:4").path(4)[-1].bytes_per_s == pytest.approx(50e9)


def test_the_slowest_of_mixed_nodes_sets_the_pace():
    mixed = read("p4d:1+p5:1")
    assert rates(mixed.path(8)) == [(8, 300)]
    assert rates(mixed.path(8, first=8)) == [(8, 450)]
    assert rates(mixed.path(16)) == [(8, 300), (2, 6.25)]
    wide = read("dgx-h100:1+gb200-nvl72:1")
    assert rates(wide.path(80)) == [(72, 450), (2, 50)]
    assert rates(wide.path(72, first=8)) == [(72, 900)]
    pairs = read("8x-h100-nvl:1+dgx-h100:1")
    assert rates(pairs.path(8)) == [(2, 300), (4, 63)]
    assert rates(pairs.path(8, first=8)) == [(8, 450)]


@pytest.mark.parametrize(
    ("size", "stride", "first"),
    [(33, 1, 0), (0, 1, 0), (2, 0, 0), (2, 1, -1), (2, 32, 0), (5, 8, 0), (8, 1, 25)],
)
def test_groups_that_do_not_lie_on_the_cluster(size, stride, first):
    with pytest.raises(ValueError, match=f"size={size}, stride={stride}, first={first} .* has ranks 0 to 31"):
        read("dgx-h100:4").path(size, stride, first=first)


def tiered(**changes):
    tiers = (Tier(nodes=2, oversubscription=2.0, extra_s=1e-6), Tier(nodes=4, oversubscription=1.5))
    return replace(read("dgx-h100:8"), **{"tiers": tiers} | changes)


def test_tiers_of_the_network():
    assert rates(tiered().path(8, 8)) == [(2, 50), (2, 25), (2, round(50 / 3, 3))]
    assert [level.latency_s for level in tiered().path(8, 8)] == pytest.approx([3e-6, 4e-6, 4e-6])
    assert rates(tiered().path(2, 16)) == [(2, 25)]
    assert rates(tiered(tiers=(Tier(nodes=8, oversubscription=4.0),)).path(8, 8)) == [(8, 50)]
    with pytest.raises(ValueError, match="write the innermost first"):
        tiered(tiers=(Tier(nodes=4), Tier(nodes=2)))
    with pytest.raises(ValueError, match="must be 1 or more"):
        Tier(nodes=2, oversubscription=0.5)


def test_measured_rates_between_nodes():
    matrix = ((0.0, 320e9, 80e9), (320e9, 0.0, 320e9), (80e9, 320e9, 0.0))
    cluster = replace(read("dgx-h100:3"), measured=matrix)
    assert rates(cluster.path(2, 8)) == [(2, 40)]  # 320 shared by eight lanes
    assert rates(cluster.path(2, 16)) == [(2, 10)]
    assert rates(cluster.path(3, 8)) == [(3, 40)]  # neighbours 0-1 and 1-2
    assert rates(cluster.path(2, 8, lanes=1)) == [(2, 50)]  # no more than its adapter
    assert rates(cluster.path(8)) == [(8, 450)]


def test_measured_rates_between_devices():
    slow = tuple(tuple(100e9 if i // 8 == j // 8 else 20e9 for j in range(16)) for i in range(16))
    cluster = replace(read("dgx-h100:2"), measured=slow)
    assert rates(cluster.path(16)) == [(8, 100), (2, 20)]
    with pytest.raises(ValueError, match=r"measured has 2 rows of .* give 3 x 3 .nodes. or 24 x 24"):
        replace(read("dgx-h100:3"), measured=((0.0, 1.0), (1.0, 0.0)))
    with pytest.raises(ValueError, match="a rate of 0 or below"):
        replace(read("dgx-h100:2"), measured=((0.0, 0.0), (1.0, 0.0)))


def test_links_must_nest():
    node = catalogue().nodes["dgx-h100"]
    inner = Link(kind="nvswitch", devices=3, bytes_per_s=1e9, latency_s=1e-6)
    with pytest.raises(ValueError, match=r"links join \[3\] devices; write the innermost first and 8 last"):
        replace(node, links=(inner,))
    with pytest.raises(ValueError, match="usd_per_hour=5 has no price_date"):
        replace(node, usd_per_hour=5.0, price_date="")


def by_hand(cluster: Cluster, size: int, stride: int, first: int) -> list[int]:
    """Parts at each level of a group, counted rank by rank."""
    place = [(n, i) for n, node in enumerate(nodes_of(cluster)) for i in range(node.devices)]
    members = [place[first + i * stride] for i in range(size)]
    depth = max(len(node.links) for node in nodes_of(cluster))
    keys = [[(n, i) for n, i in members]]
    for level in range(depth):
        keys.append([(n, i // width(nodes_of(cluster)[n], level)) for n, i in members])
    keys += [[(n // tier.nodes, 0) for n, _ in members] for tier in cluster.tiers if tier.nodes < cluster.nodes]
    keys.append([(0, 0)] * size)
    parts = []
    for below, own in pairwise(keys):
        inside: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for one, whole in zip(below, own, strict=True):
            inside.setdefault(whole, set()).add(one)
        parts.append(max(map(len, inside.values())))
    return [count for count in parts if count > 1]


def nodes_of(cluster: Cluster) -> list[Node]:
    return [node for node, count in cluster.groups for _ in range(count)]


def width(node: Node, level: int) -> int:
    return node.links[level].devices if level < len(node.links) else node.devices


@pytest.mark.parametrize("text", ["frontier:3", "8x-h100-nvl:1+dgx-h100:2+leonardo:1", "gb200:24+p4d:2", "fugaku:9"])
def test_parts_are_those_counted_rank_by_rank(text):
    cluster = read(text)
    tiers = (Tier(nodes=2, oversubscription=2.0),) if cluster.nodes > 2 else ()
    cluster = replace(cluster, tiers=tiers)
    groups = [
        (size, stride, first)
        for size in (1, 2, 3, 4, 5, 8, 9)
        for stride in (1, 2, 3, 4, 7, 8)
        for first in (0, 1, 3, 8)
        if first + (size - 1) * stride < cluster.devices
    ]
    assert len(groups) > 30
    for size, stride, first in groups:
        found = [level.ranks for level in cluster.path(size, stride, first=first)]
        assert found == by_hand(cluster, size, stride, first), (size, stride, first)
