"""Layers that are made again in another way than the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.explain import explain
from penstock.predict.figure import Figure

MODEL = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(
    layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048, dense_layers=2
)
MACHINES = Cluster.read("a10:4")
SETUP = Setup(seq=2048, batch=32, micro=2, pp=4)


def found(setup: Setup, model: Any = MODEL, framework: str = "megatron-core") -> Any:
    return predict(model, MACHINES, setup, stack(framework))


@pytest.mark.parametrize("model", [MODEL, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("first", ["full", "selective"])
def test_none_is_none_and_all_is_all(model: Any, first: str) -> None:
    whole = found(replace(SETUP, recompute=first), model)
    for counts in ((2,), (9,), (2, 2, 2, 2)):
        some = found(replace(SETUP, recompute_layers=counts, recompute_first=first), model)
        assert some.seconds == pytest.approx(whole.seconds, rel=1e-12)
        assert some.again_flops == pytest.approx(whole.again_flops, rel=1e-12)
        assert [room.needed for room in some.rooms] == pytest.approx([room.needed for room in whole.rooms], rel=1e-12)
    none = found(replace(SETUP, recompute_layers=(0,), recompute_first=first), model)
    assert none.seconds == found(SETUP, model).seconds
    assert none.rooms == found(SETUP, model).rooms


def test_a_layer_more_takes_its_time_and_frees_what_it_keeps() -> None:
    before = found(SETUP)
    for k in (1, 2):
        after = found(replace(SETUP, recompute_layers=(k, 0, 0, 0)))
        assert after.seconds > before.seconds
        assert after.again_flops > before.again_flops
        assert after.rooms[0].needed < before.rooms[0].needed
        assert after.rooms[1:] == before.rooms[1:]
        before = after


def test_what_waits_longest_frees_most() -> None:
    free = [
        found(SETUP).rooms[r].activations
        - found(replace(SETUP, recompute_layers=tuple(int(r == s) for s in range(4)))).rooms[r].activations
        for r in range(4)
    ]
    assert free == pytest.approx([free[3] * times for times in (4, 3, 2, 1)], rel=1e-9)


def test_explained_figures_add_up() -> None:
    setup = replace(SETUP, recompute_layers=(1,), recompute="selective")
    opened = explain(MODEL, MACHINES, setup, stack("megatron-core"))

    def adds_up(figure: Figure) -> None:
        if figure.parts:
            assert sum(part.value for part in figure.parts) == pytest.approx(figure.value, rel=1e-6, abs=1e-9)
        for part in figure.parts:
            adds_up(part)

    for figure in (opened.time, *opened.memory):
        adds_up(figure)
    ((_, again),) = opened.time.find("recompute")
    names = [part.name for part in again.parts]
    assert names == ["attention and mlp", "attention and mlp, of the first layers"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recompute_layers": (1, 2)}, r"recompute_layers has 2 numbers; give 1, or 4, one a stage"),
        ({"recompute_layers": (-1,)}, r"recompute_layers=-1 is too small; use 0 or more"),
        (
            {"recompute_layers": (1,), "recompute": "full"},
            r"recompute=full is for all layers; with recompute_layers use",
        ),
        ({"recompute_first": "ful"}, r"recompute_first='ful' is unknown; did you mean 'full'\?"),
    ],
)
def test_what_cannot_be_says_what_can(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SETUP, **fields)


@pytest.mark.parametrize("model", [MODEL, EXPERTS], ids=["dense", "experts"])
def test_selective_is_what_the_framework_makes_again(model: Any) -> None:
    setup = replace(SETUP, recompute="selective")
    named = found(replace(SETUP, recompute=stack("megatron-core").selective), model)
    mine, pytorch, none = found(setup, model), found(setup, model, "pytorch"), found(SETUP, model, "pytorch")
    assert (mine.seconds, mine.rooms) == (named.seconds, named.rooms)
    assert mine.rooms[0].activations < found(SETUP, model).rooms[0].activations
    assert pytorch.rooms[0].activations < 0.8 * none.rooms[0].activations
