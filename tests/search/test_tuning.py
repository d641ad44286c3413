"""Ways to fine-tune, side by side."""

from __future__ import annotations

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt, read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import Grid, predict, scores
from penstock.search.space import space_of
from penstock.search.tuning import NF4_BYTES, TUNINGS, tune_plans, tunings_of

MODEL = gpt(layers=24, hidden=2048, heads=16, vocab=50304, positions=2048)


@pytest.mark.parametrize("on", [(), ("attention.qkv",)])
def test_scores_of_adapters_are_predictions(on: tuple[str, ...]) -> None:
    base = Setup(seq=1024, batch=64, adapter=16, adapter_on=on, frozen_bytes=0.6)
    cluster = Cluster.read("dgx-h100:1")
    grid = Grid.all_of(base, 8, tp=(1, 2), cp=(1, 2), micro=(1, 2), zero=(0, 1, 2, 3), recompute=("none", "full"))
    found = scores(MODEL, cluster, grid, stack("deepspeed"))
    for row in range(0, len(grid), 5):
        whole = predict(MODEL, cluster, grid.setup(row), stack("deepspeed"))
        assert found.seconds[row] == pytest.approx(whole.seconds, rel=1e-9)
        assert found.peak_bytes[row] == pytest.approx(whole.peak.total, rel=1e-9)


def test_frozen_weights_send_no_gradients() -> None:
    def gathers_s(**fields: object) -> float:
        setup = Setup(seq=128, batch=32, dp=32, zero=2, **fields)  # type: ignore[arg-type]
        found = predict(read_architecture("llama-3-8b"), Cluster.read("p4d:4"), setup, stack("deepspeed"))
        return found.parts.get("gathering weights", 0.0)

    assert gathers_s(adapter=16) < 0.1 * gathers_s()


def test_weights_of_4_bits_are_made_wide_in_each_pass() -> None:
    def step(frozen_bytes: float, recompute: str) -> float:
        setup = Setup(seq=16384, batch=1, adapter=16, frozen_bytes=frozen_bytes, recompute=recompute)
        return predict(MODEL, Cluster.read("h100:1"), setup, stack("megatron-core")).seconds

    moved = 2.5 * 24 * 12 * 2048**2 / 3.35e12
    once, twice = (step(0.5, again) - step(2.0, again) for again in ("none", "full"))
    assert 2 * moved < once < 7 * moved
    assert twice == pytest.approx(1.5 * once, rel=0.1)


def test_embedding_and_head_stay_in_16_bits() -> None:
    inside = sum(block.parameters for block in MODEL.blocks)
    found = TUNINGS["qlora"].frozen_bytes(MODEL) * MODEL.parameters
    assert found == pytest.approx(NF4_BYTES * inside + 2 * (MODEL.parameters - inside), rel=1e-3)
    assert pytest.approx(4.127, abs=1e-3) == 8 * NF4_BYTES


def test_a_model_of_65_billion_fits_on_one_device_of_48_gigabytes() -> None:
    """As Dettmers et al. 2023 (arXiv:2305.14314) say of QLoRA, with the optimizer's state in pages of the host."""
    space = space_of("llama-65b", "l40s:1", "transformers", seq=512, batch=16, fix="recompute=full,optimizer_offload=1")
    found = {one.name: one for one in tune_plans(space, ("lora", "qlora"), rank=64)}
    assert not found["lora"].planned.choices
    assert found["lora"].fewest is not None
    assert found["lora"].fewest.setup.devices > 2
    assert found["qlora"].planned.choices
    assert found["qlora"].fewest is not None
    assert found["qlora"].fewest.setup.devices == 1


def test_the_fewest_devices_are_the_fewest() -> None:
    fix = "cp=1,micro=1"
    space = space_of("llama-3-8b", "dgx-h100:1", seq=2048, batch=16, fix=fix)
    (full,) = tune_plans(space, ("full",))
    assert full.fewest is not None
    assert full.fewest.headroom >= 0.05
    alone = space_of("llama-3-8b", f"h100:{full.fewest.setup.devices // 2}", seq=2048, batch=16, fix=fix)
    assert not tune_plans(alone, ("full",))[0].planned.choices
    assert full.trained == full.parameters


@pytest.mark.parametrize("exclude", ["recompute=full", "micro=1"])
def test_what_needs_least_may_be_excluded(exclude: str) -> None:
    space = space_of("llama-3-8b", "dgx-h100:1", seq=2048, batch=16, fix="cp=1,pp=1", exclude=exclude)
    (lora,) = tune_plans(space, ("lora",))
    assert lora.fewest is not None
    assert lora.fewest.setup.devices == 1


def test_names_and_ranks_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="did you mean 'qlora'"):
        tunings_of("full,qlor")
    with pytest.raises(ValueError, match="rank 0 are none"):
        tune_plans(space_of("gpt2", "h100:1", seq=1024, batch=8), ("lora",), rank=0)
