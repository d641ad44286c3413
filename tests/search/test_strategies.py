"""The planner against predictions of every strategy, and what it says of what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt
from penstock.cost.stack import stack
from penstock.predict import predict, scores
from penstock.schedules import SCHEDULES
from penstock.search import finals
from penstock.search.beside import neighbours, own, reason
from penstock.search.choice import Choice, split_of
from penstock.search.finals import predicted_of
from penstock.search.finer import variants
from penstock.search.margins import OVER, OVER_BYTES, OVER_ELSE, at_least_s, over_bytes
from penstock.search.orders import orders
from penstock.search.planner import best_of, plan
from penstock.search.space import SCHEDULES_TRIED, Space, space_of
from penstock.search.wishes import can_be_planned, wishes

DENSE = gpt(layers=8, hidden=2048, heads=16, vocab=50304, positions=2048)
EXPERTS = gpt(layers=8, hidden=1024, heads=16, vocab=32000, gated=True, experts=8, topk=2, expert_ffn=2048)
ODD = gpt(layers=8, hidden=1536, heads=12, vocab=50304, positions=2048)
WIDE = gpt(layers=16, hidden=1024, heads=16, vocab=128256, positions=2048)
TASK = {"seq": 2048, "batch": 32}
MODELS = {"dense": DENSE, "experts": EXPERTS}
PLANNED = [name for name in SCHEDULES if can_be_planned(name)]


def every(space: Space, with_variants: bool = False) -> list[Choice]:
    """All strategies of a space that can be, predicted, the fastest first."""
    found = []
    for share in space.shares():
        grid = space.grid(share)
        for one in (grid, *([variants(space, grid)[0]] if with_variants else [])):
            found += [predicted_of(space, one.setup(row)) for row in range(len(one))]
    return sorted((one for one in found if one is not None), key=lambda one: one.seconds)


@pytest.mark.parametrize(
    ("model", "cluster", "framework", "fix"),
    [
        (DENSE, "dgx-h100:1", "megatron-core", "cp=1,zero=0/1,micro=1..2,recompute=none/full"),
        pytest.param(
            *(DENSE, "a10:8", "torchtitan", "cp=1..2,zero=1/3,micro=1..2,sp=1,recompute=none/full"),
            marks=pytest.mark.slow,
        ),
        (EXPERTS, "dgx-a100-40gb:1", "megatron-core", "cp=1,zero=1,micro=1,sp=1,recompute=none"),
    ],
)
def test_the_best_is_the_best_of_all(model: Any, cluster: str, framework: str, fix: str) -> None:
    fix += ",stage_layers=even,shards=0"
    found = plan(model, cluster, framework, **TASK, fix=fix, top=5)
    whole = every(space_of(model, cluster, framework, **TASK, fix=fix))
    fitting = [one for one in whole if one.headroom >= 0.05]
    assert found.proven
    assert len(whole) > 60
    assert found.best.seconds == pytest.approx(fitting[0].seconds, rel=1e-12)
    assert {one.setup for one in found.choices} <= {one.setup for one in fitting}
    assert [one.seconds for one in found.choices] == sorted(one.seconds for one in found.choices)
    assert found.considered == found.impossible + found.too_large + found.too_slow + found.scored
    assert found.predicted < len(whole)


@pytest.mark.parametrize(
    ("cluster", "framework", "fix"),
    [
        ("dgx-h100:1", "megatron-core", "tp=1..2,pp=2..8,cp=1,zero=1,micro=1,sp=1,recompute=none"),
        ("p3:16", "torchtitan", "tp=1,cp=1,pp=1,zero=3,micro=1,recompute=none"),
        ("dgx-h100:1", "penstock", "tp=1,cp=1,pp=4..8,zero=0,micro=1,recompute=none,schedule=1f1b/zb-h1"),
    ],
)
def test_the_best_of_variants_is_the_best_of_all(cluster: str, framework: str, fix: str) -> None:
    task = TASK | {"batch": 128 if cluster == "p3:16" else 32}
    found = plan(WIDE, cluster, framework, **task, fix=fix, top=3)
    whole = every(space_of(WIDE, cluster, framework, **task, fix=fix), with_variants=True)
    fitting = [one for one in whole if one.headroom >= 0.05]
    assert found.proven
    assert found.best.seconds == pytest.approx(fitting[0].seconds, rel=1e-12)
    plain = {"shards": 0, "vocabulary": 0, "stage_layers": ()}
    assert replace(found.best.setup, **plain) != found.best.setup


def taking_turns(*names: str) -> list[Any]:
    """Every other schedule with one of the names, and in the slow suite all with all."""
    pairs = [(schedule, name, at % (2 * len(names)) == 2 * turn) for at, schedule in enumerate(PLANNED)
             for turn, name in enumerate(names)]  # fmt: skip
    return [pytest.param(*pair, marks=() if quick else pytest.mark.slow) for *pair, quick in pairs]


@pytest.mark.parametrize(("schedule", "model"), taking_turns(*MODELS))
def test_scores_are_above_predictions_by_no_more_than_planning_allows(schedule: str, model: str) -> None:
    space = space_of(MODELS[model], "dgx-h100:2", **TASK, fix=f"schedule={schedule},pp=2..8,cp=1,zero=0/1,micro=1")
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


@pytest.mark.parametrize(("schedule", "framework"), taking_turns("penstock", "megatron-core"))
def test_scores_of_variants_are_no_further_above_predictions(schedule: str, framework: str) -> None:
    space = space_of(
        WIDE, "dgx-h100:2", framework, **TASK, fix=f"schedule={schedule},pp=2..8,cp=1,tp=1,dp=1..8,micro=1"
    )
    grid, _ = variants(space, space.grid(space.splits()))
    found = scores(space.model, space.cluster, grid, space.stack)
    rows = np.flatnonzero(found.possible)
    least_s = np.maximum(at_least_s(grid, found.seconds), found.work_s)
    for row in np.random.default_rng(5).choice(rows, 12, replace=False).tolist():
        one = predicted_of(space, grid.setup(row))
        assert one is not None
        assert least_s[row] <= one.seconds * (1 + 1e-12)
        assert found.needed_bytes[row] <= one.needed_bytes * (1 + over_bytes(grid)[row])


@pytest.mark.parametrize("most", [1, 3])
def test_a_plan_that_looks_at_few_says_whether_others_could_be_faster(most: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(finals, "FINALISTS", most)
    monkeypatch.setattr(finals, "AT_ONCE", most)
    fix = "schedule=zb-v,pp=2,tp=2,cp=1,sp=1,stage_layers=even,shards=0"
    found = plan(DENSE, "dgx-h100:1", **TASK, fix=fix, top=1)
    assert (found.predicted, found.proven) == (most, False)


def test_plans_do_not_depend_on_luck() -> None:
    one, other = (plan(DENSE, "dgx-h100:1", **TASK, top=7) for _ in range(2))
    assert one.choices == other.choices


def test_axes_that_a_framework_lacks_are_not_searched_but_may_be_fixed() -> None:
    found = plan(DENSE, "dgx-h100:1", framework="penstock", **TASK, top=50)
    assert {(one.setup.tp, one.setup.cp, one.setup.pp, one.setup.dp) for one in found.choices} == {(1, 1, 8, 1)}
    fixed = plan(DENSE, "dgx-h100:1", framework="penstock", **TASK, top=50, fix="dp=2")
    assert {one.setup.dp for one in fixed.choices} == {2}
    with pytest.raises(ValueError, match=r"and penstock splits pp alone; fix or exclude less, or take another"):
        plan(DENSE, "dgx-h100:4", framework="penstock", **TASK)


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


def test_the_optimizer_waits_in_host_memory_where_nothing_else_fits() -> None:
    task: dict[str, Any] = {"seq": 2048, "batch": 64, "fix": "pp=4,zero=1,tp=8", "top": 1}
    found = plan("gpt3-175b", "dgx-h100:4", **task)
    assert 0.5 <= found.best.setup.optimizer_offload < 1
    assert found.best.headroom >= 0.05
    asked = plan(DENSE, "dgx-h100:1", **TASK, fix="optimizer_offload=0/1,tp=1,pp=1,cp=1,micro=1,zero=1", top=9).choices
    assert {one.setup.optimizer_offload for one in asked} == {0.0, 1.0}


def test_a_search_that_is_stopped_has_the_best_so_far(monkeypatch: Any) -> None:
    monkeypatch.setattr(finals, "MOST_ROWS", 100)
    told: list[int] = []

    def watch(done: int, best: Choice | None) -> bool:
        told.append(done)
        return best is None

    found = best_of(space_of(DENSE, "dgx-h100:1", **TASK), top=3, headroom=0.05, watch=watch)
    assert found.stopped
    assert not found.proven
    assert len(found.choices) == 3
    assert told == sorted(told)
    early = best_of(space_of(DENSE, "dgx-h100:1", **TASK), top=3, headroom=0.05, watch=lambda done, best: done == 0)
    assert early.considered < found.considered
    none = best_of(space_of(DENSE, "dgx-h100:1", **TASK), top=3, headroom=0.05, watch=lambda done, best: False)
    assert (none.stopped, none.considered, len(none.choices)) == (True, 0, 1)


def test_orders_are_no_slower_than_schedules_nor_faster_than_bounds() -> None:
    fix = "pp=4,tp=2,schedule=1f1b,recompute=none,micro=1,zero=0"
    space = space_of(WIDE, "dgx-h100:1", "penstock", **TASK, fix=fix)
    found = best_of(space, top=2, headroom=0.05)
    made = orders(space, found.choices, 0.05, 1.0, processes=1)
    assert len(made) == len(found.choices)
    for one in made:
        assert one.bound_s * (1 - 1e-12) <= one.choice.seconds <= one.named_s
        assert one.choice.headroom >= 0.05
    assert max(one.gain for one in made) > 0.01
    with pytest.raises(ValueError, match="megatron-core runs its own schedules alone"):
        orders(space_of(WIDE, "dgx-h100:1", **TASK), found.choices, 0.05, 1.0)


def test_neighbours_lost_for_their_reasons() -> None:
    space = space_of(DENSE, "dgx-h100:1", **TASK)
    best = plan(DENSE, "dgx-h100:1", **TASK).best
    lines = [*neighbours(space, best, 0.05)]
    assert any(line.startswith("recompute=full: +") for line in lines)
    assert not any(line.startswith("recompute") for line in neighbours(
        space_of(DENSE, "dgx-h100:1", **TASK, fix="recompute=none"), best, 0.05))  # fmt: skip
    assert next(neighbours(space, best, 0.999)).endswith("less 100% of headroom")
    assert reason(best, replace(best, seconds=best.seconds * 0.9996), 0.05) == "no difference in step time"


@pytest.mark.parametrize("framework", ["penstock", "llm-foundry", "megatron-core"])
def test_neighbours_split_what_the_framework_splits(framework: str) -> None:
    space = space_of(DENSE, "dgx-h100:1", framework, **TASK)
    best = best_of(space, top=1, headroom=0.05).best
    named = {line.partition("=")[0] for line in neighbours(space, best, 0.05)}
    assert named & {"tp", "pp", "cp"} == ({"tp", "pp", "cp"} if framework == "megatron-core" else set())
    assert ("zero" in named) == (best.setup.dp > 1)


def test_experts_have_neighbours_with_other_ranks_of_experts() -> None:
    best = plan(EXPERTS, "dgx-h100:1", **TASK, fix="ep=4,pp=1").best
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
        ("tp=2..999999", "tp=2..999999 has too many values; write tp=2..100001"),
        ("schedule=zb-z", "did you mean 'zb-v'"),
        ("schedule=chimera", "schedule=chimera cannot be planned yet"),
        ("vocabulary=4", "vocabulary=4 is no way to split it"),
        ("stage_layers=7+x", "stage_layers=7\\+x: write even, or layers"),
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


@pytest.mark.parametrize("lacks", [(), ("sp", "cp", "selective")])
def test_what_a_framework_lacks_is_not_tried_unless_it_is_fixed(lacks: tuple[str, ...]) -> None:
    space = space_of(DENSE, "dgx-h100:1", replace(stack("megatron-core"), lacks=lacks), **TASK)
    grid = space.grid([split for share in space.shares() for split in share])
    assert (grid.cp.max() > 1, grid.sp.any(), "selective" in grid.choices["recompute"]) == (not lacks,) * 3
    fixed = replace(space, fixed={"recompute": ("selective",), "sp": (True,)})
    assert fixed.grid(fixed.shares()[-1]).choices["recompute"] == ("selective",)
    setup = grid.setup(int(np.flatnonzero((grid.tp == 2) & (grid.pp == 1))[0]))
    best = Choice.of(setup, predict(DENSE, space.cluster, setup, space.stack))
    said = " ".join(neighbours(space, best, 0.05))
    assert ("recompute=selective" in said, "sp=" in said, "cp=" in said) == (not lacks,) * 3
