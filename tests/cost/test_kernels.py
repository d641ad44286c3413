"""The time model of kernels: never above the peaks, monotone in sizes, close to what was measured."""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measured_kernels import rows
from penstock.core.catalogue import catalogue
from penstock.core.cluster import Cluster
from penstock.core.config import read_architecture
from penstock.core.setup import Setup
from penstock.cost.constants import table
from penstock.cost.kernels import attention, cast, grouped_matmul, matmul, memory_bound
from penstock.cost.stack import stack
from penstock.predict import predict

MOST_OFF = {
    ("a100-80gb-sxm", "matmul", "bf16"): 0.055,
    ("h100-80gb-sxm", "matmul", "bf16"): 0.045,
    ("h200-141gb-sxm", "matmul", "bf16"): 0.050,
    ("b200", "matmul", "bf16"): 0.075,
    ("gb200", "matmul", "bf16"): 0.070,
    ("b300", "matmul", "bf16"): 0.090,
    ("gb300", "matmul", "bf16"): 0.055,
    ("l40s", "matmul", "bf16"): 0.090,
    ("rtx-pro-6000", "matmul", "bf16"): 0.050,
    ("h100-80gb-sxm", "matmul", "fp8"): 0.070,
    ("h200-141gb-sxm", "matmul", "fp8"): 0.070,
    ("b200", "matmul", "fp8"): 0.090,
    ("gb200", "matmul", "fp8"): 0.080,
    ("b300", "matmul", "fp8"): 0.095,
    ("gb300", "matmul", "fp8"): 0.070,
    ("l40s", "matmul", "fp8"): 0.095,
    ("rtx-pro-6000", "matmul", "fp8"): 0.050,
    ("b200", "matmul", "fp4"): 0.080,
    ("gb200", "matmul", "fp4"): 0.075,
    ("b300", "matmul", "fp4"): 0.095,
    ("gb300", "matmul", "fp4"): 0.095,
    ("rtx-pro-6000", "matmul", "fp4"): 0.090,
    ("a100-80gb-sxm", "attention", "bf16"): 0.070,
    ("h100-80gb-sxm", "attention", "bf16"): 0.080,
    ("h200-141gb-sxm", "attention", "bf16"): 0.085,
    ("b200", "attention", "bf16"): 0.070,
    ("gb200", "attention", "bf16"): 0.090,
    ("b300", "attention", "bf16"): 0.070,
    ("gb300", "attention", "bf16"): 0.065,
    ("l40s", "attention", "bf16"): 0.145,
    ("rtx-pro-6000", "attention", "bf16"): 0.125,
}
"""Mean relative error against the sample, by device, kind and precision; these may shrink, never grow."""
NAMES = ("a100-80gb-sxm", "h100-80gb-sxm", "b200", "mi300x", "v100-32gb-sxm")
SIZE = st.integers(1, 20_000)


def device(name):
    return catalogue().device(name)


def half(name):
    return "bf16" if "bf16" in device(name).matrix_flops else "fp16"


@pytest.mark.parametrize(("name", "precision"), [key[::2] for key in MOST_OFF if key[1] == "matmul"])
def test_matmul_is_close_to_measured(name, precision):
    m, n, k, seconds = rows("matmul", precision)[name]
    found = matmul(device(name), precision, m, n, k).seconds
    if precision != "bf16":
        found = found + cast(device(name), precision, m * k).seconds
    assert np.mean(np.abs(found / seconds - 1)) <= MOST_OFF[name, "matmul", precision]


@pytest.mark.parametrize("name", [name for name, kind, _ in MOST_OFF if kind == "attention"])
def test_attention_is_close_to_measured(name):
    batch, heads, seq, size, kv_heads, seconds = rows("attention")[name]
    found = attention(device(name), "bf16", batch, heads, seq, size, kv_heads=kv_heads).seconds
    found = found + memory_bound(device(name), 2 * 2 * batch * seq * 2 * kv_heads * size).seconds
    assert np.mean(np.abs(found / seconds - 1)) <= MOST_OFF[name, "attention", "bf16"]


def test_gradients_of_attention_are_close_to_measured():
    chip = device("h200-141gb-sxm")
    batch, heads, seq, size, kv_heads, causal, seconds = rows("gradient")["h200-141gb-sxm"]
    both = [
        attention(chip, "bf16", batch, heads, seq, size, kv_heads=kv_heads, causal=mask, backward=True).seconds
        for mask in (False, True)
    ]
    assert np.mean(np.abs(np.where(causal, both[1], both[0]) / seconds - 1)) <= 0.03


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


def test_a_window_as_long_as_the_sequence_is_none_and_a_longer_one_takes_no_less():
    chip = device("b200")
    seconds = [attention(chip, "bf16", 2, 16, 8192, 128, window=window).seconds for window in (64, 512, 4096, 8192)]
    assert seconds == sorted(seconds)
    assert seconds[-1] == attention(chip, "bf16", 2, 16, 8192, 128).seconds


@pytest.mark.parametrize("backward", [False, True])
def test_without_a_causal_mask_long_sequences_take_nearly_twice_as_long(backward):
    chip = device("h100")
    causal, full = (
        attention(chip, "bf16", 1, 32, 32768, 128, causal=causal, backward=backward).seconds for causal in (True, False)
    )
    assert 1.85 < full / causal < 2


@pytest.mark.parametrize("name", ["a100-80gb-sxm", "h100-80gb-sxm", "b200"])
def test_gradients_do_three_products_over_keys_and_two_over_values(name):
    chip, sizes = device(name), (4, 16, 8192)
    pairs = 4 * 16 * 8192 * 8193 / 2

    def gradient(size, value_size):
        return float(attention(chip, "bf16", *sizes, size, value_size=value_size, backward=True).seconds)

    latent = gradient(192, 128)
    assert latent > 2 * pairs * (3 * 192 + 2 * 128) / chip.peak_flops("bf16")
    assert gradient(128, 128) < gradient(128, 192) < latent < gradient(192, 192)
    forward = float(attention(chip, "bf16", *sizes, 192, value_size=128).seconds)
    assert 2.4 < latent / forward < 3.6


def test_casts_take_what_their_bytes_take_at_least():
    chip = device("b200")
    for precision, item in (("fp8", 1), ("fp4", 0.5625)):
        assert cast(chip, precision, 1e9).seconds > 1e9 * (2 + item) / chip.memory_bytes_per_s


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
    assert not grouped_matmul(device("b200"), "fp8", 4096, 4096, 4096, 8).guessed
    assert attention(device("a100"), "bf16", 1, 8, 2048, 128, backward=True).guessed
    assert not attention(device("h100"), "bf16", 1, 8, 2048, 128, backward=True).guessed
    assert not memory_bound(device("h100"), 1e9).guessed
    assert memory_bound(device("a100"), 1e9).guessed
    with pytest.raises(ValueError, match="no peak for 'fp8'"):
        matmul(device("a100"), "fp8", 512, 512, 512)
    with pytest.raises(ValueError, match="moved_bytes=nan"):
        memory_bound(device("a100"), float("nan"))
    with pytest.raises(ValueError, match="m=0 is not a size"):
        matmul(device("a100"), "bf16", 0, 512, 512)


@pytest.mark.parametrize(("shapes", "most_s", "times"), [(40, 300e-6, 200), (100_000, 0.2, 3)])
def test_many_shapes_take_little_time(shapes, most_s, times):
    sizes = np.random.default_rng(0).integers(1, 9000, (3, shapes))
    spent = []
    for _ in range(times):
        start = time.process_time()
        matmul(device("h100"), "bf16", *sizes)
        spent.append(time.process_time() - start)
    assert min(spent) < most_s


def test_every_constant_lies_within_its_range_and_every_level_has_a_source():
    for name, part in table().items():
        for facts in part.values():
            if name not in ("levels", "about"):
                low, high = (float(word) for word in facts["range"].split(" to "))
                assert low <= facts["value"] <= high
                assert facts["meaning"]
                assert facts["source"]
    for part in table()["levels"].values():
        assert "default" in part
        for facts in part.values():
            assert 0 < facts["level"] <= 1
            measured = "aiconfigurator-core|penstock calibrate|measured"
            assert ("shapes" in facts) == bool(re.match(measured, facts["source"]))
            assert re.match(f"{measured}|guess|estimate|not measured|fitted on", facts["source"])
            assert 0 < facts["error"] < 1


def test_experts_without_rows_take_no_time() -> None:
    """Of more experts than rows, as many have gradients of weights as there are rows."""
    model, nodes, split = read_architecture("qwen3-30b-a3b"), Cluster.read("dgx-h100:1"), {"cp": 8, "ep": 8}
    setups = (Setup(seq=seq, batch=8, **split) for seq in (64, 256))
    few, more = (predict(model, nodes, setup, stack("megatron-core")).parts["blocks"] for setup in setups)
    assert 0 < few < more
