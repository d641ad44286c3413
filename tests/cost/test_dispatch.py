"""Copies of tokens on their way to experts."""

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.cost.collectives import seconds_of
from penstock.cost.dispatch import copies, dispatch_s, visited
from penstock.cost.stack import Stack


@pytest.mark.parametrize(("parts", "experts", "topk"), [(4, 128, 8), (8, 256, 8), (2, 8, 2), (16, 128, 4)])
def test_tokens_visit_as_many_parts_as_random_ones_do(parts, experts, topk):
    lots = np.random.default_rng(0)
    chosen = np.argsort(lots.random((4000, experts)), axis=1)[:, :topk] // (experts // parts)
    counted = np.mean([len(set(row)) for row in chosen.tolist()])
    assert visited(parts, experts, topk) == pytest.approx(counted, rel=0.01)


def test_one_copy_goes_to_each_device_and_between_nodes_to_each_node():
    node, nodes = Cluster.read("dgx-h100:1").path(8, 1), Cluster.read("dgx-h100:4").path(32, 1)
    assert copies("alltoall", 8, 128, 8) == 8 > copies("deepep", 8, 128, 8) > 5
    inside = dispatch_s("deepep", 1e8, 128, 8, node)
    assert inside == seconds_of("all_to_all", 1e8 * visited(8, 128, 8), node)
    between = dispatch_s("hybridep", 1e8, 128, 8, nodes) / dispatch_s("alltoall", 1e8, 128, 8, nodes)
    assert between == pytest.approx(visited(4, 128, 8) / 8, rel=0.02)


def test_dispatchers_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="dispatcher=mine is not known; use alltoall, deepep, hybridep"):
        Stack(name="x", dispatcher="mine")
