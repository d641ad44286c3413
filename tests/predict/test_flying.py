"""Memory by the order of passes, of many setups at once, against predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.config import gpt
from penstock.predict import Grid, predict, scores
from penstock.predict.flying import exact_bytes, in_flight
from penstock.schedules import build
from penstock.search.finer import variants
from penstock.search.space import SCHEDULES_TRIED, space_of

MIXED = gpt(layers=8, hidden=1024, heads=16, vocab=8192, gated=True, experts=8, topk=2, expert_ffn=2048, dense_layers=3)
HEADY = gpt(layers=16, hidden=1024, heads=16, vocab=128256, positions=2048)


@pytest.mark.parametrize(("model", "framework"), [(MIXED, "torchtitan"), (HEADY, "penstock")])
def test_memory_is_that_of_predictions(model: Any, framework: str) -> None:
    fix = "pp=2/4,cp=1,tp=1,dp=2..4,ep=1/2,micro=1" if framework != "penstock" else "pp=4/8,dp=1"
    space = space_of(model, "dgx-h100:1", framework, seq=2048, batch=16, fix=fix)
    grid, draw = space.grid(space.splits()), np.random.default_rng(7)
    for some in (grid, variants(space, grid)[0]):
        some = some.rows(scores(space.model, space.cluster, some, space.stack).possible)
        some = some.rows(np.sort(draw.permutation(len(some))[:12]))
        setups = [some.setup(row) for row in range(len(some))]
        found = [predict(space.model, space.cluster, setup, space.stack) for setup in setups]
        needed = [max(room.needed for room in one.rooms) for one in found]
        assert exact_bytes(space.model, space.cluster, some, space.stack) == pytest.approx(needed, rel=1e-12)


def test_layers_made_again_count() -> None:
    space = space_of(MIXED, "dgx-h100:1", "pytorch", seq=2048, batch=16, fix="tp=1,cp=1,pp=2,micro=1,recompute=none")
    setup = replace(space.grid(space.splits()).setup(0), chunks=2, schedule="interleaved")
    some = Grid.of(setup, recompute_layers=[(), (1,), (2, 0, 1, 0)])
    found = [predict(space.model, space.cluster, some.setup(row), space.stack) for row in range(3)]
    needed = [max(room.needed for room in one.rooms) for one in found]
    assert exact_bytes(space.model, space.cluster, some, space.stack) == pytest.approx(needed, rel=1e-12)
    assert needed[0] > needed[1]


@pytest.mark.parametrize("schedule", SCHEDULES_TRIED)
def test_most_micro_batches_in_flight_are_those_of_the_lanes(schedule: str) -> None:
    chunks = 1 if schedule in ("1f1b", "zb-h1", "zb-h2") else 2
    lanes, taken = build(schedule, 4, 8, chunks).lanes, {"F": 1.0, "B": -1.0, "I": -0.75, "W": -0.25}
    for lane, found in zip(lanes, in_flight(schedule, 4, 8, chunks, 0.25), strict=True):
        held, most = 0.0, 0.0
        for op in lane:
            held += taken[op.kind.name]
            most = max(most, held)
        assert found.sum(axis=1).max() == pytest.approx(most)
