"""The order of axes: groups hold the devices that an array with one dimension an axis says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from penstock.core import mesh
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDERS, Row, order_of
from penstock.core.setup import Setup
from penstock.predict import Grid

SIZES = [(2, 1, 1, 1), (1, 1, 4, 2), (2, 3, 2, 2), (2, 2, 1, 4), (1, 4, 2, 2), (4, 1, 3, 2), (1, 2, 3, 1)]


def ranks(row: Row) -> list[int]:
    each = row.stride * np.arange(row.size)
    return (each + each // row.run * row.skip).tolist()


def members(axes: list[tuple[str, int]], of: set[str]) -> list[int]:
    """Devices of the group with device 0, in an array whose last dimension is the innermost axis."""
    sizes = [size for _, size in reversed(axes)]
    whole = np.arange(int(np.prod(sizes))).reshape(sizes)
    place = tuple(slice(None) if name in of else 0 for name, _ in reversed(axes))
    return sorted(whole[place].ravel().tolist())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", SIZES)
def test_groups_are_those_of_an_array(order: str, sizes: tuple[int, ...]) -> None:
    tp, cp, dp, pp = sizes
    setup = Setup(seq=64, batch=dp, tp=tp, cp=cp, dp=dp, pp=pp, order=order)
    axes = [(name, getattr(setup, name)) for name in order.split("-")]
    found = {"tp": mesh.tensor(setup), "cp": mesh.context(setup), "pp": mesh.stages(setup)}
    for name, row in found.items():
        assert ranks(row) == members(axes, {name}), name
    assert ranks(mesh.replicas(setup)) == members(axes, {"dp", "cp"})


@pytest.mark.parametrize("order", ["tp-cp-dp-pp", "tp-cp-pp-dp", "tp-pp-cp-dp"])
@pytest.mark.parametrize(("ep", "etp"), [(2, 2), (4, 1), (2, 1), (8, 1)])
def test_experts_are_those_of_megatron_where_its_pipelines_agree(order: str, ep: int, etp: int) -> None:
    setup = Setup(seq=64, batch=4, tp=2, cp=2, dp=4, pp=2, ep=ep, etp=etp, order=order)
    replicas = setup.expert_replicas
    own = {"tp": etp, "ep": ep, "dp": replicas, "pp": 2}
    axes = [(name, own[name]) for name in order.replace("cp", "ep").split("-")]
    same = members(axes, {"pp"}) == ranks(mesh.stages(setup)) and order != "tp-pp-cp-dp"
    found = [mesh.experts(setup), mesh.expert_replicas(setup)]
    assert len(set(ranks(found[0])) & set(ranks(found[1]))) == 1
    stage = set(members([(name, getattr(setup, name)) for name in order.split("-")], {"tp", "cp", "dp"}))
    assert set(ranks(found[0])) | set(ranks(found[1])) <= stage
    if same:
        assert ranks(found[0]) == members(axes, {"ep"})
        assert ranks(found[1]) == members(axes, {"dp"})


def test_arrays_are_as_single_setups() -> None:
    rows = [(order, *sizes) for order, sizes in product(ORDERS, SIZES)]
    columns: dict[str, Any] = dict(
        zip(("order", "tp", "cp", "dp", "pp"), map(list, zip(*rows, strict=True)), strict=True)
    )
    grid = Grid.of(Setup(seq=64, batch=12), **columns)
    of = (mesh.tensor, mesh.context, mesh.stages, mesh.replicas, mesh.experts, mesh.expert_replicas)
    for group in of:
        many = [np.broadcast_to(column, len(grid)).tolist() for column in group(grid)]
        assert [Row(*each) for each in zip(*many, strict=True)] == [group(grid.setup(row)) for row in range(len(grid))]


def test_a_path_leaves_out_what_lies_between() -> None:
    cluster = Cluster.read("dgx-h100:4")
    assert [level.ranks for level in cluster.path(8, 1, 2, 6)] == [2, 4]
    assert cluster.path(8, 1, 2, 6) != cluster.path(8)
    with pytest.raises(ValueError, match=r"size=9, stride=1, first=0, run=2, skip=6 ends at rank 32"):
        cluster.path(9, 1, 2, 6)


def every_group(axes: list[tuple[str, int]], of: set[str]) -> list[list[int]]:
    """Devices of all groups, in such an array."""
    sizes = [size for _, size in reversed(axes)]
    whole = np.arange(int(np.prod(sizes))).reshape(sizes)
    kept = [place for place, (name, _) in enumerate(reversed(axes)) if name not in of]
    moved = np.moveaxis(whole, kept, range(len(kept)))
    return np.sort(moved.reshape(int(np.prod([sizes[place] for place in kept])), -1), axis=1).tolist()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(2, 2, 4, 2), (1, 2, 2, 8), (4, 1, 2, 4), (2, 4, 1, 4), (8, 2, 2, 1)])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_slowest_group_counts_where_links_differ(order: str, sizes: tuple[int, ...], mixed: bool) -> None:
    tp, cp, dp, pp = sizes
    setup = Setup(seq=64, batch=dp, tp=tp, cp=cp, dp=dp, pp=pp, order=order)
    cluster = Cluster.read("dgx-h100:2+dgx-a100-80gb:2" if mixed else "dgx-h100:4")
    rates = np.random.default_rng(len(order) + sum(sizes)).uniform(1e9, 5e10, (4, 4)).tolist()
    cluster = cluster if mixed else replace(cluster, measured=tuple(map(tuple, rates)))
    axes = [(name, getattr(setup, name)) for name in order.split("-")]
    rows = {("cp",): mesh.context(setup), ("pp",): mesh.stages(setup), ("dp", "cp"): mesh.replicas(setup)}
    for names, row in rows.items():
        paths = [cluster.path(*row, first=each[0]) for each in every_group(axes, set(names))]
        found = cluster.slowest(*row, devices=setup.devices)
        assert found in paths, names
        slow = [max((1 / level.bytes_per_s for level in levels), default=0.0) for levels in (found, *paths)]
        assert slow[0] == max(slow), names


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(6, 1, 4, 2), (3, 2, 1, 8), (5, 2, 4, 2), (2, 3, 2, 4), (4, 2, 3, 2), (12, 1, 2, 2)])
def test_groups_that_lie_over_the_end_of_a_node_count(order: str, sizes: tuple[int, ...]) -> None:
    """Of equal nodes too: with tp=6 on nodes of eight, the second group has devices of two."""
    tp, cp, dp, pp = sizes
    setup = Setup(seq=64, batch=dp, tp=tp, cp=cp, dp=dp, pp=pp, order=order)
    cluster = Cluster.read(f"dgx-h100:{-(-setup.devices // 8)}")
    axes = [(name, getattr(setup, name)) for name in order.split("-")]
    rows = {("tp",): mesh.tensor(setup), ("cp",): mesh.context(setup), ("dp", "cp"): mesh.replicas(setup)}
    for names, row in rows.items():
        paths = [cluster.path(*row, first=each[0]) for each in every_group(axes, set(names))]
        found = cluster.slowest(*row, devices=setup.devices)
        slow = [max((1 / level.bytes_per_s for level in levels), default=0.0) for levels in (found, *paths)]
        assert slow[0] == max(slow), names


@pytest.mark.parametrize(
    ("cluster", "size", "stride", "kind"),
    [
        ("dgx-h100:4", 4, 2, "nvswitch"),
        ("dgx-h100:4", 8, 2, "infiniband"),
        ("dgx-h100:2+dgx-a100-80gb:2", 8, 4, "infiniband"),
    ],
)
def test_a_hop_is_the_slowest_of_all(cluster: str, size: int, stride: int, kind: str) -> None:
    machines = Cluster.read(cluster)
    every = [machines.path(2, stride, first=place * stride) for place in range(size - 1)]
    found = machines.hop(size, stride)
    assert found in every
    assert found[-1].kind == kind
    assert found[-1].bytes_per_s == min(levels[-1].bytes_per_s for levels in every)
    with pytest.raises(ValueError, match="size=1 has no neighbours; use 2 or more"):
        machines.hop(1, stride)


def test_texts_of_megatron_are_read() -> None:
    assert order_of("tp-cp-ep-dp-pp") == Setup(seq=8, batch=1).order
    assert Setup(seq=8, batch=1, order="tp-cp-ep-pp-dp") == Setup(seq=8, batch=1, order="tp-pp-dp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pp-tp", "order=pp-tp is no order of tp, cp, dp and pp; use tp-cp-dp-pp, tp-cp-pp-dp, "),
        ("cp-tp-dp-pp", "is no order of tp, cp, dp and pp, with tp first, since it talks most; use tp-cp-dp-pp"),
        ("tp-cp-dp-ep-pp", "order=tp-cp-dp-ep-pp is no order"),
        ("", "order= is no order"),
    ],
)
def test_other_texts_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        order_of(text)
