"""Which weights forwards run with, and how late gradients are applied, in plans that update without a flush."""

from dataclasses import replace

import pytest

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.engine import check, problems, simulate
from penstock.engine.staleness import versions
from penstock.lower import add_sends, add_step, split_vocabulary
from penstock.schedules import SCHEDULES, build

FLUSH_FREE = [name for name, one in SCHEDULES.items() if not one.gradient_equal]
SIZES = [(p, m) for p in (1, 2, 3, 4, 7) for m in (1, 2, 5, 16, 24)]


def walked(plan):
    """Versions by walking each lane with plain counters."""
    used, applied = {}, {}
    for lane in plan.lanes:
        done, waiting = dict.fromkeys(range(plan.placement.stages), 0), {}
        for op in lane:
            if op.kind == Kind.F:
                used[op.stage, op.micro] = done[op.stage]
            elif op.kind == Kind.B:
                waiting.setdefault(op.stage, []).append(op.micro)
            elif op.kind == Kind.UPDATE:
                for micro in waiting.pop(op.stage):
                    assert (op.stage, micro) not in applied
                    applied[op.stage, micro] = done[op.stage]
                done[op.stage] += 1
        assert not waiting
    return used, applied


@pytest.mark.parametrize("name", FLUSH_FREE)
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_each_gradient_is_applied_once_to_the_version_that_is_said(name, p, m):
    plan = build(name, p, m)
    check(plan)
    for sends in ("overlapped", "blocking", "batched") if p > 1 else ():
        check(add_sends(plan, sends))
    used, applied = walked(plan)
    found = versions(plan)
    assert {at: found.applied[at] for at in applied} == applied
    assert len(applied) == p * m
    if plan.weights != "double":
        assert {at: found.used[at] for at in used} == used
    else:
        assert all(found.used[at] <= used[at] for at in used)


@pytest.mark.parametrize("name", ["pipedream", "spectrain"])
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_pipedream_is_late_by_the_ranks_behind(name, p, m):
    """Staleness min(i, p-1-s), and as many versions as micro-batches in flight."""
    plan = build(name, p, m)
    assert versions(plan).staleness.tolist() == [[min(i, p - 1 - s) for i in range(m)] for s in range(p)]
    kept = versions(plan).kept(plan).tolist()
    assert all(found <= p - stage for stage, found in enumerate(kept))
    assert m < 2 * p or kept == [p - stage for stage in range(p)]


@pytest.mark.parametrize("group", [0, 1, 3, 4, 6, 8])
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_two_versions_are_enough_for_2bw(p, m, group):
    """All stages run a group with the same version, one update late after the first."""
    size = group or p
    if SCHEDULES["pipedream-2bw"].valid(p, m, 1, group=group):
        with pytest.raises(ValueError, match=f"group={group} needs more than two versions on ranks={p}"):
            build("pipedream-2bw", p, m, group=group)
        return
    plan = build("pipedream-2bw", p, m, group=group)
    check(plan)
    assert versions(plan).staleness.tolist() == [[min(i // size, 1) for i in range(m)]] * p
    assert versions(plan).kept(plan).max() <= 2


def test_a_synchronous_plan_has_one_version():
    plan = build("interleaved", 2, 4, 2)
    assert not versions(plan).staleness.any()
    assert versions(plan).kept(plan).tolist() == [1] * 4


def test_an_update_holds_its_rank():
    plan = build("pipedream", 2, 3)
    costs = Costs.uniform(plan.placement, other_s={Kind.UPDATE: 0.5})
    bare = simulate(build("1f1b", 2, 3), costs)
    assert simulate(plan, costs).step_s == bare.step_s + 3 * 0.5


def without(plan, *texts):
    """The plan less some ops."""
    return plan.with_lanes(Lane.of([op for op in lane if str(op) not in texts]) for lane in plan.lanes)


PIPEDREAM = build("pipedream", 2, 3)
SYNCED = replace(PIPEDREAM, weights="synced")


def of_lanes(first):
    """PipeDream with another lane on rank 0."""
    return PIPEDREAM.with_lanes((Lane.parse(first), PIPEDREAM.lanes[1]))


@pytest.mark.parametrize(
    ("plan", "op", "says"),
    [
        (without(PIPEDREAM, "1UPDATE2"), "1B2", "its gradient is never applied"),
        (SYNCED, "0UPDATE0", "the plan's weights are 'synced'"),
        (replace(build("1f1b", 2, 3), weights="stashed"), "0F0", "the plan's weights are 'stashed'"),
        (replace(add_step(SYNCED), weights="stashed"), "0STEP", "never meet"),
        (of_lanes("0F0 0F1 0B0 0UPDATE0 0B1 0UPDATE0 0F2 0B2 0UPDATE2"), "0UPDATE0", "stands 2 times"),
        (of_lanes("0F0 0F1 0B0 0UPDATE0 0UPDATE1 0B1 0F2 0B2 0UPDATE2"), "0UPDATE1", "no gradient has come"),
        (of_lanes("0F0 0F1 0B0 0B1 0UPDATE0 0F2 0B2 0UPDATE2"), "0UPDATE0", "before it is that of 0B1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_updates(plan, op, says):
    found = problems(plan)
    assert (found[0].op, says in found[0].message) == (op, True)


def test_groups_of_2bw_must_be_alike_and_large():
    alike = problems(without(build("pipedream-2bw", 2, 4), "1UPDATE1"))
    assert "in another group" in alike[0].message
    small = replace(build("pipedream", 4, 6), weights="double")
    assert {one.op for one in problems(small)} == {f"{s}F{i}" for s in (0, 1) for i in (2, 3, 4, 5)}
    assert "which comes later" in problems(small)[0].message


def test_neither_a_step_nor_vocabulary_passes_fit():
    with pytest.raises(ValueError, match="it takes no step at the end"):
        add_step(PIPEDREAM)
    with pytest.raises(ValueError, match="vocabulary passes need one step"):
        split_vocabulary(PIPEDREAM, 1)
