"""The cut before which all ranks can go without anyone making a gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.needs import partners
from penstock.core.op import RECVS, SENDS
from penstock.engine.check import problems
from penstock.engine.cut import TO_GRADIENTS, cut
from penstock.lower import add_sends, add_step
from penstock.schedules import build
from randoms import UNSHRUNK, dressed, plans
from reference import MESSAGES, Simulator


class Halted(Simulator):
    """The plain simulator, in which nobody makes gradients: how far does each rank come?"""

    def __init__(self, plan):
        super().__init__(plan, np.ones(len(plan)), np.zeros((plan.placement.ranks,) * 2))
        self.passed = [0] * plan.placement.ranks
        self.run()

    def do(self, r, block):
        if any(self.listed.op(one).kind in TO_GRADIENTS for one in block) or not super().do(r, block):
            return False
        self.passed[r] = block[-1][1] + 1
        return True


def places(plan):
    return (cut(plan).at - plan.first[:-1]).tolist()


@UNSHRUNK
@given(plans())
def test_where_messages_hold_ranks_it_is_as_far_as_ranks_come(plan):
    plan = add_step(add_sends(plan, "blocking"), "after")
    assert places(plan) == Halted(plan).passed
    assert not len(cut(plan).lost)
    assert not len(cut(plan).open)


@UNSHRUNK
@given(plans(), st.integers(1, 3), st.integers(1, 3))
def test_overlapped_messages_that_cross_it(plan, ahead, in_flight):
    plan = add_step(add_sends(plan, ahead=ahead, in_flight=in_flight), "after")
    found, inside = cut(plan), np.arange(len(plan)) < cut(plan).at[plan.rank_of_op]
    if plan.placement.ranks > 1:
        assert all(np.array(places(plan)) <= Halted(plan).passed)
        links = {}
        for row in np.flatnonzero(np.isin(plan.ops[:, 0], RECVS)):
            link = int(plan.rank_of_op[partners(plan)[row]]), int(plan.rank_of_op[row])
            sent, received = bool(inside[partners(plan)[row]]), bool(inside[row])
            links.setdefault(link, []).append((sent, received))
            assert (row in found.lost) == (sent and not received)
            assert (row in found.open) == (received and not sent)
        assert all(seen == sorted(seen, reverse=True) for seen in links.values())
        assert not any((False, True) in seen and {(True, True), (True, False)} & {*seen} for seen in links.values())


@UNSHRUNK
@given(dressed(most_ranks=3), st.sampled_from(["none", "overlapped", "blocking", "batched"]))
def test_all_kinds_of_ops(plan, sends):
    if problems(plan) or not plan.trains:
        return
    if sends != "none" and plan.placement.ranks > 1:
        plan = add_sends(plan, sends)
    assert all(np.array(places(plan)) <= Halted(plan).passed)
    for rank, place in enumerate(places(plan)):
        lane = plan.lanes[rank]
        assert not {op.kind for op in lane[:place]} & {*TO_GRADIENTS}
        assert not (place and lane.fused[place - 1])
        if sends == "batched" and 0 < place < len(lane):
            assert not {lane[place - 1].kind, lane[place].kind} <= MESSAGES


@pytest.mark.parametrize(
    ("name", "at", "lost"),
    [
        ("gpipe", "0B0 1B0 2B0 3B0", ""),
        ("1f1b", "0B0 1B0 2B0 3B0", "1RECV_F3 2RECV_F2 3RECV_F1"),
        ("zb-h2", "0I0 1I0 2I0 3I0", "1RECV_F5 1RECV_F6 2RECV_F3 2RECV_F4 3RECV_F1 3RECV_F2"),
        ("interleaved", "4B0 5B0 6B0 7B0", "1RECV_F5 1RECV_F6 6RECV_F3 2RECV_F4 7RECV_F1 7RECV_F2"),
    ],
)
def test_it_stands_before_the_first_gradient_of_each_rank(name, at, lost):
    plan = add_step(add_sends(build(name, 4, 8, 2 if name == "interleaved" else 1)), "after")
    found = cut(plan)
    assert " ".join(str(plan.op(int(row))) for row in found.at) == at
    assert " ".join(str(plan.op(int(row))) for row in found.lost) == lost
    assert {plan.op(int(row)).kind for row in found.lost} <= {*RECVS}
    assert {plan.op(int(partners(plan)[row])).kind for row in found.lost} <= {*SENDS}
