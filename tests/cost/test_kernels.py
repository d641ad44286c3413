"""The time model of kernels: never above the peaks, monotone in sizes, close to what was measured."""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured_kernels import rows
from penstock.core.catalogue import catalogue
from penstock.cost.constants import table
from penstock.cost.kernels import attention, grouped_matmul, matmul, memory_bound, unfused_attention

MOST_OFF = {
    ("a100-80gb-sxm", "matmul"): 0.055,
    ("h100-80gb-sxm", "matmul"): 0.145,
    ("h200-141gb-sxm", "matmul"): 0.135,
    ("b200", "matmul"): 0.170,
    ("b300", "matmul"): 0.190,
    ("l40s", "matmul"): 0.140,
    ("rtx-pro-6000", "matmul"): 0.070,
    ("a100-80gb-sxm", "attention"): 0.065,
    ("h100-80gb-sxm", "attention"): 0.210,
    ("h200-141gb-sxm", "attention"): 0.160,
    ("b200", "attention"): 0.220,
    ("b300", "attention"): 0.215,
    ("l40s", "attention"): 0.135,
    ("rtx-pro-6000", "attention"): 0.160,
}
"""Mean relative error against the sample, by device and kind; these may shrink, never grow."""
NAMES = ("a100-80gb-sxm", "h100-80gb-sxm", "b200", "mi300x", "v100-32gb-sxm")
SIZE = st.integers(1, 20_000)


def device(name):
    return catalogue().device(name)


def half(name):
    return "bf16" if "bf16" in device(name).matrix_flops else "fp16"


@pytest.mark.parametrize("name", [name for name, kind in MOST_OFF if kind == "matmul"])
def test_matmul_is_close_to_measured(name):
    m, n, k, seconds = rows("matmul")[name]
    off = np.mean(np.abs(matmul(device(name), "bf16", m, n, k).seconds / seconds - 1))
    assert off <= MOST_OFF[name, "matmul"]


@pytest.mark.parametrize("name", [name for name, kind in MOST_OFF if kind == "attention"])
def test_attention_is_close_to_measured(name):
    batch, heads, seq, size, kv_heads, seconds = rows("attention")[name]
    found = attention(device(name), "bf16", batch, heads, seq, size, kv_heads=kv_heads).seconds
    assert np.mean(np.abs(found / seconds - 1)) <= MOST_OFF[name, "attention"]


@given(st.sampled_from(NAMES), SIZE, SIZE, SIZE, st.integers(1, 64), st.integers(0, 3), st.integers(1, 500))
def test_matmul_is_monotone_and_below_the_peaks(name, m, n, k, batch, side, more):
    chip, sizes = device(name), [m, n, k, batch]
    larger = [size + more * (place == side) for place, size in enumerate(sizes)]
    shorter, longer = (float(matmul(chip, half(name), *each).seconds) for each in (sizes, larger))
    assert longer >= shorter * (1 - 1e-12)
    assert shorter >= 2 * m * n * k * batch / chip.peak_flops(half(name))
    assert shorter >= 2 * batch * (m * k + k * n + m * n) / chip.memory_bytes_per_s


@given(
    *(st.sampled_from(NAMES), st.integers(1, 16), st.integers(1, 64), st.integers(1, 20_000)),
    *(st.sampled_from((64, 128, 192)), st.booleans(), st.integers(1, 500)),
)
def test_attention_is_monotone_and_below_the_peaks(name, batch, heads, seq, size, causal, more):
    chip = device(name)
    sizes = [batch, heads, np.array([seq, seq + more]), size]
    shorter, longer = attention(chip, half(name), *sizes, causal=causal).seconds
    pairs = seq * (seq + 1) / 2 if causal else seq * seq
    assert longer >= shorter * (1 - 1e-12)
    assert shorter >= 4 * batch * heads * pairs * size / chip.peak_flops(half(name))
    assert attention(chip, half(name), batch, heads, seq, size, causal=causal, backward=True).seconds > shorter


def test_a_window_saves_time_and_needs_a_causal_mask():
    chip = device("h100")
    whole, window = (attention(chip, "bf16", 1, 32, 32768, 128, window=window).seconds for window in (None, 1024))
    assert whole / window > 8
    with pytest.raises(ValueError, match="causal=True"):
        attention(chip, "bf16", 1, 32, 4096, 128, causal=False, window=128)


def test_fused_attention_beats_products_and_softmax_apart():
    chip = device("a100-80gb-sxm")
    assert (
        unfused_attention(chip, "bf16", 1, 32, 8192, 128).seconds
        > 2 * attention(chip, "bf16", 1, 32, 8192, 128).seconds
    )


def test_experts_cost_more_than_one_product_of_all_rows():
    chip = device("h100")
    one, many = (grouped_matmul(chip, "bf16", 8192, 4096, 4096, groups).seconds for groups in (1, 64))
    assert many > 1.2 * one


def test_memory_bound_work_reaches_its_rate_only_when_large():
    chip = device("h100")
    small, large = 1e6 / memory_bound(chip, 1e6).seconds, 1e10 / memory_bound(chip, 1e10).seconds
    assert small < 0.2 * chip.memory_bytes_per_s < 0.85 * chip.memory_bytes_per_s < large < chip.memory_bytes_per_s


def test_what_was_not_measured_says_so():
    assert not matmul(device("h100"), "fp16", 512, 512, 512).guessed
    assert matmul(device("mi300x"), "bf16", 512, 512, 512).guessed
    assert not attention(device("h100"), "bf16", 1, 8, 2048, 128).guessed
    assert attention(device("h100"), "bf16", 1, 8, 2048, 128, backward=True).guessed
    assert memory_bound(device("h100"), 1e9).guessed
    assert unfused_attention(device("h100"), "bf16", 1, 8, 2048, 128).guessed
    with pytest.raises(ValueError, match="no peak for 'fp8'"):
        matmul(device("a100"), "fp8", 512, 512, 512)
    with pytest.raises(ValueError, match="moved_bytes=nan"):
        memory_bound(device("a100"), float("nan"))
    with pytest.raises(ValueError, match="m=0 is not a size"):
        matmul(device("a100"), "bf16", 0, 512, 512)


def test_a_hundred_thousand_shapes_take_well_under_a_second():
    sizes = np.random.default_rng(0).integers(1, 9000, (3, 100_000))
    spent = []
    for _ in range(3):
        start = time.process_time()
        matmul(device("h100"), "bf16", *sizes)
        spent.append(time.process_time() - start)
    assert min(spent) < 1


def test_every_constant_lies_within_its_range_and_every_level_has_a_source():
    for name, part in table().items():
        for facts in part.values():
            if name != "levels":
                low, high = (float(word) for word in facts["range"].split(" to "))
                assert low <= facts["value"] <= high
                assert facts["meaning"]
                assert facts["source"]
    for name, part in table()["levels"].items():
        assert "default" in part
        for facts in part.values():
            assert facts["level"] <= 1 or name == "attention_backward"
            assert ("shapes" in facts) == facts["source"].startswith("aiconfigurator-core")
            assert re.match("aiconfigurator-core|guess|estimate|not measured", facts["source"])
            assert 0 < facts["error"] < 1
