"""What would change: each answer beside a prediction made by hand, and its sign."""

from dataclasses import replace

import pytest

from penstock.core.cluster import Cluster
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.step import begun
from penstock.predict.straggler import slow_rank_s
from penstock.search.planner import best_of
from penstock.search.space import space_of
from penstock.search.what_if import what_if

FIX = "tp=2/4,pp=2,cp=1,micro=1,zero=1,schedule=1f1b,recompute=none/selective"
NODE = Cluster.read("dgx-h100:2").groups[0][0]


@pytest.fixture(scope="module")
def space():
    return space_of("llama-3-8b", "dgx-h100:2", seq=4096, batch=64, fix=FIX)


@pytest.fixture(scope="module")
def choices(space):
    return best_of(space, top=4, headroom=0.05).choices


@pytest.fixture(scope="module")
def answers(space, choices):
    return {one.what: one for one in what_if(space, choices, 0.05)}


def by_hand(space, setup, node=NODE, count=2):
    machines = Cluster(name="by hand", groups=((node, count),))
    return predict(space.model, machines, setup, stack("megatron-core")).seconds


def twice(link):
    return replace(link, bytes_per_s=2 * link.bytes_per_s)


def test_answers_are_predictions_made_by_hand(space, choices, answers):
    setup = choices[0].setup
    device = NODE.device
    peaks = {name: 2 * flops for name, flops in device.matrix_flops.items()}
    hands = {
        "network twice as fast": by_hand(space, setup, replace(NODE, nic=twice(NODE.nic))),
        "links inside nodes twice as fast": by_hand(space, setup, replace(NODE, links=(twice(NODE.links[0]),))),
        "products twice as fast": by_hand(space, setup, replace(NODE, device=replace(device, matrix_flops=peaks))),
        "a quarter more memory": choices[0].seconds,
        "sequences twice as long": by_hand(space, replace(setup, seq=8192, batch=32)),
        "twice the nodes": by_hand(space, replace(setup, dp=2 * setup.dp), count=4),
    }
    for what, seconds in hands.items():
        assert answers[what].seconds == pytest.approx(seconds, rel=1e-12), what
        assert answers[what].now_s == choices[0].seconds
    assert answers["twice the nodes"].tokens_per_s == pytest.approx(4096 * 64 / hands["twice the nodes"])


def test_faster_is_faster_and_more_work_takes_longer(answers):
    for what in ("network twice as fast", "links inside nodes twice as fast", "products twice as fast"):
        one = answers[what]
        assert one.seconds < one.now_s
        assert one.best_seconds <= one.seconds * (1 + 1e-12)
    assert answers["a quarter more memory"].best_seconds <= answers["a quarter more memory"].now_s
    assert answers["sequences twice as long"].tokens_per_s < answers["sequences twice as long"].now_tokens_per_s
    more = answers["twice the nodes"]
    assert 0.5 * more.now_s < more.seconds < more.now_s


def test_a_slow_rank_is_waited_for(space, choices, answers):
    one = answers["one rank 10% slower"]
    assert one.now_s < one.seconds < 1.1 * one.now_s
    slowed = [slow_rank_s(begun(space.model, space.cluster, each.setup, space.stack), 0.1) for each in choices]
    assert one.seconds == slowed[0]
    assert one.best_seconds == min(slowed)
    assert one.same == (slowed[0] == min(slowed))
    step = begun(space.model, space.cluster, choices[0].setup, space.stack)
    assert slow_rank_s(step, 0.0) == pytest.approx(step.seconds_alone())


def test_what_cannot_be_is_said(space, choices, answers):
    one = answers["one more node"]
    assert one.seconds is None
    assert "batch=64 is no multiple of a dp that 24 devices leave; use 63" in one.why
    odd = replace(space, base=replace(space.base, batch=1, dp=1))
    long = next(each for each in what_if(odd, choices, 0.05) if each.what == "sequences twice as long")
    assert (long.seconds, long.best) == (None, "")
    assert "batch=1 is odd" in long.why


def test_micro_batches_that_a_longer_sequence_leaves_no_room_for():
    space = space_of("gpt:L=4,h=1024,a=16,vocab=50304", "dgx-h100:1", seq=1024, batch=32, fix="tp=1,pp=1,cp=1,zero=1")
    found = best_of(space, top=1, headroom=0.05).choices
    assert found[0].setup.micro == 4
    answers = {one.what: one for one in what_if(space, found, 0.05)}
    long = answers["sequences twice as long"]
    assert (long.seconds, long.same) == (None, False)
    assert "batch=16 is no multiple of dp=8 times micro=4" in long.why
    assert long.best


def test_what_does_not_fit_is_not_the_best():
    space = space_of(
        "llama-3-8b", "dgx-h100:2", seq=8192, batch=128, fix="tp=1,pp=1,zero=1,micro=1,cp=2,recompute=none"
    )
    found = best_of(space, top=1, headroom=0.05).choices
    answers = {one.what: one for one in what_if(space, found, 0.05)}
    long = answers["sequences twice as long"]
    assert (long.seconds, long.best) == (None, "")
    assert long.why.startswith("needs ")


def test_what_was_measured_says_nothing_of_faster_machines():
    space = space_of(
        "gpt:L=4,h=1024,a=16,vocab=50304", "measured-h100", seq=1024, batch=8, fix="micro=1,recompute=none"
    )
    found = best_of(space, top=1, headroom=0.05).choices
    answers = {one.what: one for one in what_if(space, found, 0.05)}
    assert answers["products twice as fast"].seconds < answers["products twice as fast"].now_s
    assert answers["products twice as fast"].now_s != found[0].seconds
    assert answers["a quarter more memory"].now_s == found[0].seconds
