"""Strategies with the fewest layers made again, against all ways to make some again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from penstock.core.config import gpt
from penstock.core.setup import Setup
from penstock.predict import scores
from penstock.predict.grid import Grid
from penstock.predict.lighter import steps_of
from penstock.search.beside import changed, neighbours
from penstock.search.choice import Choice
from penstock.search.finals import predicted_of
from penstock.search.finer import again_ways
from penstock.search.improve import changes_to
from penstock.search.in_words import strategy
from penstock.search.margins import at_least_s, over_bytes
from penstock.search.planner import best_of
from penstock.search.space import Space, space_of

DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=8192, positions=2048)
MIXED = gpt(layers=8, hidden=1024, heads=16, vocab=8192, gated=True, experts=8, topk=2, expert_ffn=2048, dense_layers=2)
TASK: dict[str, Any] = {"seq": 2048, "batch": 32}


def ways(space: Space, setup: Setup) -> Iterator[Setup]:
    """A strategy, and all ways in which the framework makes first layers of its stages again."""
    yield setup
    how, sizes = space.stack.again_layers, [len(layers) for layers in setup.layers_of(space.model.layers)]
    counts: dict[str, Any] = {
        "alike": ((k,) for k in range(1, max(sizes) + 1)),
        "ranks": product(*((0, size) for size in sizes)),
        "any": product(*(range(size + 1) for size in sizes)),
    }
    each = [*counts[how]]
    for rest, first in again_ways(space):
        if setup.recompute == rest:
            yield from (replace(setup, recompute_first=first, recompute_layers=some) for some in each)


def every(space: Space, headroom: float) -> list[Choice]:
    """All of a space that fit, the fastest first."""
    grid = space.grid(space.splits())
    setups = (each for row in range(len(grid)) for each in ways(space, grid.setup(row)))
    found = [one for one in (predicted_of(space, setup) for setup in setups) if one is not None]
    return sorted((one for one in found if one.headroom >= headroom), key=lambda one: one.seconds)


PLAIN = "tp_overlap=off,stage_layers=even,shards=0,vocabulary=0,cp=1,schedule=1f1b"


@pytest.mark.parametrize(
    ("model", "framework", "fix"),
    [
        (DENSE, "megatron-core", "tp=1,pp=2,micro=4,zero=1,recompute=none/full"),
        (DENSE, "megatron-core", "tp=1..2,pp=4,micro=4..8,zero=1,recompute=none/full"),
        (DENSE, "pytorch", "tp=1,pp=2,micro=4,zero=2"),
        (DENSE, "pytorch", "tp=1,pp=4,micro=4,zero=0,recompute=none/full"),
        (DENSE, "penstock", "tp=1,pp=4,micro=4,zero=0,recompute=none/full"),
        (MIXED, "pytorch", "tp=1,pp=2,micro=8,zero=2,ep=1,recompute=none/full"),
    ],
)
def test_the_fewest_layers_made_again_are_the_best_of_all(model: Any, framework: str, fix: str) -> None:
    space = space_of(model, "a10:4", framework, **TASK, fix=f"{PLAIN},{fix}")
    fast = best_of(space, top=1, headroom=0.0).best
    full = predicted_of(space, replace(fast.setup, recompute="full"))
    assert full is not None
    headroom = (fast.headroom + full.headroom) / 2
    found, whole = best_of(space, top=3, headroom=headroom), every(space, headroom)
    assert found.proven
    assert found.best.setup.recompute_layers
    assert found.best.seconds == pytest.approx(whole[0].seconds, rel=1e-12)
    plain = next(one for one in whole if not one.setup.recompute_layers)
    assert found.best.seconds < plain.seconds


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zb-h1", "zb-v", "interleaved-zb"])
def test_scores_are_above_predictions_by_no_more_than_planning_allows(schedule: str) -> None:
    space = space_of(
        DENSE, "dgx-h100:1", "pytorch", **TASK, fix=f"schedule={schedule},tp=1,cp=1,zero=0/2,micro=1..4,recompute=none"
    )
    draw, checked = np.random.default_rng(3), 0
    for row in range(0, len(grid := space.grid(space.splits())), 2):
        setup = grid.setup(row)
        if setup.pp == 1:
            continue
        counts = [tuple(draw.integers(0, 3, setup.stages).tolist()) for _ in range(2)] + [(1,)]
        some = Grid.of(setup, recompute_layers=counts)
        found = scores(space.model, space.cluster, some, space.stack)
        least_s = np.maximum(at_least_s(some, found.seconds), found.work_s)
        for place in np.flatnonzero(found.possible).tolist():
            one = predicted_of(space, some.setup(place))
            assert one is not None
            assert least_s[place] <= one.seconds * (1 + 1e-12)
            assert found.needed_bytes[place] <= one.needed_bytes * (1 + over_bytes(some)[place])
            checked += 1
    assert checked >= 9


def test_steps_go_from_none_to_all() -> None:
    for how in ("alike", "any", "ranks"):
        steps = steps_of((3, 1, 2), how)
        assert (steps[0], steps[-1]) == ((0, 0, 0), (3, 1, 2))
        assert all(a <= b for one, other in pairwise(steps) for a, b in zip(one, other, strict=True))


def test_what_is_fixed_or_missing_has_no_such_strategies() -> None:
    fix = f"{PLAIN},tp=1,pp=2,micro=4,zero=1"
    for more, framework in (
        ("recompute=full", "megatron-core"),
        ("recompute_layers=none", "megatron-core"),
        ("", "torchtitan"),
    ):
        assert not again_ways(space_of(DENSE, "a10:4", framework, **TASK, fix=f"{fix},{more}"))
    fixed = best_of(
        space_of(DENSE, "a10:4", **TASK, fix=f"{fix},recompute_layers=1/3,recompute=none/full"), top=9, headroom=0.05
    )
    assert {one.setup.recompute_layers for one in fixed.choices} == {(1,), (3,)}
    assert {one.setup.recompute for one in fixed.choices} == {"none"}


def test_neighbours_have_no_layers_of_another_cut() -> None:
    space = space_of(DENSE, "a10:4", "pytorch", **TASK, fix="tp=1,cp=1,zero=2,shards=0")
    setup = Setup(**TASK, micro=4, pp=2, dp=2, zero=2, recompute_layers=(3, 1))
    one = predicted_of(space, setup)
    assert one is not None
    assert any(line.startswith("recompute_layers=none: ") for line in neighbours(space, one, 0.6))
    assert changed(space, setup, {"pp": 4}).recompute_layers == ()
    assert changed(space, setup, {"recompute": "full"}).recompute_layers == ()
    assert changed(space, setup, {"micro": 2}).recompute_layers == (3, 1)


def test_what_to_change_says_both_fields_at_once() -> None:
    space = space_of(DENSE, "a10:4", "pytorch", **TASK, fix="tp=1,cp=1,zero=2,shards=0")
    plain = Setup(**TASK, micro=4, pp=2, dp=2, zero=2, recompute="full")
    mine, best = (
        predicted_of(space, plain),
        predicted_of(space, replace(plain, recompute="none", recompute_layers=(3, 1))),
    )
    assert mine is not None
    assert best is not None
    (change,) = changes_to(space, mine, best, 0.05)
    assert (change.was, change.said) == (
        "recompute=full recompute_layers=none",
        "recompute=none recompute_layers=3+1",
    )
    assert "The first 3+1 layers of each stage are made again" in " ".join(strategy(best.setup))
