"""The strategy that needs least is the one of all that does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.predict import scores
from penstock.search.misses import least
from penstock.search.space import space_of
from penstock.search.switches import off


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("llama-3-70b", "cp=1,pp=1/4"),
        ("llama-3-8b", "recompute=none/selective,micro=2/4"),
        ("mixtral-8x7b", "tp=2,pp=1,zero=1"),
    ],
)
@pytest.mark.parametrize("away", [0.0, 1.0])
def test_what_needs_least_is_the_first_of_all_that_need_so_much(model: str, fix: str, away: float) -> None:
    space = space_of(model, "dgx-h100:1", seq=4096, batch=64, fix=fix)
    space = replace(space, base=replace(space.base, optimizer_offload=away))
    each = []
    for share in off(space).shares():
        grid = off(space).grid(share)
        needed = scores(space.model, space.cluster, grid, space.stack, bytes_alone=True).needed_bytes
        row = int(np.argmin(needed))
        each.append((float(needed[row]), grid.setup(row)))
    assert least(space) == min(each, key=lambda one: one[0])


def test_bytes_are_the_same_without_seconds() -> None:
    space = space_of("mixtral-8x7b", "dgx-h100:1", seq=4096, batch=64, fix="tp=2,recompute=none")
    grid = space.grid(space.splits())
    both, alone = (scores(space.model, space.cluster, grid, space.stack, bytes_alone=each) for each in (False, True))
    assert np.array_equal(both.needed_bytes, alone.needed_bytes)
    assert np.array_equal(both.fits, alone.fits)
    assert np.isfinite(both.seconds).any()
    assert not np.isfinite(alone.seconds).any()
