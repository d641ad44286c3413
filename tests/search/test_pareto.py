"""Trade-offs against brute force: no point that is called undominated is beaten, and none that is not is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_strategies import DENSE, TASK, every

from penstock.core.cluster import Cluster
from penstock.search import pareto as trades
from penstock.search.margins import OVER_BYTES
from penstock.search.pareto import STEP, around, undominated
from penstock.search.planner import plan
from penstock.search.space import space_of

NARROW = "tp=8,zero=1,cp=1,recompute=none,schedule=1f1b"
FIX = "cp=1,zero=1,micro=1..2,recompute=none/full,schedule=1f1b"


def beaten(one: tuple[float, float], pairs: list[tuple[float, float]]) -> bool:
    return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in pairs)


@pytest.mark.parametrize("values", [3, 10, 1000])
def test_fronts_are_those_of_brute_force(values: int) -> None:
    random = np.random.default_rng(values)
    for size in (0, 1, 2, 7, 60):
        pairs = [(float(x), float(y)) for x, y in random.integers(0, values, (size, 2))]
        assert undominated(pairs) == [not beaten(one, pairs) for one in pairs]


def test_the_front_of_memory_is_near_that_of_all_strategies() -> None:
    space = space_of(DENSE, "dgx-h100:1", **TASK, fix=FIX)
    found = plan(DENSE, "dgx-h100:1", **TASK, fix=FIX, top=3)
    points = around(space, found).memory
    front = [(one.seconds, one.needed_bytes) for one in (point.choice for point in points)]
    whole = every(space)
    assert len(whole) > 40
    assert {one.setup for one in found.choices} <= {point.choice.setup for point in points}
    assert sum(not beaten(one, front) for one in front) >= 5
    for one in whole:
        near = [s for s, size in front if size <= (1 + STEP + OVER_BYTES) * one.needed_bytes]
        assert min(near) <= 1.01 * one.seconds, one.split


def test_other_numbers_of_nodes_are_planned_like_the_own() -> None:
    space = space_of(DENSE, "dgx-h100:2", **TASK, fix=NARROW)
    found = plan(DENSE, "dgx-h100:2", **TASK, fix=NARROW, top=1)
    said: list[str] = []

    def tell(words: str) -> bool:
        said.append(words)
        return True

    by_devices = {point.devices: point for point in around(space, found, tell).devices}
    assert [*by_devices] == [8, 16, 32, 64]
    assert [*dict.fromkeys(said)][:3] == [f"looking at {devices} devices" for devices in (8, 32, 64)]
    assert by_devices[16].choice == found.best
    other = plan(DENSE, "dgx-h100:4", **TASK, fix=NARROW, top=1).best
    assert by_devices[32].choice.seconds == pytest.approx(other.seconds, rel=1e-12)
    rent = by_devices[8].usd_per_step
    assert rent == pytest.approx(space.cluster.usd_per_hour / 2 * by_devices[8].choice.seconds / 3600)
    assert by_devices[8].device_hours == pytest.approx(8 * by_devices[8].choice.seconds / 3600)


def test_numbers_of_devices_that_cannot_be_say_why() -> None:
    space = space_of(DENSE, "dgx-h100:2", **TASK, fix="dp=2,tp=8")
    found = plan(DENSE, "dgx-h100:2", **TASK, fix="dp=2,tp=8,cp=1", top=1)
    refused = dict(around(replace(space, fixed=space.fixed | {"cp": (1,), "pp": (1,)}), found).refused)
    assert [*refused] == [8, 32, 64]
    assert "8 devices" in refused[8]


@pytest.mark.parametrize(
    ("cluster", "counts"),
    [
        ("dgx-h100:4+dgx-a100-80gb:2", [[2, 1], [8, 4], [16, 8]]),
        ("dgx-h100:3", [[1], [2], [6], [12]]),
        ("dgx-h100:1", [[2], [4]]),
        ("dgx-h100:16", [[4], [8], [32], [64]]),
    ],
)
def test_numbers_of_nodes(cluster: str, counts: list[list[int]]) -> None:
    made = trades._others(Cluster.read(cluster))
    assert [[count for _, count in one.groups] for one in made] == counts
