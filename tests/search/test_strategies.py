"""The planner against predictions of every strategy, and what it says of what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.predict import predict, scores
from penstock.search import planner
from penstock.search.beside import neighbours, own
from penstock.search.choice import Choice, split_of
from penstock.search.planner import OVER, OVER_BYTES, OVER_ELSE, plan, predicted_of
from penstock.search.space import SCHEDULES_TRIED, Space, space_of
from penstock.search.wishes import wishes

DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
ODD = gpt(layers=8, hidden=1536, heads=12, vocab=50304, positions=2048)
TASK = {"seq": 2048, "batch": 32}


def every(space: Space) -> list[Choice]:
    """All strategies of a space that can be, predicted, the fastest first."""
    found = []
    for share in space.shares():
        grid = space.grid(share)
        found += [predicted_of(space, grid.setup(row)) for row in range(len(grid))]
    return sorted((one for one in found if one is not None), key=lambda one: one.seconds)


@pytest.mark.parametrize(
    ("model", "cluster", "framework", "fix"),
    [
        (DENSE, "dgx-h100:1", "megatron-core", "cp=1,zero=0/1,micro=1..2,recompute=none/full"),
        (DENSE, "a10:8", "torchtitan", "cp=1..2,zero=1/3,micro=1..2,sp=1,recompute=none/full"),
        (EXPERTS, "dgx-a100-40gb:1", "megatron-core", "cp=1,zero=1,micro=1,sp=1,recompute=none"),
    ],
)
def test_the_best_is_the_best_of_all(model: Any, cluster: str, framework: str, fix: str) -> None:
    found = plan(model, cluster, framework, **TASK, fix=fix, top=5)
    whole = every(space_of(model, cluster, framework, **TASK, fix=fix))
    fitting = [one for one in whole if one.headroom >= 0.05]
    assert found.proven
    assert len(whole) > 60
    assert found.best.seconds == pytest.approx(fitting[0].seconds, rel=1e-12)
    assert {one.setup for one in found.choices} <= {one.setup for one in fitting}
    assert [one.seconds for one in found.choices] == sorted(one.seconds for one in found.choices)
    assert found.considered == found.impossible + found.too_large + found.scored
    assert found.predicted < len(whole)


@pytest.mark.parametrize("model", [DENSE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("schedule", SCHEDULES_TRIED)
def test_scores_are_above_predictions_by_no_more_than_planning_allows(model: Any, schedule: str) -> None:
    space = space_of(model, "dgx-h100:2", **TASK, fix=f"schedule={schedule},pp=2..8,cp=1,zero=0/1,micro=1")
    checked = 0
    for share in space.shares():
        grid = space.grid(share)
        found = scores(space.model, space.cluster, grid, space.stack)
        for row in np.flatnonzero(found.possible)[::7].tolist():
            one = predicted_of(space, grid.setup(row))
            assert one is not None
            assert found.seconds[row] <= one.seconds * (1 + OVER.get(schedule, OVER_ELSE))
            assert found.needed_bytes[row] <= one.needed_bytes * (1 + OVER_BYTES)
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize("most", [1, 3])
def test_a_plan_that_looks_at_few_says_whether_others_could_be_faster(most: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "FINALISTS", most)
    monkeypatch.setattr(planner, "AT_ONCE", most)
    fix = "schedule=zb-v,pp=2,tp=2,cp=1,sp=1"
    found = plan(DENSE, "dgx-h100:1", **TASK, fix=fix, top=1)
    assert (found.predicted, found.proven) == (most, False)


def test_plans_do_not_depend_on_luck() -> None:
    one, other = (plan(DENSE, "dgx-h100:1", **TASK, top=7) for _ in range(2))
    assert one.choices == other.choices


def test_what_is_fixed_or_excluded_stays_so() -> None:
    found = plan(DENSE, "dgx-h100:2", **TASK, fix={"tp": [2, 4], "precision": "fp8"}, exclude="zero=0,schedule=zb-v")
    for one in found.choices:
        setup = one.setup
        assert setup.tp in (2, 4)
        assert (setup.precision, setup.zero > 0, setup.schedule != "zb-v") == ("fp8", True, True)
        assert setup.devices == 16


def test_columns_leave_a_node_only_when_asked() -> None:
    space = space_of(DENSE, "dgx-h100:2", **TASK)
    assert {tp for tp, *_ in space.splits()} == {1, 2, 4, 8}
    assert {tp for tp, *_ in space_of(DENSE, "dgx-h100:2", **TASK, fix="tp=16").splits()} == {16}


def test_headroom_is_kept() -> None:
    found = plan(DENSE, "a10:2", **TASK, headroom=0.4)
    assert found.choices
    assert min(one.headroom for one in found.choices) >= 0.4


def test_a_first_answer_comes_and_is_no_better_than_the_last() -> None:
    first: list[Choice] = []
    found = plan(DENSE, "dgx-h100:1", **TASK, first=first.append)
    assert len(first) == 1
    assert found.first_s is not None
    assert found.first_s < found.seconds
    assert first[0].seconds >= found.best.seconds


def test_where_nothing_fits_the_nearest_and_what_would() -> None:
    found = plan("llama-3-70b", "dgx-h100:4", seq=2048, batch=64, framework="pytorch", fix="zero=0,tp=8,pp=1,cp=1")
    assert not found.choices
    assert found.nearest is not None
    assert found.nearest.headroom < 0
    assert any(change.startswith("leave zero free") for change in found.changes)
    assert "64 devices in place of 32" not in found.changes
    assert plan(
        "llama-3-70b", "dgx-h100:4", seq=2048, batch=64, framework="pytorch", fix="tp=8,pp=1,cp=1", top=1
    ).choices
    with pytest.raises(ValueError, match="no strategy fits"):
        found.best  # noqa: B018


def test_neighbours_lost_for_their_reasons() -> None:
    space = space_of(DENSE, "dgx-h100:1", **TASK)
    best = plan(DENSE, "dgx-h100:1", **TASK).best
    lines = [*neighbours(space, best, 0.05)]
    assert any(line.startswith("recompute=full: +") for line in lines)
    assert not any(line.startswith("recompute") for line in neighbours(
        space_of(DENSE, "dgx-h100:1", **TASK, fix="recompute=none"), best, 0.05))  # fmt: skip
    assert next(neighbours(space, best, 0.999)).endswith("less 100% of headroom")


def test_experts_have_neighbours_with_other_ranks_of_experts() -> None:
    best = plan(EXPERTS, "dgx-h100:1", **TASK, fix="ep=4").best
    lines = [*neighbours(space_of(EXPERTS, "dgx-h100:1", **TASK), best, 0.05)]
    assert {"ep=2", "ep=8"} <= {line.partition(":")[0] for line in lines}


def test_a_choice_of_one_s_own_is_predicted() -> None:
    space = space_of(DENSE, "dgx-h100:1", **TASK)
    mine = own(space, "tp=2,pp=2")
    assert split_of(mine.setup) == "tp=2 pp=2 dp=2 micro=1 recompute=none schedule=1f1b"
    assert mine.seconds == predict(DENSE, Cluster.read("dgx-h100:1"), mine.setup, space.stack).seconds
    cheap = space_of(DENSE, "dgx-h100:1", **TASK, fix="optimizer=sgd,precision=fp8")
    assert (own(cheap, "tp=2").setup.optimizer, own(cheap, "tp=2").setup.precision) == ("sgd", "fp8")
    with pytest.raises(ValueError, match="tp has 2 values"):
        own(space, "tp=2/4")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("tq=8", "'tq' is no field of a strategy; did you mean 'tp'"),
        ("tp", "'tp' fixes nothing"),
        ("tp=x", "tp=x is no whole number"),
        ("tp=8..2", "empty range; write tp=2..8"),
        ("schedule=zb-z", "did you mean 'zb-v'"),
        ("schedule=chimera", "schedule=chimera cannot be planned yet"),
        ("vocabulary=1", "vocabulary cannot be planned yet"),
        ("batch=8", "give --batch"),
        ("sp=maybe", "neither yes nor no"),
        ("tp=0/2", "tp=0 is too small; use 1 or more"),
        ("zero=1..4", "zero=4"),
    ],
)
def test_wishes_that_cannot_be_say_so(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wishes(given)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"batch": 3, "fix": "tp=1,pp=1,cp=1"}, "batch=3 is no multiple of a dp that 8 devices leave; use 8"),
        ({"fix": "tp=3"}, "tp=3 does not divide 8 devices"),
        ({"exclude": "precision=fp8"}, "precision is not searched"),
        ({"fix": "recompute=ful/full"}, "no operator is called 'ful'"),
        ({"fix": "pp=2", "exclude": f"schedule={'/'.join(SCHEDULES_TRIED)}"}, "no schedule=1f1b/"),
        ({"fix": "tp=8,pp=1", "model": ODD}, "none of the strategies can be; the first: .*heads"),
        ({"fix": "schedule=zb-v,pp=4,chunks=1", "exclude": "pp=4"}, "fix or exclude less"),
        ({"top": 0}, "top=0"),
    ],
)
def test_spaces_without_a_strategy_say_so(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan(**{"model": DENSE, "cluster": "dgx-h100:1"} | TASK | more)
