"""Scores of grids against predictions with their timelines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config import gpt, read_architecture
from penstock.core.mesh import ORDERS
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import Grid, Scores, predict, scores
from penstock.predict.held import takes_arrays
from penstock.schedules import SCHEDULES
from penstock.search.finer import less, variants
from penstock.search.space import space_of

DENSE = gpt(layers=24, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(layers=16, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
MIXED = read_architecture("deepseek-v2-lite")
CLUSTER = Cluster.read("dgx-h100:4")
SPLITS = {"tp": (1, 2, 4, 3), "cp": (1, 2), "pp": (1, 2, 4, 8), "micro": (1, 2, 5), "zero": (0, 1, 2, 3)}
MODELS = {"dense": DENSE, "experts": EXPERTS, "mixed": MIXED}
QUICK = {("dense", "deepspeed"), ("experts", "pytorch"), ("mixed", "megatron-core")}


def grid(schedules: tuple[str, ...], devices: int = 32, batch: int = 160, **more: Iterable[Any]) -> Grid:
    values = SPLITS | {"recompute": ("none", "full"), "sp": (0, 1), "schedule": schedules} | more
    return Grid.all_of(Setup(seq=1024, batch=batch), devices, **values)


def some(of: Grid, found: Scores, seed: int, size: int = 40) -> list[int]:
    possible = np.flatnonzero(found.possible)
    return np.random.default_rng(seed).choice(possible, min(size, len(possible)), replace=False).tolist()


def errors(model: Architecture, of: Grid, framework: str, seed: int = 0) -> np.ndarray:
    """Score over prediction, less 1, of time, memory: shape (rows, 2)."""
    found, rows = scores(model, CLUSTER, of, stack(framework)), []
    for row in some(of, found, seed):
        whole = predict(model, CLUSTER, of.setup(row), stack(framework))
        rows.append((found.seconds[row] / whole.seconds - 1, found.peak_bytes[row] / whole.peak.total - 1))
        if abs(rows[-1][1]) < 1e-9:
            assert found.fits[row] == whole.fits
    return np.abs(rows)


@pytest.mark.parametrize(
    ("model", "framework"),
    [
        pytest.param(model, framework, marks=() if (model, framework) in QUICK else pytest.mark.slow)
        for model in MODELS
        for framework in ("megatron-core", "deepspeed", "pytorch")
    ],
)
def test_without_a_pipeline_scores_are_predictions(model: str, framework: str) -> None:
    ep = (1,) if model == "dense" else (1, 4)
    found = errors(MODELS[model], grid(("1f1b", "zb-h1"), pp=(1,), ep=ep), framework)
    assert len(found) == 40
    assert found.max() < 1e-9


@pytest.mark.parametrize(
    ("schedules", "chunks", "time", "median", "memory"),
    [
        (("1f1b",), (1,), 0.01, 0.001, 1e-9),
        (("interleaved",), (2, 3), 0.07, 0.01, 0.06),
        (("zb-h1", "zb-h2"), (1,), 0.07, 0.01, 0.04),
        (("zb-v",), (2,), 0.1, 0.04, 1e-9),
    ],
)
def test_pipelines_are_close_to_their_timelines(
    schedules: tuple[str, ...], chunks: tuple[int, ...], time: float, median: float, memory: float
) -> None:
    found = errors(DENSE, grid(schedules, pp=(2, 4, 8), chunks=chunks), "megatron-core")
    assert found[:, 0].max() < time
    assert np.median(found[:, 0]) < median
    assert found[:, 1].max() < memory


@pytest.mark.parametrize("model", ["experts", "mixed"])
def test_pipelines_of_unequal_blocks_are_close(model: str) -> None:
    found = errors(MODELS[model], grid(("1f1b",), pp=(2, 4, 8), ep=(1, 2)), "megatron-core", seed=1)
    assert found[:, 0].max() < 0.01
    assert np.median(found[:, 0]) < 0.002
    assert found[:, 1].max() < 0.02


@pytest.mark.parametrize(
    ("framework", "more", "time"),
    [
        ("megatron-core", {"stage_layers": ((6, 6, 7, 5), (5, 7, 7, 5), ()), "pp": (4,)}, 0.02),
        ("penstock", {"vocabulary": (1, 2), "pp": (2, 4), "zero": (0,)}, 0.02),
        ("megatron-core", {"shards": (2, 4), "zero": (1,), "pp": (1, 2)}, 0.01),
        ("torchtitan", {"shards": (2, 4, 8), "zero": (2, 3), "pp": (1,)}, 1e-9),
        ("megatron-core", {"cp": (2, 4), "cp_heads": (True,), "pp": (1,)}, 1e-9),
        ("megatron-deepspeed", {"tp": (2, 4, 8), "pp": (2, 4), "zero": (0, 1)}, 0.01),
        ("megatron-core", {"cp": (4, 8), "cp_inner": (2, 4), "pp": (1, 2), "order": ORDERS}, 0.01),
        ("torchtitan", {"order": ORDERS, "cp": (2, 4), "pp": (1,)}, 1e-9),
        ("megatron-core", {"order": ORDERS, "pp": (2, 4), "shards": (0, 4), "zero": (0, 1)}, 0.01),
    ],
)
def test_cuts_and_shards_and_heads_are_as_predicted(framework: str, more: dict[str, Any], time: float) -> None:
    found = errors(DENSE, grid(("1f1b",), **more), framework, seed=3)
    assert len(found) >= 20
    assert found[:, 0].max() < time
    assert found[:, 1].max() < 1e-9


def test_experts_in_any_order_are_as_predicted() -> None:
    of = grid(("1f1b",), order=ORDERS, pp=(2, 4), ep=(2, 4), tp=(1, 2), zero=(0, 1), sp=(1,))
    found = errors(EXPERTS, of, "megatron-core", seed=4)
    assert len(found) == 40
    assert found[:, 0].max() < 0.01
    assert found[:, 1].max() < 1e-9


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v"])
def test_no_cut_and_no_shards_are_below_what_variants_take_at_least(schedule: str) -> None:
    chunks = 2 if SCHEDULES[schedule].chunks else 1
    base = grid((schedule,), pp=(2, 4, 8), chunks=(chunks,), micro=(1, 2), tp=(1, 2), zero=(0, 1), sp=(0,), batch=64)
    space = space_of(DENSE, CLUSTER, "megatron-core", seq=1024, batch=64)
    least_s = scores(DENSE, CLUSTER, base, space.stack, less=less(space)).least_s
    finer, of = variants(space, base)
    found = scores(DENSE, CLUSTER, finer, space.stack)
    assert len(finer) > 200
    assert found.possible.mean() > 0.9
    assert (least_s[of] / found.seconds).max() <= 1 + 1e-9


def test_what_cannot_be_is_what_predict_refuses() -> None:
    of = grid(("1f1b", "interleaved", "zb-v", "no such"), chunks=(1, 2, 9), ep=(1, 3), pp=(1, 4, 8, 5))
    found = scores(DENSE, CLUSTER, of, stack("megatron-core"))
    refused = 0
    for row in np.random.default_rng(2).choice(len(of), 150, replace=False).tolist():
        try:
            predict(DENSE, CLUSTER, of.setup(row), stack("megatron-core"))
        except ValueError:
            refused += 1
            assert not found.possible[row], row
            assert (found.seconds[row], found.fits[row]) == (np.inf, False)
        else:
            assert found.possible[row], of.setup(row)
    assert 20 < refused < 150


@pytest.mark.parametrize("most", [3, 10**9])
def test_rows_are_told_apart_whatever_their_numbers_span(most: int) -> None:
    columns = np.random.default_rng(0).integers(-most, most, (2, 200))
    first, which = Grid.of(Setup(seq=8, batch=8), tp=[1] * 200).kinds(*columns)
    _, begins, places = np.unique(columns, axis=1, return_index=True, return_inverse=True)
    assert first.tolist() == begins.tolist()
    assert which.tolist() == places.ravel().tolist()


def test_idle_time_of_many_setups_is_that_of_each() -> None:
    sizes = [(p, m, v) for p in (2, 4, 8) for m in (1, 4, 12) for v in (1, 2, 4)]
    columns = np.array([(*size, 1.0, 1.3, 0.7) for size in sizes]).T
    for name, schedule in SCHEDULES.items():
        if takes_arrays(name):
            each = [schedule.idle(*map(int, column[:3]), *column[3:]) for column in columns.T]
            assert np.broadcast_to(schedule.idle(*columns), len(sizes)).tolist() == each


def test_more_devices_than_there_are_cannot_be() -> None:
    of = Grid.of(Setup(seq=1024, batch=64), dp=[16, 32, 64])
    assert scores(DENSE, CLUSTER, of, stack("megatron-core")).possible.tolist() == [True, True, False]


def test_rows_do_not_know_of_each_other() -> None:
    of, framework = grid(("1f1b", "zb-h1"), pp=(2, 4)), stack("deepspeed")
    whole = scores(DENSE, CLUSTER, of, framework)
    half = scores(DENSE, CLUSTER, of.rows(slice(None, None, 2)), framework)
    assert whole.seconds[::2] == pytest.approx(half.seconds, rel=1e-12)
    assert whole.peak_bytes[::2] == pytest.approx(half.peak_bytes, rel=1e-12)


@pytest.mark.parametrize(
    ("base", "columns", "says"),
    [
        ({}, {"tq": [1]}, "no column 'tq'"),
        ({}, {"tp": [1, 2], "dp": [1, 2, 4]}, "columns have \\[2, 3\\] rows"),
    ],
)
def test_grids_that_cannot_be_say_so(base: dict[str, int], columns: dict[str, list[int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Grid.of(Setup(seq=8, batch=8, **base), **columns)  # type: ignore[arg-type]
