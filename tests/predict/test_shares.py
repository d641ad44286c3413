"""Scores by several processes, and the parts that ranks of experts have in common with plain ones."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from penstock.core.config import read_architecture
from penstock.core.parts import Experts
from penstock.predict import Scores, scores, shares
from penstock.predict.floor import work_s
from penstock.predict.micro import Rank
from penstock.predict.score import _least_work_s, ranks_of
from penstock.search.finer import less
from penstock.search.space import Space, space_of

MIXED = read_architecture("deepseek-v2-lite")


@pytest.fixture(scope="module")
def space() -> Space:
    fix = "cp=1..2,pp=1/2/4,micro=1/2,ep=1/4/8,schedule=1f1b/interleaved,chunks=1/2"
    return space_of(MIXED, "dgx-h100:2", seq=2048, batch=64, fix=fix)


def test_scores_do_not_depend_on_how_many_processes_find_them(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, room = space.grid(space.splits()), space.cluster.device.memory_bytes
    monkeypatch.setattr(shares, "FEW_SHAPES", 2)
    found: list[Scores] = []
    for count in (1, 2, 3):
        monkeypatch.setattr(shares, "cores", lambda count=count: count)
        found.append(scores(space.model, space.cluster, grid, space.stack, room, 1.5, less(space)))
    assert len(grid) > shares.FEW_ROWS
    assert found[0].slow.any()
    assert np.isfinite(found[0].seconds).any()
    for other in found[1:]:
        for field in fields(Scores):
            assert (getattr(found[0], field.name) == getattr(other, field.name)).all(), field.name


def test_ranks_work_no_less_than_what_is_looked_at_first(space: Space) -> None:
    grid = space.grid(space.splits())
    whole_s = work_s(grid, *ranks_of(space.model, space.cluster, grid, space.stack, once=True))
    least_s = _least_work_s(space.model, space.cluster, grid, space.stack)
    assert (least_s <= whole_s * (1 + 1e-12)).all()
    assert np.median(least_s / whole_s) > 0.7


def test_ranks_of_experts_have_the_other_parts_of_plain_ones(space: Space) -> None:
    grid = space.grid(space.splits())
    grid = grid.rows(slice(None, None, len(grid) // 40))
    made, _ = ranks_of(space.model, space.cluster, grid, space.stack, once=True)
    shared = [rank for rank in made if rank.plain is not None]
    assert len(shared) > 5
    for rank in shared:
        rows = rank.context_row, rank.expert_row, rank.devices
        alone = Rank(rank.model, rank.cluster, rank.setup, rank.stack, rows=rows)
        assert alone.parts == rank.parts
        dense = next(block for block in rank.model.kinds() if not isinstance(block.mlp, Experts))
        assert "expert" not in rank.parts[dense].messages_s
