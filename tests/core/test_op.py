import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.op import COMPUTE, NEEDS, NO_MICRO, RECVS, SENDS, Hop, Kind, Op

OPS = st.builds(
    Op, st.sampled_from([kind for kind in Kind if kind != Kind.STEP]), st.integers(0, 999), st.integers(0, 10**6)
)


@given(OPS | st.builds(Op, st.just(Kind.STEP), st.integers(0, 999), st.just(NO_MICRO)))
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
    assert {*COMPUTE, *SENDS, *RECVS, Kind.STEP} == set(Kind)


def test_the_rule_is_what_training_needs():
    """Input before F, output and its gradient before B or I, I before W; messages after what makes them."""
    said = {
        Kind.F: {((Kind.F,), Hop.PREV)},
        Kind.B: {((Kind.F,), Hop.SAME), ((Kind.B, Kind.I), Hop.NEXT)},
        Kind.I: {((Kind.F,), Hop.SAME), ((Kind.B, Kind.I), Hop.NEXT)},
        Kind.W: {((Kind.I,), Hop.SAME)},
        Kind.SEND_F: {((Kind.F,), Hop.SAME)},
        Kind.SEND_B: {((Kind.B, Kind.I), Hop.SAME)},
        Kind.RECV_F: {((Kind.SEND_F,), Hop.PREV)},
        Kind.RECV_B: {((Kind.SEND_B,), Hop.NEXT)},
        Kind.STEP: set(),
    }
    assert {kind: {(need.made_by, need.at) for need in rule} for kind, rule in NEEDS.items()} == said
