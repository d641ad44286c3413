"""What each schedule's file claims, against the simulator."""

import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.engine import check, simulate
from penstock.schedules import SCHEDULES, build

MICROS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 32, 48, 64]
CHUNKS = (1, 2, 3, 4)
SMALL = [(p, m) for p in (1, 2, 3, 4, 7, 16) for m in (1, 2, 3, 4, 5, 7, 8, 16)]
TIMES = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (3, 2, 1), (1, 1.5, 0.5), (1, 1, 2), (2, 1, 3), (1, 3, 2)]


def sizes(name, pairs):
    """Sizes that the schedule can have."""
    found = SCHEDULES[name]
    return [
        (p, m, v)
        for p, m in pairs
        for v in (CHUNKS if found.chunks else (1,))
        if not found.valid(p, m, v) and p * m * v <= 1024
    ]


def holds(name, p, m, f, i, w):
    """Whether the docstring of ``idle`` claims these times, for sync and for span."""
    if name == "zb-h1":
        return m >= p or i >= min(f, w), w <= min(f, i)
    return True, True


def same(name, p, m, v, times):
    claim = SCHEDULES[name]
    plan = build(name, p, m, v)
    timeline = simulate(plan, Costs.uniform(plan.placement, *times))
    sync, span = holds(name, p, m, *times)
    idle = claim.idle(p, m, v, *times)
    assert not sync or timeline.makespan_s - m * sum(times) == pytest.approx(idle, abs=1e-9), (p, m, v, times)
    assert not span or timeline.span_s - m * sum(times) == pytest.approx(idle, abs=1e-9), (p, m, v, times)
    peaks = [claim.peak_micros(r, p, m, v) for r in range(p)]
    assert timeline.peak_bytes.tolist() == pytest.approx(peaks), (p, m, v, times)


@pytest.mark.parametrize("name", SCHEDULES)
def test_idle_and_peak_are_as_claimed_for_equal_times(name):
    for p, m, v in sizes(name, [(p, m) for p in range(1, 17) for m in MICROS]):
        same(name, p, m, v, (1, 1, 1))


@pytest.mark.parametrize("times", TIMES[1:], ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_idle_and_peak_are_as_claimed_for_other_times(name, times):
    for p, m, v in sizes(name, SMALL):
        same(name, p, m, v, times)


@pytest.mark.parametrize("name", SCHEDULES)
def test_plans_are_legal_and_hold_every_op_once(name):
    for p, m, v in sizes(name, SMALL):
        plan = build(name, p, m, v)
        check(plan)
        kinds = plan.ops[:, 0]
        halves = (kinds == Kind.I).sum() + (kinds == Kind.W).sum() + 2 * (kinds == Kind.B).sum()
        assert (kinds == Kind.F).sum() == halves / 2 == p * m * v


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("1f2b", (4, 8, 1), "unknown schedule '1f2b'; did you mean 1f1b"),
        ("1f1b", (4, 8, 2), "1f1b has one chunk per rank, not chunks=2; use chunks=1 or interleaved"),
        ("interleaved", (4, 7, 2), "micros=7 is not a multiple of ranks=4; use 8"),
        ("gpipe", (0, 8, 1), "ranks=0; it must be at least 1"),
        ("gpipe", (4, 0, 1), "micros=0; it must be at least 1"),
        ("gpipe", (4, 8, 0), "chunks=0; it must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_named_with_the_nearest_that_can(name, given, says):
    with pytest.raises(ValueError, match=says):
        build(name, *given)


def test_interleaved_with_one_chunk_is_1f1b_with_a_longer_warm_up():
    """Megatron refuses one chunk; here it warms up twice as long and is as fast."""
    plan = build("interleaved", 4, 8, 1)
    costs = Costs.uniform(plan.placement)
    assert simulate(plan, costs).makespan_s == simulate(build("1f1b", 4, 8), costs).makespan_s
