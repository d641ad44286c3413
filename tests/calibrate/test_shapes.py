"""Which sizes are measured: enough, spread, and within the limits."""

import numpy as np
import pytest

from penstock.calibrate.shapes import attentions, batched, products, sizes


@pytest.mark.parametrize(("large", "most"), [(True, 2e14), (True, 2e12), (False, 1e10), (False, 1e8)])
def test_products_stay_below_the_limit_and_cover_the_range(large, most):
    found = products(most, large=large)
    assert all(each.flops <= most for each in found)
    forward = np.log2([each[2:] for each in found if each.layout == "forward"])
    assert len(forward) >= 48
    assert len(set(found)) == len(found)
    low, high = (512, 16384) if large else (16, 4096)
    for side in forward.T[:, : len(forward) // 2]:  # the first half is spread as far as the whole
        assert side.min() < np.log2(low) + 1.5
        assert side.max() > min(np.log2(high), np.log2(most / 2 / low**2)) - 2.5


def test_gradients_of_a_layer_are_its_products_turned():
    found = products(2e14, large=True)
    for number, each in enumerate(found):
        if each.layout == "input_grad":
            layer, weights = found[number - 1], found[number + 1]
            assert (each.m, each.n, each.k) == (layer.m, layer.k, layer.n)
            assert (weights.layout, weights.m, weights.n, weights.k) == ("weight_grad", layer.n, layer.k, layer.m)
    assert sum(each.layout == "weight_grad" for each in found) > 15


def test_some_sizes_are_no_multiples_of_tiles():
    odd = [each for each in products(2e14, large=True) if each.m % 64 or each.n % 64 or each.k % 64]
    assert 5 < len(odd) < 60


@pytest.mark.parametrize("large", [True, False])
def test_attentions_and_batches(large):
    found = attentions(large=large)
    assert all(each.heads % each.kv_heads == 0 for each in found)
    assert any(each.heads > each.kv_heads for each in found[:6])
    assert {each.seq for each in found} >= ({1024, 16384} if large else {64, 2048})
    assert len(batched(1e15, large=large)) >= 4
    assert batched(1.0, large=large) == []


def test_sizes_end_at_the_last():
    assert sizes(1 << 10, 1 << 20, 8) == [1 << 10, 1 << 13, 1 << 16, 1 << 19]
    assert sizes(64 << 10, 2 << 30)[-1] == 1 << 30
