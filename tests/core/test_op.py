import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.op import COLLECTIVES, HOST, NEEDS, NO_MICRO, OF_STAGE, POSTED, RECVS, SENDS, WORK, Hop, Kind, Op

OPS = st.builds(
    Op, st.sampled_from([kind for kind in Kind if kind not in OF_STAGE]), st.integers(0, 999), st.integers(0, 10**6)
)


@given(OPS | st.builds(Op, st.sampled_from(OF_STAGE), st.integers(0, 999), st.just(NO_MICRO)))
def test_text_round_trip(op):
    assert Op.parse(str(op)) == op


def test_text_is_pytorch_s():
    assert str(Op(Kind.F, 2, 0)) == "2F0"
    assert str(Op(Kind.SEND_F, 3, 1)) == "3SEND_F1"
    assert str(Op(Kind.STEP, 3)) == "3STEP"
    assert Op(Kind.STEP, 3).micro == NO_MICRO


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2X0", "unknown kind 'X'"),
        ("3SENDF1", "did you mean SEND_F?"),
        ("F0", "write stage, kind, micro-batch"),
        ("2F", "F needs a micro-batch"),
        ("2STEP4", "STEP has no micro-batch"),
        ("2F0x", "not an op"),
        ("2F-1", "not an op"),
        ("", "not an op"),
        ("2F99999999999", "not an op"),
        ("٢F0", "not an op"),
    ],
)
def test_what_is_not_an_op_is_named(text, says):
    with pytest.raises(ValueError, match=re.escape(repr(text)) + ".*" + re.escape(says)):
        Op.parse(text)


def test_the_rule_covers_every_kind():
    assert set(NEEDS) == set(Kind)
    assert {*WORK, *POSTED, Kind.RESHARD, Kind.STEP, Kind.UPDATE} == set(Kind)
    assert {*SENDS, *RECVS, *HOST, *COLLECTIVES} == set(POSTED)
    assert not {*WORK, *OF_STAGE} & {*SENDS, *RECVS, *HOST}


def test_the_rule_is_what_training_needs():
    """Input before F, output and its gradient before B or I, I before W; messages after what makes them. What a plan
    need not hold is needed where it does: recomputed, fetched and gathered values, other slices, vocabulary parts."""
    forward, gradient = (Kind.F,), (Kind.B, Kind.I)
    backward = {(forward, Hop.SAME), (gradient, Hop.NEXT)}
    always = {
        Kind.F: {(forward, Hop.PREV)},
        Kind.B: backward,
        Kind.I: backward,
        Kind.W: {((Kind.I,), Hop.SAME)},
        Kind.SEND_F: {(forward, Hop.SAME)},
        Kind.SEND_B: {(gradient, Hop.SAME)},
        Kind.RECV_F: {((Kind.SEND_F,), Hop.PREV)},
        Kind.RECV_B: {((Kind.SEND_B,), Hop.NEXT)},
        Kind.R: {(forward, Hop.SAME)},
        Kind.OFFLOAD: {(forward, Hop.SAME)},
        Kind.FETCH: {((Kind.OFFLOAD,), Hop.SAME)},
        Kind.RESHARD: {((Kind.UNSHARD,), Hop.SAME)},
        Kind.BCAST_H: {(forward, Hop.LAST_HERE)},
        Kind.S: {((Kind.BCAST_H,), Hop.SAME)},
        Kind.REDUCE_S: {((Kind.S,), Hop.SAME)},
        Kind.T: {((Kind.REDUCE_S,), Hop.SAME)},
        Kind.REDUCE_T: {((Kind.T,), Hop.SAME)},
        Kind.REDUCE_E: {((Kind.IF,), Hop.SAME)},
        Kind.BCAST_E: {(gradient, Hop.FIRST_HERE)},
        Kind.IB: {((Kind.BCAST_E,), Hop.SAME)},
        Kind.UPDATE: {((Kind.B, Kind.W), Hop.SAME)},
    }
    weights = ((Kind.UNSHARD,), Hop.SAME)
    late = {((Kind.R,), Hop.SAME), ((Kind.FETCH,), Hop.SAME), weights}
    late |= {((Kind.REDUCE_S,), Hop.PART_OF_LAST), ((Kind.REDUCE_T,), Hop.PART_OF_LAST), (gradient, Hop.SAME)}
    at_times = {
        Kind.F: {weights, (forward, Hop.SAME), ((Kind.REDUCE_E,), Hop.PART_OF_FIRST)},
        Kind.B: late,
        Kind.I: late,
        Kind.R: {weights, ((Kind.FETCH,), Hop.SAME)},
    }
    for said, chosen in ((always, False), (at_times, True)):
        for kind, rule in NEEDS.items():
            found = {(need.made_by, need.at) for need in rule if (need.if_any or bool(need.slices)) is chosen}
            assert found == said.get(kind, set()), kind
