from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.lane import Lane
from penstock.core.needs import MISSING, NOTHING, dependencies, index, partners, predecessors
from penstock.core.op import Kind, Sends
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.lower import add_sends, add_step
from penstock.schedules import build
from randoms import plans
from reference import MESSAGES, Listed, needs


@st.composite
def any_plans(draw):
    """With and without sends and steps, and with ops lacking."""
    plan = draw(plans())
    lowering = draw(st.sampled_from([None, *get_args(Sends)]))
    if lowering is not None:
        plan = add_sends(plan, lowering)
    if draw(st.booleans()):
        plan = add_step(plan)
    if draw(st.booleans()):
        drop = draw(st.integers(0, len(plan) - 1))
        rank = int(plan.rank_of_op[drop])
        at = drop - int(plan.first[rank])
        plan = plan.with_lanes(
            Lane(np.delete(lane.codes, at, axis=0)) if r == rank else lane for r, lane in enumerate(plan.lanes)
        )
    return plan


@given(any_plans())
def test_dependencies_are_the_rule_word_by_word(plan):
    found, listed = dependencies(plan), Listed(plan)
    for row, one in enumerate(listed.ids):
        got = [None if d == MISSING else listed.ids[d] for d in found[row] if d != NOTHING]
        assert got == needs(listed, one)


@given(any_plans())
def test_partners_are_the_other_ends(plan):
    found, listed = partners(plan), Listed(plan)
    for row, op in enumerate(listed.ops_list):
        if op.kind not in MESSAGES:
            assert found[row] == NOTHING
        elif listed.other_end(op) in listed.where:
            assert plan.op(int(found[row])) == listed.other_end(op)
        else:
            assert found[row] == MISSING


@given(plans(), st.integers(1, 3))
def test_a_send_waits_for_the_one_so_many_before_it_on_its_link(plan, in_flight):
    plan = add_sends(plan, in_flight=in_flight)
    partner = partners(plan)
    before = predecessors(plan)
    links: dict[tuple[int, int], list[int]] = {}
    for row in range(len(plan)):
        if plan.op(row).kind in (Kind.SEND_F, Kind.SEND_B):
            key = (int(plan.rank_of_op[row]), int(plan.rank_of_op[partner[row]]))
            links.setdefault(key, []).append(row)
    said = {row: rows[n - in_flight] for rows in links.values() for n, row in enumerate(rows) if n >= in_flight}
    assert {row: int(d) for row, d in enumerate(before) if d != NOTHING} == said


def test_index_leaves_out_what_is_out_of_range():
    plan = Plan("odd", Placement.loop(1), 1, (Lane.parse("0F0 0F7 9F0 0B0 0STEP"),))
    assert np.argwhere(index(plan) != NOTHING).tolist() == [[Kind.F, 0, 0], [Kind.B, 0, 0]]


def test_a_plan_with_next_to_no_ops_is_refused():
    with pytest.raises(ValueError, match="1 stages x 100000000 micro-batches, but only 1 ops"):
        index(Plan("odd", Placement.loop(1), 10**8, (Lane.parse("0F0"),)))


def test_hops_within_a_rank_need_no_message():
    plan = add_sends(build(lambda r, p, m, v: [(m, "F0 F1"), (m, "B1 B0")], 1, 2, 2))
    assert not plan.lowered
