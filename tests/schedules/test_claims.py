"""What each schedule's file claims, against the simulator."""

from typing import get_args

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind, Sends
from penstock.engine import check, simulate
from penstock.lower import add_sends, reduce_gradients
from penstock.schedules import SCHEDULES, build
from penstock.schedules.task import reads_costs

MICROS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 32, 48, 64]
CHUNKS = (1, 2, 3, 4)
SMALL = [(p, m) for p in (1, 2, 3, 4, 7, 16) for m in (1, 2, 3, 4, 5, 7, 8, 16)]
MOST_STAGES = {"v-auto": 64}
"""Micro-batches times stages up to which a schedule is tested that takes its time."""
CEILINGS = ("zb-1p", "zb-2p", "zb-v-auto")
"""Schedules that stay below their memory where more does not help."""
SAMPLE = pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)], ids=["ninth", "all"])
"""Every ninth size, spread over all, and in the slow suite all of them."""
TIMES = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (3, 2, 1), (1, 1.5, 0.5), (1, 1, 2), (2, 1, 3), (1, 3, 2)]


def sizes(name, pairs):
    """Sizes that the schedule can have."""
    found = SCHEDULES[name]
    return [
        (p, m, v)
        for p, m in pairs
        for v in (CHUNKS if found.chunks else (1,))
        if not found.valid(p, m, v)
        and p * m * v <= MOST_STAGES.get(name, 1024)
        and (v == 1 or p * m < 30 or (p + m // 2 + v) % 2 == 0)
    ]


def same(name, p, m, v, times, **options):
    claim = SCHEDULES[name]
    sync, span = claim.holds(p, m, v, *times, **options)
    timeline = timeline_of(name, p, m, v, times, "sync", options)
    idle = claim.idle(p, m, v, *times, **options)
    assert not sync or timeline.makespan_s - m * sum(times) == pytest.approx(idle, abs=1e-9), (p, m, v, times)
    peaks = [claim.peak_micros(r, p, m, v, **options) for r in range(p)]
    if not reads_costs(claim.lane):
        assert timeline.peak_bytes.tolist() == pytest.approx(peaks), (p, m, v, times)
    else:
        assert (timeline.peak_bytes <= np.array(peaks) * (1 + 1e-9)).all(), (p, m, v, times)
        if name not in CEILINGS:
            assert timeline.peak_bytes.max() == pytest.approx(max(peaks)), (p, m, v, times)
        timeline = timeline_of(name, p, m, v, times, "span", options)
    if claim.idle_span is not None:
        idle = claim.idle_span(p, m, v, *times, **options)
    assert not span or timeline.span_s - m * sum(times) == pytest.approx(idle, abs=1e-9), (p, m, v, times)


def timeline_of(name, p, m, v, times, objective, options):
    def costs(place):
        return Costs.uniform(place, *times)

    plan = build(name, p, m, v, costs=costs, objective=objective, **options)
    return simulate(plan, costs(plan.placement).sliced(plan.slices))


@SAMPLE
@pytest.mark.parametrize("name", SCHEDULES)
def test_idle_and_peak_are_as_claimed_for_equal_times(name, every):
    few = 7 if reads_costs(SCHEDULES[name].lane) else 1
    for p, m, v in sizes(name, [(p, m) for p in range(1, 17) for m in MICROS])[:: few * every]:
        same(name, p, m, v, (1, 1, 1))


@SAMPLE
@pytest.mark.parametrize("times", TIMES[1:], ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_idle_and_peak_are_as_claimed_for_other_times(name, times, every):
    """What is tried goes round with the times, so that others are tried at each."""
    few, turn = 16 if reads_costs(SCHEDULES[name].lane) else 2, TIMES.index(times)
    for p, m, v in sizes(name, SMALL[turn % 2 :: few])[turn // 2 % every :: every]:
        same(name, p, m, v, times)


SLICED = ("seq1f1b", "seq1f1b-i", "seq1f1b-zb")
OPTIONS = [
    *(("interleaved", "group", p, group) for p in (1, 2, 3, 4, 7) for group in {p, p + 1, 2 * p, 3 * p - 1}),
    *(("gis", "group", p, group) for p in (1, 2, 3, 4, 7) for group in range((p + 1) // 2, p + 1)),
    *(("mixpipe", "inject", p, inject) for p in (2, 4, 8) for inject in range(p // 2, p + 1)),
    *((name, "slices", p, k) for name in SLICED for p in (1, 2, 3, 7) for k in (1, 2, 3, 8)),
    *(("zeropp", "unit", p, unit) for p in (1, 2, 3, 4, 7) for unit in {1, p, 2 * p - 1, 3 * p}),
]


@SAMPLE
@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in OPTIONS))
def test_idle_and_peak_are_as_claimed_for_every_option(name, every):
    grid = [(m, v) for m in (1, 4, 7, 12, 16, 29) for v in (1, 2, 3)]
    for number, (option, p, value) in enumerate(rest for one, *rest in OPTIONS if one == name):
        for m, v in [(m, v) for k, (m, v) in enumerate(grid) if (k + k // 3 + number) % every == 0]:
            if (v == 1 or SCHEDULES[name].chunks) and not SCHEDULES[name].valid(p, m, v, **{option: value}):
                for times in TIMES[(m + v) % 2 :: 4]:
                    same(name, p, m, v, times, **{option: value})


@pytest.mark.parametrize("name", SCHEDULES)
def test_weights_have_as_many_copies_as_claimed(name):
    for p, m, v in sizes(name, SMALL[:20]):
        place = build(name, p, m, v).placement
        assert {place.part_of.count(part) for part in place.part_of} == {SCHEDULES[name].copies}


@SAMPLE
@pytest.mark.parametrize("name", SCHEDULES)
def test_plans_are_legal_with_sends_overlapped_and_blocking(name, every):
    for p, m, v in sizes(name, [(p, m) for p in (2, 3, 4, 6) for m in (1, 3, 4, 6, 12)])[::every]:
        for sends in get_args(Sends):
            check(add_sends(build(name, p, m, v), sends))


@SAMPLE
@pytest.mark.parametrize("name", SCHEDULES)
def test_plans_are_legal_and_hold_every_op_once(name, every):
    for p, m, v in sizes(name, SMALL)[::every]:
        plan = build(name, p, m, v)
        check(plan)
        kinds = plan.ops[:, 0]
        halves = (kinds == Kind.I).sum() + (kinds == Kind.W).sum() + 2 * (kinds == Kind.B).sum()
        assert (kinds == Kind.F).sum() == halves / 2 == plan.placement.stages * plan.micros / plan.placement.chains
        assert plan.micros == m * plan.slices


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("mixpipe", (4, 7, 1), "micros=7 is odd, and half come from either end; use 8"),
        ("mixpipe", (3, 8, 1), "ranks=3 is odd, and half of the micro-batches come from either end; use 4"),
        ("dualpipe", (3, 8, 1), "ranks=3 is odd, and half of the micro-batches come from either end; use 4"),
        ("dualpipe", (4, 9, 1), "micros=9 is not an even number of at least 8, twice the ranks; use 10"),
        ("dualpipe", (4, 6, 1), "micros=6 is not an even number of at least 8, twice the ranks; use 8"),
        ("dualpipev", (4, 7, 2), "micros=7 is fewer than the 8 stages; use 8"),
        ("dualpipev", (4, 8, 3), "chunks=3, and a V has two per rank; use chunks=2"),
        ("1f2b", (4, 8, 1), "unknown schedule '1f2b'; did you mean 1f1b"),
        ("1f1b", (4, 8, 2), "1f1b has one chunk per rank, not chunks=2; use chunks=1 or interleaved"),
        ("chimera", (4, 7, 1), "micros=7 is not a multiple of ranks=4; use 8"),
        ("chimera", (3, 6, 1), "ranks=3 is odd, and half of each unit comes from either end; use 4"),
        ("bitpipe", (4, 8, 1), "chunks=1 is odd, and each V has two; use 2"),
        ("hanayo", (4, 8, 3), "chunks=3 is odd, and a wave has two; use 4"),
        ("v-half", (4, 8, 3), "chunks=3, and a V has two per rank; use chunks=2"),
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


@pytest.mark.parametrize(
    ("name", "sizes", "options", "says"),
    [
        ("interleaved", (4, 9, 2), {"group": 3}, "group=3 is not between ranks=4 and micros=9; use 4"),
        ("interleaved", (4, 9, 2), {"group": 12}, "group=12 is not between ranks=4 and micros=9; use 9"),
        ("interleaved", (4, 9, 2), {"group": 6}, "a last group of 3 of micros=9, less than ranks=4; use group=5"),
        ("interleaved", (4, 9, 2), {"grup": 6}, "interleaved has no option 'grup'; did you mean 'group'"),
        ("gpipe", (4, 9, 1), {"group": 6}, "gpipe has no option 'group'; there is none to choose from"),
        (lambda r, p, m, v, ahead: [(m, "F B")], (1, 2, 1), {"behind": 6}, "no option 'behind'; choose from ahead"),
        ("gis", (4, 9, 2), {"group": 1}, "group=1 is not between 2 and ranks=4; use 2"),
        ("mixpipe", (4, 8, 1), {"inject": 5}, "inject=5 is not between 2 and ranks=4; use 4"),
        ("mixpipe", (4, 8, 1), {"inject": 1}, "inject=1 is not between 2 and ranks=4; use 2"),
        ("seq1f1b", (4, 9, 1), {"slices": 0}, "slices=0 of a sequence; use 1"),
        ("zeropp", (4, 9, 2), {"unit": 0}, "unit=0 is not a number of micro-batches; use 7"),
    ],
)
def test_wrong_options_are_named_with_the_nearest_that_can(name, sizes, options, says):
    with pytest.raises(ValueError, match=says):
        build(name, *sizes, **options)


@pytest.mark.parametrize(("p", "m", "v"), [(1, 2, 2), (2, 4, 1), (2, 4, 2), (4, 8, 4), (4, 4, 2)])
def test_modular_is_breadth_first_with_sums_of_which_only_the_last_is_not_hidden(p, m, v):
    bare, modular = build("breadth-first", p, m, v), build("modular", p, m, v)
    assert reduce_gradients(bare, every=True).lanes == modular.lanes
    assert reduce_gradients(modular) is modular
    free = simulate(bare, Costs.uniform(bare.placement)).makespan_s
    most_s = 2 * m / v
    for sum_s in (0.1 * most_s, most_s):
        costs = Costs.uniform(bare.placement, other_s={Kind.REDUCE_GRAD: v * sum_s})
        assert simulate(modular, costs).end_s.max() == pytest.approx(free + sum_s)
    costs = Costs.uniform(bare.placement, other_s={Kind.REDUCE_GRAD: v * 2 * most_s})
    assert simulate(modular, costs).end_s.max() == pytest.approx(free - (v - 1) * most_s + v * 2 * most_s)


@pytest.mark.parametrize(("p", "m", "v"), [(2, 4, 2), (4, 8, 3), (3, 7, 1)])
def test_seq1f1b_i_of_whole_sequences_is_interleaved_1f1b(p, m, v):
    assert build("seq1f1b-i", p, m, v, slices=1).lanes == build("interleaved", p, m, v).lanes


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (8, 16)])
def test_mixpipe_that_lets_in_half_is_chimera(p, m):
    assert build("mixpipe", p, m, inject=p // 2).lanes == build("chimera", p, m).lanes


def test_mixpipe_s_middle_hides_what_chimera_idles_between_units():
    """With F = 2B, where Chimera waits at the end of each of its four units."""
    spans = []
    for inject in (4, 6, 8):
        plan = build("mixpipe", 8, 32, inject=inject)
        spans.append(simulate(plan, Costs.uniform(plan.placement, 2, 0.5, 0.5)).makespan_s)
    assert spans == [126.0, 117.0, 117.0]


def test_a_user_s_function_may_have_options():
    def early(r, p, m, v, ahead):
        return [(ahead, "F"), (m - ahead, "F B"), (ahead, "B")]

    assert build(early, 1, 4, ahead=2).lanes == build(lambda r, p, m, v: [(2, "F"), (2, "F B"), (2, "B")], 1, 4).lanes


def test_published_figures():
    """PipeOffload's GIS-H at p=8, m=16, v=2: 0.75 of 1F1B's memory; Chimera's and Hanayo's bubble where F = B."""
    plan = build("gis-h", 8, 16, 2)
    timeline = simulate(plan, Costs.uniform(plan.placement))
    assert (round(100 * timeline.bubble_sync, 2), timeline.peak_bytes.max() / 8) == (15.79, 0.75)
    for p, m in [(4, 4), (4, 16), (8, 16)]:
        plan = build("chimera", p, m)
        bubble = simulate(plan, Costs.uniform(plan.placement, 1, 0.5, 0.5)).bubble_sync
        assert bubble == pytest.approx((p - 2) / (2 * m + p - 2))
        for waves in (1, 2):
            plan = build("hanayo", p, m, 2 * waves)
            timeline = simulate(plan, Costs.uniform(plan.placement, 1, 0.5, 0.5))
            assert timeline.makespan_s - 2 * m == pytest.approx((p - 1) * 2 / (2 * waves))


@pytest.mark.parametrize("times", [(1, 1, 1), (2, 2, 1), (1, 1, 0)])
@pytest.mark.parametrize("overlap", [0, 0.25, 1])
@pytest.mark.parametrize(("name", "p", "v", "warm_up"), [
    *(("dualpipe", p, 1, p // 2 - 1) for p in (2, 4, 8)), *(("dualpipev", p, 2, p - 1) for p in (1, 2, 4, 5)),
])  # fmt: skip
def test_bubble_of_fused_blocks_is_deepseek_s(name, p, v, warm_up, overlap, times):
    """Their table: (warm-up)(F&B + B - 3W), B a full backward, in times of one stage; here for F = I >= W."""
    f, i, w = (time / v for time in times)
    for m in (2 * p, 2 * p + 4):
        plan = build(name, p, m, v)
        timeline = simulate(plan, Costs.uniform(plan.placement, *times, overlap=overlap))
        block = f + i + w - overlap * min(f, i + w)
        idlest = timeline.makespan_s - timeline.busy_s.min()
        assert idlest == pytest.approx(warm_up * (block + i + w - 3 * w))


@pytest.mark.parametrize("name", SCHEDULES)
def test_large_plans_are_built_whole(name):
    v = next(v for v in (4, 2, 1) if v == 1 or (SCHEDULES[name].chunks and not SCHEDULES[name].valid(32, 256, v)))
    plan = build(name, 32, 256, v)
    assert (plan.ops[:, 0] == Kind.F).sum() == 256 * plan.slices * plan.placement.stages // plan.placement.chains
