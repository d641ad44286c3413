"""Figures that are opened: sums that agree with the prediction, and leaves against kernels called by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from setups import SETUPS, step

from penstock.core.cluster import Cluster
from penstock.core.config.read import catalogue, read_architecture
from penstock.core.setup import Setup
from penstock.cost.constants import constants, levels
from penstock.cost.kernels import attention, matmul, memory_bound
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.explain import Explanation, explain
from penstock.predict.explain_kernels import kernels_of
from penstock.predict.explain_memory import matrices
from penstock.predict.figure import Figure

NAMES = list(SETUPS)


@cache
def explained(name: str) -> Explanation:
    one = step(name)
    return explain(one.model, one.cluster, one.setup, one.stack)


def trees(name: str) -> Iterator[Figure]:
    found = explained(name)
    return iter((found.time, *found.memory))


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_the_sum_of_its_parts(name: str) -> None:
    for tree in trees(name):
        for path, figure in tree.walk():
            if figure.parts:
                assert sum(part.value for part in figure.parts) == pytest.approx(figure.value, rel=1e-9), path
                assert {part.unit for part in figure.parts} == {figure.unit}, path
                assert len({part.name for part in figure.parts}) == len(figure.parts), path


@pytest.mark.parametrize("name", NAMES)
def test_seconds_are_those_of_the_prediction(name: str) -> None:
    found, one = explained(name), step(name)
    said = predict(one.model, one.cluster, one.setup, one.stack)
    assert found.time.value == said.seconds == found.prediction.seconds
    assert {part.name: part.value for part in found.time.parts} == said.parts


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_prediction(name: str) -> None:
    found = explained(name)
    for tree, room in zip(found.memory, found.prediction.rooms, strict=True):
        assert tree.value == room.total
        assert {part.name: part.value for part in tree.parts} == {
            key: size for key, size in room.parts().items() if size
        }
        assert all(part.parts for part in tree.parts)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_negative_but_what_was_freed(name: str) -> None:
    for tree in trees(name):
        assert [path for path, figure in tree.walk() if figure.value < 0 and figure.name != "freed"] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_has_a_meaning_and_a_source(name: str) -> None:
    seen = {constant for tree in trees(name) for _, figure in tree.walk() for constant in figure.constants}
    assert len(seen) > 10
    for constant in seen:
        assert constant.meaning, constant.name
        assert constant.source, constant.name


def test_every_part_of_a_step_is_tried_here() -> None:
    """So that the sums above are about all of them."""
    found = {part.name for name in NAMES for part in explained(name).time.parts}
    assert found == {
        "blocks", "recompute", "tensor parallel messages", "expert parallel messages", "context parallel messages",
        "embedding and head", "waiting for launches", "between stages", "gathering weights", "host per micro-batch",
        "bubble", "gradients and weights", "optimizer", "host per step", "copies to the host",
    }  # fmt: skip
    held = {part.name for name in NAMES for tree in explained(name).memory for part in tree.parts}
    assert held == set(explained(NAMES[0]).prediction.rooms[0].parts())


def only(tree: Figure, words: str) -> Figure:
    [(_, figure)] = tree.find(words)
    return figure


def with_launches(name: str, launch_s: float) -> Explanation:
    """The same on a host that takes so long for a launch."""
    one = step(name)
    return explain(one.model, one.cluster, one.setup, replace(one.stack, launch_s=launch_s))


def test_an_operator_takes_what_its_kernels_do() -> None:
    """GPT-3 over 8 ranks: 48 blocks of a stage, 64 micro-batches of one sequence of 2048."""
    tree, device = explained("tensor and sequence").time, Cluster.read("dgx-a100-80gb:2").device_of(0)
    up = only(tree, "blocks/mlp.up")
    shapes = {
        "forward": (2048, 6144, 12288), "input gradient": (2048, 12288, 6144), "weight gradient": (12288, 6144, 2048),
    }  # fmt: skip
    assert [part.name for part in up.parts] == list(shapes)
    for part, sizes in zip(up.parts, shapes.values(), strict=True):
        assert part.facts["alone_s"] == pytest.approx(float(matmul(device, "bf16", *sizes).seconds))
        assert part.facts["flops"] == 2 * 2048 * 6144 * 12288
        assert part.value == pytest.approx(48 * 64 * part.facts["each_s"])
        assert part.facts["alone_s"] < part.facts["each_s"] < 2 * part.facts["alone_s"]
    add = only(tree, "blocks/mlp.add/forward")
    moved = add.facts["bytes"]
    assert moved == 3 * 2 * 2048 * 12288 / 8
    assert add.facts["alone_s"] == pytest.approx(float(memory_bound(device, moved).seconds))
    core = only(tree, "blocks/attention.core/forward")
    assert core.facts["alone_s"] == pytest.approx(float(attention(device, "bf16", 1, 12, 2048, 128).seconds))


def test_what_bounds_an_operator() -> None:
    fast, slow = (with_launches("tensor and sequence", launch_s).time for launch_s in (1e-6, 1e-3))
    assert only(fast, "blocks/mlp.up/forward").facts["bound"] == "compute"
    assert only(fast, "blocks/mlp.activation/forward").facts["bound"] == "memory"
    assert only(slow, "blocks/mlp.activation/forward").facts["bound"] == "host"
    assert only(fast, "waiting for launches").value < 0.02 * fast.value
    assert only(slow, "waiting for launches/attention and mlp").facts["launch_s"] == 1e-3
    for tree in (fast, slow):
        for path, figure in tree.walk():
            if "kind" in figure.facts and figure.value:
                of_peak, bounds = figure.facts["of_peak"], figure.facts["bounds_s"]
                which = "compute" if figure.facts["bound"] == "compute" else "memory"
                assert of_peak == pytest.approx(bounds[which] / figure.facts["each_s"]), path
                assert 0 <= of_peak < 1, path


def test_casts_are_there_with_a_recipe_of_low_precision_alone() -> None:
    low, wide = (explained(name).time for name in ("experts in fp8", "tensor and sequence"))
    names = {figure.name for _, figure in low.walk()}
    assert "cast, forward" in names
    assert "cast, weight gradient" not in names
    assert not any(figure.name.startswith("cast") for _, figure in wide.walk())


def test_a_level_is_the_one_that_counts() -> None:
    product = only(explained("experts in fp8").time, "blocks/attention.qkv/forward")
    names = {constant.name: constant for constant in product.constants}
    level = names["levels.matmul.hopper fp8"]
    assert (level.value, level.error) == levels("matmul")["hopper fp8"][:2]
    assert not level.guessed
    assert "matmul.halved" in names  # of 8 bits; with 16 a copy engine hides it
    assert "matmul.halved_async" not in names
    assert names["matmul.tail"].value == constants("matmul")["tail"]
    assert names["h100-80gb-sxm.fp8"].value == 1978.9e12


def test_micro_batches_in_flight_are_those_of_the_schedule() -> None:
    """1F1B keeps as many micro-batches on a rank as there are ranks from it on."""
    one = step("three kinds of blocks")
    found = explained("three kinds of blocks")
    assert one.setup.schedule == "1f1b"
    # 4 micro-batches a pipeline: the first ranks never have more
    assert [tree.facts["in_flight"] for tree in found.memory] == [{str(r): min(4, 16 - r)} for r in range(16)]
    qkv = only(found.memory[3], "activations/attention.result")
    assert qkv.facts["in_flight"] == 4


def test_a_stage_keeps_a_part_until_its_weights_have_gradients() -> None:
    found = explained("vocabulary and split backwards")
    waiting = [only(tree, "activations").parts for tree in found.memory]
    assert all("waiting for the vocabulary" in {part.name for part in parts} for parts in waiting)
    shares = [next(iter(tree.facts["in_flight"].values())) for tree in found.memory]
    assert any(share != round(share) for share in shares)  # of some, what gradients of weights still need


def test_the_op_at_the_peak_is_one_of_the_rank() -> None:
    for r, tree in enumerate(explained("chunks and offload").memory):
        stage, kind, _ = tree.facts["activations_at_op"].partition("F")
        assert kind == "F"
        assert int(stage) % 4 == r


@pytest.mark.parametrize("model", sorted(catalogue()))
def test_parameters_of_a_block_belong_to_something(model: str) -> None:
    for block in read_architecture(model).kinds():
        found = matrices(block)
        assert sum(found.values()) == block.parameters
        assert min(found.values()) > 0
        assert found.get("all else", 0) <= 0.02 * block.parameters


def test_recompute_names_what_runs_again() -> None:
    tree = with_launches("chunks and offload", 1e-7).time
    again = only(tree, "recompute/attention and mlp")
    assert {part.name for part in again.parts} - {"waiting for launches"} == {"mlp_norm", "mlp.activation"}
    one = step("chunks and offload")
    block = one.model.blocks[0]
    once = {kernel.operator.name for kernel in kernels_of(one.rank, block) if kernel.again}
    assert once == {"mlp_norm", "mlp.activation"}


def test_messages_that_recompute_repeats_are_not_counted_as_work() -> None:
    """What blocks take is what their operators do, whatever runs again."""
    sizes = {"seq": 2048, "batch": 16, "tp": 8}
    model, cluster, framework = (
        read_architecture("llama-3-8b"),
        Cluster.read("dgx-h100:1"),
        replace(stack("megatron-core"), launch_s=1e-7),
    )
    plain, again = (
        predict(model, cluster, Setup(**sizes, recompute=how), framework).parts  # type: ignore[arg-type]
        for how in ("none", "full")
    )
    assert again["blocks"] == pytest.approx(plain["blocks"])
    assert again["tensor parallel messages"] == pytest.approx(1.5 * plain["tensor parallel messages"])
    assert 0.25 * again["blocks"] < again["recompute"] < 0.4 * again["blocks"]


def test_figures_are_found_by_some_of_their_names() -> None:
    leaf = Figure(name="attention.out", value=1.0, unit="s")
    kinds = [Figure(name=name, value=1.0, unit="s", parts=(leaf,)) for name in ("dense", "experts")]
    blocks = Figure(name="blocks", value=2.0, unit="s", parts=tuple(kinds))
    tree = Figure(name="step", value=3.0, unit="s", parts=(blocks, Figure(name="between stages", value=1.0, unit="s")))
    assert [path for path, _ in tree.find("blocks/attention.out")] == [
        ("blocks", "dense", "attention.out"), ("blocks", "experts", "attention.out"),
    ]  # fmt: skip
    assert [path[1] for path, _ in tree.find("experts/attention.out")] == ["experts"]
    assert only(tree, "Between_Stages").name == "between stages"
    with pytest.raises(ValueError, match=r"'attention\.out/blocks' is no figure of step"):
        tree.find("attention.out/blocks")
    with pytest.raises(
        ValueError, match=r"'blocks/attention.uot' is no figure of step; did you mean 'attention.out'\?"
    ):
        tree.find("blocks/attention.uot")
    with pytest.raises(ValueError, match="'qqqq' is no figure of step; it has blocks"):
        tree.find("qqqq")


def test_what_a_constant_has_a_part_in() -> None:
    tree = explained("tensor and sequence").time
    touched = {constant.name: value for constant, value in tree.touched().items()}
    products = sum(
        figure.value for _, figure in tree.walk() if figure.facts.get("kind") == "matmul" and "bounds_s" in figure.facts
    )
    assert touched["levels.matmul.ampere bf16"] == pytest.approx(products)
    assert touched["a100-80gb-sxm.memory_bytes_per_s"] > products
    assert list(touched.values()) == sorted(touched.values(), reverse=True)
    assert max(touched.values()) <= tree.value


def has_part(name: str, words: str) -> set[str]:
    """Names of the constants that a figure's own seconds are said to be made with."""
    return {constant.name.partition(".")[2] for constant in only(explained(name).time, words).constants}


def test_constants_stand_where_they_count() -> None:
    """Counts of tokens with experts, what hides of messages on a ring, the width of gradients where those are sent."""
    waits = "waiting for launches/attention and "
    assert "experts_s" in has_part("experts in fp8", f"{waits}experts")
    assert "experts_s" not in has_part("tensor and sequence", f"{waits}mlp")
    messages = "context parallel messages/attention and mlp"
    assert "cp_shown" in has_part("ring", messages)
    assert "cp_shown" not in has_part("heads for tokens", messages)
    assert "reduced_bytes" in has_part("heads for tokens", "gradients, dense")
    assert "reduced_bytes" not in has_part("heads for tokens", "weights, dense")
    assert "memory.hopper" in has_part("heads for tokens", "optimizer/on the device")
    assert {"memory.hopper", "sustained.hopper memory", "passing_bytes"} <= has_part(
        "sharded gradients", "blocks/adding gradients"
    )


def test_points_stay_under_their_roof() -> None:
    found = explained("experts in fp8").roofline
    peaks = {ceiling.name: ceiling for ceiling in found.flops}
    assert peaks["fp64"].lasting is None
    for ceiling in (peaks["fp8"], peaks["bf16"], found.memory):
        assert ceiling.lasting is not None
        assert 0.3 * ceiling.peak < ceiling.lasting < ceiling.peak
    roof = max(peaks[name].peak for name in ("fp8", "bf16"))
    assert {"matmul", "grouped_matmul", "attention", "norm"} <= {point.kind for point in found.points}
    for point in found.points:
        assert point.flops_per_s < min(roof, point.flops_per_byte * found.memory.peak), point.name
    tree = explained("experts in fp8").time
    down = next(point for point in found.points if point.name == "experts.down")
    casts = sum(part.value for part in only(tree, "blocks/experts.down").parts if part.name.startswith("cast"))
    assert down.seconds + casts == pytest.approx(only(tree, "blocks/experts.down").value)
