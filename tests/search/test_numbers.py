"""Precisions and states of the optimizer: what they cost, which devices have them, and plans in several of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.device import device
from penstock.core.optimizers import moments_bytes
from penstock.core.recipes import recipe_of, recipes, recipes_on
from penstock.core.setup import Setup
from penstock.cost.stack import stack, stacks
from penstock.predict import Grid, predict, scores
from penstock.predict.explain import explain
from penstock.search.finals import predicted_of
from penstock.search.finer import variants
from penstock.search.numbers import numbers_of
from penstock.search.planner import plan
from penstock.search.space import space_of

DENSE = gpt(layers=8, hidden=4096, heads=32, vocab=50304, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
BASE = Setup(seq=2048, batch=32, tp=2, pp=2, dp=4, zero=1, sp=True)
CORE = stack("megatron-core")
CLUSTERS = {"hopper": Cluster.read("dgx-h100:2"), "blackwell": Cluster.read("dgx-b200:2")}
EACH = [(where, name) for where in CLUSTERS for name in recipes_on(where)]


def seconds(
    precision: str, where: str = "hopper", model: Any = DENSE, framework: str = "megatron-core", **more: Any
) -> float:
    setup = replace(BASE, precision=precision, graphs=True, **more)
    return predict(model, CLUSTERS[where], setup, stack(framework)).seconds


def bytes_of(part: str, **more: Any) -> float:
    where = more.pop("where", "hopper")
    found = predict(DENSE, CLUSTERS[where], replace(BASE, **more), CORE)
    return max(getattr(room, part) for room in found.rooms)


@pytest.mark.parametrize(("where", "name"), EACH)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"low_weights": True, "optimizer": "adam-fp8"},
        {"wide_first": 1, "wide_last": 2, "zero": 3, "low_weights": True, "pp": 1, "dp": 8},
        {"wide_last": 3, "recompute": "full", "ep": 2, "dp": 4, "optimizer": "adam-bf16", "optimizer_offload": 0.5},
    ],
)
def test_scores_are_predictions_with_every_recipe(where: str, name: str, more: dict[str, Any]) -> None:
    for model in (DENSE, EXPERTS) if "ep" not in more else (EXPERTS,):
        setup = replace(BASE, precision=name, **more)
        found = predict(model, CLUSTERS[where], setup, CORE)
        grid = Grid.of(setup, **{axis: [getattr(setup, axis)] for axis in ("tp", "pp", "dp", "ep", "zero")})
        scored = scores(model, CLUSTERS[where], grid, CORE)
        assert scored.seconds[0] == pytest.approx(found.seconds, rel=0.01 if setup.pp > 1 else 1e-9)
        assert scored.peak_bytes[0] == pytest.approx(max(room.total for room in found.rooms), rel=0.03)
        assert not any(str(name) in words for words in found.guessed)


def test_casts_move_what_transformer_engine_says() -> None:
    each = recipes()
    assert each["fp8-delayed"].cast_bytes("hopper") == 2 + 1 + 1
    assert each["fp8-delayed"].cast_bytes("blackwell") == 2 + 1
    assert each["fp8-current"].cast_bytes("hopper") == 4 + 1 + 1
    assert each["fp8-block"].cast_bytes("hopper") == 2 + 2 * (1 + 4 / 128)
    assert each["mxfp8"].cast_bytes("blackwell") == 2 + 2 * (1 + 1 / 32)
    assert each["nvfp4"].cast_bytes("blackwell") == 4 + 2 * (0.5 + 1 / 16)
    assert each["fp8-delayed"].casts("hopper") == 1.0


def test_recipes_differ_as_their_casts_and_products_do() -> None:
    assert seconds("fp8-delayed") == seconds("fp8") < seconds("fp8-block") < seconds("fp8-current") < seconds("bf16")
    titan = [seconds(name, framework="torchtitan") for name in ("fp8-current", "fp8-row", "bf16")]
    assert titan == sorted(titan)
    on = {
        name: seconds(name, "blackwell", framework="megatron-bridge")
        for name in ("bf16", "fp8-delayed", "fp8-current", "mxfp8", "nvfp4")
    }
    assert sorted(on, key=on.__getitem__) == ["nvfp4", "fp8-delayed", "fp8-current", "mxfp8", "bf16"]


@pytest.mark.parametrize(
    ("model", "cluster", "setup", "framework", "slow", "fast", "measured"),
    [
        # Megatron-Bridge's performance summaries: the same run in two recipes; torchtitan's commit 7a04053 and docs
        (
            "llama-3-8b",
            "dgx-b200:1",
            {"dp": 8, "micro": 2, "batch": 128},
            "megatron-bridge",
            "mxfp8",
            "fp8-current",
            1.037,
        ),
        (
            "llama-3-8b",
            "gb200:8",
            {"dp": 8, "micro": 2, "batch": 128},
            "megatron-bridge",
            "mxfp8",
            "fp8-current",
            1.053,
        ),
        ("llama-3-8b", "dgx-h100:1", {"dp": 8, "batch": 8, "zero": 3}, "torchtitan", "bf16", "fp8-current", 1.248),
        ("llama-3-8b", "dgx-h100:1", {"dp": 8, "batch": 8, "zero": 3}, "torchtitan", "bf16", "fp8-row", 1.115),
        ("llama-3-8b", "dgx-b200:1", {"dp": 8, "batch": 8, "zero": 3}, "torchtitan", "bf16", "mxfp8", 1.2),
    ],
)
def test_published_pairs_differ_so(
    model: str, cluster: str, setup: dict[str, int], framework: str, slow: str, fast: str, measured: float
) -> None:
    from penstock.core.config import read_architecture

    machines, again = Cluster.read(cluster), "selective" if framework == "torchtitan" else "none"
    one = Setup(seq=8192, recompute=again, **setup)
    times = [
        predict(read_architecture(model), machines, replace(one, precision=name), stack(framework)).seconds
        for name in (slow, fast)
    ]
    assert times[0] / times[1] == pytest.approx(measured, abs=0.09)


def test_blocks_that_stay_wide_cost_what_they_do_in_bf16() -> None:
    low, some, most = (seconds("fp8-current", wide_last=count) for count in (0, 2, 8))
    assert low < some < most == pytest.approx(seconds("bf16"), rel=1e-12)
    with pytest.raises(ValueError, match="wide_first=5 and wide_last=4 are more than the 8 blocks"):
        seconds("fp8-current", wide_first=5, wide_last=4)


def test_weights_in_low_precision_are_stored_and_gathered_so() -> None:
    blocks = sum(block.parameters for block in DENSE.blocks[:4]) / BASE.tp
    plain = bytes_of("weights")
    for name, where, copies in (
        ("fp8-current", "hopper", 2),
        ("fp8-current", "blackwell", 1),
        ("mxfp8", "blackwell", 2),
    ):
        recipe, of = recipe_of(name), {"precision": name, "where": where}
        assert recipe is not None
        low = copies * recipe.value_bytes * blocks
        assert bytes_of("weights", **of) == pytest.approx(plain + low)
        assert bytes_of("weights", **of, low_weights=True) == pytest.approx(plain + low - 2 * blocks)
    assert seconds("fp8-current", low_weights=True) < seconds("fp8-current")
    assert seconds("fp8-current", zero=3, pp=1, dp=8, low_weights=True) < seconds("fp8-current", zero=3, pp=1, dp=8)


def test_moments_in_fewer_bits_take_less_room_and_traffic() -> None:
    names = ("adam", "adam-bf16", "adam-8bit", "adam-fp8")
    rooms = [bytes_of("optimizer", optimizer=name) for name in names]
    assert rooms == sorted(rooms, reverse=True)
    own = rooms[0] / (4 + moments_bytes("adam"))
    assert rooms[0] - rooms[1] == pytest.approx(4 * own)
    steps = {name: explain(DENSE, CLUSTERS["hopper"], replace(BASE, optimizer=name), CORE) for name in names[:2]}
    each = [
        part.parts[0].facts["bytes_of_each"]
        for one in steps.values()
        for part in one.time.parts
        if part.name == "optimizer"
    ]
    assert each == [40.0, 32.0]
    runtime = stack("penstock-bf16")
    pair = (replace(BASE, optimizer=name, sp=False) for name in ("adam-bf16", "adam"))
    less, more = (predict(DENSE, CLUSTERS["hopper"], one, runtime).parts["optimizer"] for one in pair)
    assert more / less == pytest.approx((25 + 8) / 25, rel=0.02)


def test_a_device_without_a_recipe_says_which_it_has() -> None:
    hopper = "fp8-delayed, fp8-current, fp8-row, fp8-block"
    for asked, cluster, words in (
        ("mxfp8", "dgx-h100:1", f"precision=mxfp8: h100-80gb-sxm (hopper) has no such recipe; it has {hopper}"),
        ("fp8-block", "dgx-a100-80gb:1", "it has no products in 8 bits; use bf16"),
        ("fp8-current", "mi300x:8", "no recipe is known of it; use fp8, which names none"),
        ("fp4", "dgx-h100:1", "h100-80gb-sxm has no products in fp4; use fp8"),
        ("fp9", "dgx-h100:1", "precision='fp9' is unknown; did you mean 'fp8'?"),
        ("bf16/fp8-block/mxfp8", "dgx-h100:1", "precision=mxfp8: h100"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            space_of(DENSE, cluster, seq=2048, batch=32, fix=f"precision={asked}")
    with pytest.raises(ValueError, match="precision=bf16 has none, give one, such as fp8-current"):
        Setup(seq=8, batch=1, low_weights=True)
    with pytest.raises(ValueError, match="low_weights=True needs a recipe, and precision=fp8 names none"):
        Setup(seq=8, batch=1, precision="fp8", low_weights=True)


def test_recipes_of_frameworks_are_known_and_every_figure_has_a_source() -> None:
    for one in stacks().values():
        assert {*one.recipes} <= {*recipes()}
    for recipe in recipes().values():
        assert all((recipe.source, recipe.gap, recipe.gap_source))
        assert bool(recipe.rates) == bool(recipe.rates_source)
        assert {*recipe.rates, *recipe.shared} <= {*recipe.architectures}
    assert {recipe.bits for recipe in recipes().values()} <= {*device("b200").matrix_flops}


FIX = "cp=1,tp=1..2,zero=1,micro=1..2,recompute=none"


def test_precisions_that_were_asked_for_are_each_planned_by_themselves() -> None:
    task: dict[str, Any] = {"seq": 2048, "batch": 32, "top": 4}
    every = plan(DENSE, "dgx-h100:1", **task, fix=f"{FIX},precision=any")
    assert [one.precision for one in every.numbers] == ["bf16", "fp8-delayed", "fp8-current", "fp8-block"]
    assert [one.gradient_equal for one in every.numbers] == [True, False, False, False]
    assert every.numbers[3].gaps[0][1] == "DeepSeek-V3, 2024, arXiv:2412.19437"
    assert every.proven
    assert every.best.setup.precision == "fp8-delayed"
    for one in every.numbers[:2]:
        alone = plan(DENSE, "dgx-h100:1", **task, fix=f"{FIX},precision={one.precision}")
        assert one.choice == alone.best
        assert alone.best.seconds >= every.best.seconds
    assert not plan(DENSE, "dgx-h100:1", **task, fix=FIX).numbers
    assert [one.seconds for one in every.choices] == sorted(one.seconds for one in every.choices)
    both = plan(DENSE, "dgx-b200:1", **task, fix=f"{FIX},precision=mxfp8,optimizer=adam/adam-8bit")
    assert [(one.precision, one.optimizer) for one in both.numbers] == [("mxfp8", "adam"), ("mxfp8", "adam-8bit")]
    assert both.best.setup.optimizer == "adam-8bit"
    assert "arXiv:2110.02861" in both.numbers[1].gaps[1][1]


def test_the_best_is_the_best_of_all_where_some_blocks_stay_wide() -> None:
    fix = "precision=mxfp8,wide_last=3,wide_first=1,cp=1,tp=1,zero=1,micro=1,recompute=none,dp=2..4"
    task: dict[str, Any] = {"seq": 2048, "batch": 32, "fix": fix}
    found, space = plan(DENSE, "dgx-b200:1", **task, top=1), space_of(DENSE, "dgx-b200:1", **task)
    assert found.proven
    grids = [space.grid(share) for share in space.shares()]
    whole = [
        predicted_of(space, of.setup(row))
        for grid in grids
        for of in (grid, variants(space, grid)[0])
        for row in range(len(of))
    ]
    assert found.best.seconds == min(one.seconds for one in whole if one is not None and one.headroom >= 0.05)
    assert len(whole) > 20


def test_what_framework_and_device_lack_is_not_tried() -> None:
    def tried(cluster: str, framework: str) -> list[str]:
        space = space_of(DENSE, cluster, framework, seq=2048, batch=32, fix="precision=any")
        return [*space.fixed.get("precision", (space.base.precision,))]

    assert tried("dgx-h100:1", "deepspeed") == ["bf16"]
    assert tried("dgx-a100-80gb:1", "megatron-core") == ["bf16"]
    assert tried("dgx-b200:1", "torchtitan") == ["bf16", "fp8-current", "fp8-row", "mxfp8"]
    assert tried("dgx-b200:1", "nemo")[-1] == "nvfp4"
    assert numbers_of(Setup(seq=8, batch=1, precision="fp8"), None).gaps == ()
