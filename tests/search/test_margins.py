"""Scores with few micro-batches against predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.core.config import gpt, read_architecture
from penstock.predict import scores
from penstock.search.finals import predicted_of
from penstock.search.finer import less, variants
from penstock.search.margins import at_least_s
from penstock.search.space import SCHEDULES_TRIED, space_of

HEADY = gpt(layers=16, hidden=1024, heads=16, vocab=128256, positions=2048)
DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)


@pytest.mark.parametrize("model", [DENSE, HEADY], ids=["dense", "heady"])
@pytest.mark.parametrize("schedule", SCHEDULES_TRIED)
def test_scores_with_few_micro_batches_are_above_predictions_by_no_more_than_planning_allows(
    model: Any, schedule: str
) -> None:
    checked = 0
    for framework, micro in (("penstock", "16/32"), ("megatron-core", "8/32")):
        fix = f"schedule={schedule},pp=2/4/8,cp=1,zero=0,micro={micro},dp=1..2,recompute=none/full"
        space = space_of(model, "dgx-h100:1", framework, seq=2048, batch=32, fix=fix)
        grid = space.grid(space.splits())
        found = scores(space.model, space.cluster, grid, space.stack)
        least_s = np.maximum(at_least_s(grid, found.seconds), found.work_s)
        for row in np.flatnonzero(found.possible)[::3].tolist():
            one = predicted_of(space, grid.setup(row))
            assert one is None or least_s[row] <= one.seconds * (1 + 1e-12)
            checked += one is not None
    assert checked >= 2


@pytest.mark.parametrize(
    ("model", "framework", "fix", "most"),
    [
        (HEADY, "megatron-core", "schedule=1f1b/interleaved,recompute=none", 0.66),
        (DENSE, "penstock", "schedule=1f1b/zb-h1/zb-v,recompute=none/full", 0.5),
        ("deepseek-v2-lite", "torchtitan", "schedule=interleaved/zb-v/interleaved-zb,recompute=none,ep=1/4", 0.66),
    ],
)
def test_no_cut_of_a_pipeline_is_faster_than_its_chain(model: Any, framework: str, fix: str, most: float) -> None:
    """With few micro-batches and with many; a chain says little where the vocabulary may leave the ends."""
    model, shares = read_architecture(model) if isinstance(model, str) else model, []
    for batch in (8, 64):
        asked = f"{fix},pp=2/4/8,cp=1,tp=1,zero=0,micro=1/4"
        space = space_of(model, "dgx-h100:1", framework, seq=2048, batch=batch, fix=asked)
        grid = space.grid(space.splits())
        chain_s = scores(space.model, space.cluster, grid, space.stack, less=less(space)).chain_s
        finer, of = variants(space, grid)
        plain = [(row, grid.setup(row)) for row in np.flatnonzero(chain_s)[::3].tolist()]
        for row, setup in plain + [(int(of[k]), finer.setup(k)) for k in range(0, len(finer), len(finer) // 20)]:
            one = predicted_of(space, setup)
            if one is not None and chain_s[row]:
                shares.append(chain_s[row] / one.seconds)
    assert len(shares) > 20
    assert max(shares) <= 1 + 1e-12
    assert np.median(shares) > most
