"""Every kind of illegal plan is caught; the message names rank, op, what it waits for and a fix that helps."""

import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.needs import partners
from penstock.core.op import SENDS, Op, Sends
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.play import batches
from penstock.engine import IllegalPlan, check, problems, simulate
from penstock.lower import add_sends, add_step
from penstock.schedules import build
from randoms import UNSHRUNK, plans


def two_ranks(first, second, micros=1, **more):
    return Plan("mine", Placement.loop(2), micros, (Lane.parse(first), Lane.parse(second)), **more)


ILLEGAL = {
    "stage out of range": (
        two_ranks("0F0 0B0 7F0", "1F0 1B0"),
        "rank 0, 7F0: does not exist; stages are 0..1, micro-batches 0..0",
    ),
    "micro-batch out of range": (two_ranks("0F0 0B0 0F1", "1F0 1B0"), "rank 0, 0F1: does not exist"),
    "wrong rank": (two_ranks("0F0 0B0 1F0", "1B0"), "rank 0, 1F0: stage 1 lives on rank 1; move it to rank 1"),
    "twice": (two_ranks("0F0 0F0 0B0", "1F0 1B0"), "rank 0, 0F0: stands 2 times; keep one"),
    "whole and split": (two_ranks("0F0 0B0 0W0", "1F0 1B0"), "rank 0, 0B0: 0W0 stands too; B is I and W: keep either"),
    "no forward": (two_ranks("0B0", "1F0 1B0"), "rank 0, 0F0: is missing; F of every stage and micro-batch must stand"),
    "no backward": (two_ranks("0F0", "1F0 1B0"), "rank 0, 0B0: is missing"),
    "I without W": (two_ranks("0F0 0I0", "1F0 1B0"), "rank 0, 0W0: is missing"),
    "W without I": (two_ranks("0F0 0W0", "1F0 1B0"), "rank 0, 0I0: is missing"),
    "early step": (two_ranks("0F0 0STEP 0B0 0STEP", "1F0 1B0"), "rank 0, 0STEP: 0B0 comes after it; put steps last"),
    "never received": (
        two_ranks("0F0 0SEND_F0 0RECV_B0 0B0", "1F0 1B0 1SEND_B0"),
        "rank 1, 1F0: needs 1RECV_F0, which no lane holds; add 1RECV_F0 before it",
    ),
    "never sent": (
        two_ranks("0F0 0RECV_B0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"),
        "rank 1, 1RECV_F0: its other end 0SEND_F0 is missing on rank 0; add 0SEND_F0 to rank 0",
    ),
    "sent into nowhere": (
        two_ranks("0F0 0SEND_F0 0RECV_B0 0B0 0SEND_B0", "1RECV_F0 1F0 1B0 1SEND_B0"),
        "rank 0, 0SEND_B0: no stage lies on that side; drop it",
    ),
    "received out of order": (
        two_ranks(
            "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
            "1RECV_F1 1RECV_F0 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1",
            micros=2,
        ),
        "rank 1, 1RECV_F1: is received before 1RECV_F0, but sent after it: 0SEND_F1 stands behind 0SEND_F0 on rank 0; "
        "put 1RECV_F0 before 1RECV_F1",
    ),
    "before itself": (
        two_ranks("0B0 0F0", "1F0 1B0"),
        "rank 0, 0B0: deadlock: rank 0 waits at 0B0 for 0F0, which stands behind 0B0 on rank 0; "
        "move 0F0 before 0B0 on rank 0",
    ),
    "ring": (
        two_ranks("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1", micros=2),
        "rank 1, 1F1: deadlock: rank 1 waits at 1F1 for 0F1, which stands behind 0B0 on rank 0, "
        "rank 0 waits at 0B0 for 1B0, which stands behind 1F1 on rank 1; move 0F1 before 0B0 on rank 0",
    ),
    "rendezvous": (
        two_ranks(
            "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
            "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
            micros=2,
            sends="blocking",
        ),
        "deadlock: rank 0 waits at 0SEND_F1 for 1RECV_F1, which stands behind 1SEND_B0 on rank 1",
    ),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_it_is_caught_and_named(what):
    plan, says = ILLEGAL[what]
    with pytest.raises(IllegalPlan, match=re.escape(says)) as error:
        check(plan)
    assert error.value.problems == problems(plan)
    assert str(error.value).startswith("plan 'mine' is not legal: rank ")


def test_a_full_link_can_hold_up_its_own_receiver():
    """Rank 0 may not send F1 before F0 has arrived, and rank 1 first wants what rank 0 sends later, over rank 2."""
    lanes = (
        "0F0 0SEND_F0 0F1 0SEND_F1 2F2 2SEND_F2 2F3 2SEND_F3",
        "4RECV_F2 4F2 4RECV_F3 4F3 1RECV_F0 1F0 1RECV_F1 1F1",
        "3RECV_F2 3F2 3SEND_F2 3RECV_F3 3F3 3SEND_F3",
    )
    place = Placement((0, 1, 0, 2, 1), (-1, 0, -1, 2, 3))
    plan = Plan("mine", place, 4, tuple(map(Lane.parse, lanes)), in_flight=2)
    assert problems(plan) == []
    (found,) = problems(replace(plan, in_flight=1))
    assert "rank 0 waits at 0SEND_F1 for 1RECV_F0, which stands behind 4F2 on rank 1" in found.message


def test_a_batch_may_not_ask_for_more_of_a_link_than_is_let_in_flight():
    """The runtime posts a batch at once; only what stands in batches of its own can wait for room."""
    lanes = ("0F0 0F1 0SEND_F0 0SEND_F1", "1RECV_F0 1RECV_F1 1F0 1F1")
    plan = Plan("mine", Placement.loop(2), 2, tuple(map(Lane.parse, lanes)), "batched")
    assert problems(plan) == problems(replace(plan, in_flight=2)) == []
    (found,) = problems(replace(plan, in_flight=1))
    assert (found.rank, found.op) == (0, "0SEND_F1")
    assert found.message == "passes in one batch with 0SEND_F0, and in_flight=1 of a link"
    apart = ("0F0 0SEND_F0 0F1 0SEND_F1", "1RECV_F0 1F0 1RECV_F1 1F1")
    assert problems(replace(plan, in_flight=1, lanes=tuple(map(Lane.parse, apart)))) == []


@UNSHRUNK
@given(plans(), st.integers(1, 2))
def test_batches_that_are_let_in_flight_run_as_without_a_bound(plan, in_flight):
    plan = add_sends(plan, "batched")
    bounded = replace(plan, in_flight=in_flight)
    links = [
        (int(plan.rank_of_op[row]), int(plan.rank_of_op[partners(plan)[row]]), int(row - batches(plan)[row, 0]))
        for row in np.flatnonzero(np.isin(plan.ops[:, 0], SENDS))
    ]
    assert bool(problems(bounded)) == (max(Counter(links).values(), default=0) > in_flight)
    if not problems(bounded):
        costs = Costs.uniform(plan.placement, link_s=0.3)
        assert np.array_equal(simulate(bounded, costs).end_s, simulate(plan, costs).end_s)


def test_what_a_fix_moves_helps():
    """Following the advice of each deadlock in turn ends with a legal plan."""
    plan, _ = ILLEGAL["ring"]
    for _ in range(10):
        found = problems(plan)
        if not found:
            return
        what, before, rank = re.search(r"move (\S+) before (\S+) on rank (\d+)", found[0].fix).groups()
        plan = moved(plan, Op.parse(what), Op.parse(before), int(rank))
    pytest.fail(f"still not legal: {found[0]}")


def moved(plan, what, before, rank):
    ops = [op for op in plan.lanes[rank] if op != what]
    ops.insert(ops.index(before), what)
    return plan.with_lanes(Lane.of(ops) if r == rank else lane for r, lane in enumerate(plan.lanes))


@given(st.data())
def test_an_op_put_too_early_is_caught_or_still_runs(data):
    """Whatever two ops change places: the check says nothing only if the simulator runs to the end."""
    plan = data.draw(plans())
    if data.draw(st.booleans()):
        plan = add_sends(plan, data.draw(st.sampled_from(get_args(Sends))))
    rank = data.draw(st.integers(0, plan.placement.ranks - 1))
    codes = plan.lanes[rank].codes.copy()
    a, b = (data.draw(st.integers(0, len(codes) - 1)) for _ in range(2))
    codes[[a, b]] = codes[[b, a]]
    plan = plan.with_lanes(Lane(codes) if r == rank else lane for r, lane in enumerate(plan.lanes))
    found = problems(plan)
    if not found:
        assert not np.isnan(simulate(plan, Costs.uniform(plan.placement)).end_s).any()
    elif found[0].message.startswith("deadlock"):
        with pytest.raises(IllegalPlan):
            simulate(plan, Costs.uniform(plan.placement))
        assert re.search(r"rank \d+ waits at \S+ for \S+", found[0].message)


@given(st.data())
def test_advice_on_random_deadlocks_ends_in_a_legal_plan(data):
    plan = data.draw(plans(most_ranks=3, most_chunks=2, most_micros=3))
    rank = data.draw(st.integers(0, plan.placement.ranks - 1))
    order = data.draw(st.permutations(range(len(plan.lanes[rank]))))
    plan = plan.with_lanes(Lane(lane.codes[order]) if r == rank else lane for r, lane in enumerate(plan.lanes))
    for _ in range(400):
        found = problems(plan)
        if not found:
            return
        what, before, where = re.search(r"move (\S+) before (\S+) on rank (\d+)", found[0].fix).groups()
        plan = moved(plan, Op.parse(what), Op.parse(before), int(where))
    pytest.fail(f"still not legal: {found[0]}")


@given(plans(), st.booleans())
def test_a_lacking_op_is_always_caught(plan, sends):
    plan = add_sends(plan) if sends else plan
    for drop in range(0, len(plan), max(1, len(plan) // 7)):
        rank = int(plan.rank_of_op[drop])
        less = np.delete(plan.lanes[rank].codes, drop - plan.first[rank], axis=0)
        changed = plan.with_lanes(Lane(less) if r == rank else lane for r, lane in enumerate(plan.lanes))
        assert problems(changed) or not changed.trains, f"{plan.op(drop)} is not missed"


def test_forwards_alone_are_legal():
    assert problems(two_ranks("0F0", "1F0")) == []


def test_steps_are_part_of_a_legal_plan():
    assert problems(add_step(add_sends(build("1f1b", 4, 8)))) == []


def test_a_memory_limit_names_where_it_breaks():
    plan = build("gpipe", 2, 4)
    costs = Costs.uniform(plan.placement)
    check(plan, costs, memory_limit=4.0)
    with pytest.raises(IllegalPlan, match="rank 0, 0F3: holds 4 bytes, the limit is 3; allow 4 or take a schedule"):
        check(plan, costs, memory_limit=3.0)
    with pytest.raises(ValueError, match="memory_limit needs costs"):
        check(plan, memory_limit=3.0)


def test_a_micro_batch_runs_through_one_chain():
    place = Placement.both_ways(2)
    lanes = (Lane.parse("0F0 0B0 3F1 3B1"), Lane.parse("2F1 1F0 1B0 2B1"))
    assert problems(Plan("mine", place, 2, lanes)) == []
    twice = (Lane.parse("0F0 0B0 3F0 3B0"), Lane.parse("2F0 1F0 1B0 2B0"))
    found = problems(Plan("mine", place, 1, twice))
    assert "0F0 runs the same micro-batch through another chain" in found[0].message
    half = (Lane.parse("0F0 0B0 3F1"), Lane.parse("2F1 1F0 1B0 2B1"))
    assert [str(one.op) for one in problems(Plan("mine", place, 2, half))] == ["3B1"]
