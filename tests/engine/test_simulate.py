import csv
from dataclasses import replace

import numpy as np
import pytest

from penstock.cli.peer_rows import shipped
from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.cost import profiles
from penstock.engine import IllegalPlan, simulate
from penstock.lower import add_sends, add_step
from penstock.schedules import build

PEER_FILE = next(file for file in shipped() if file.stem == "schedulers")
PEERS = {"1f1b": ("1f1b", 1), "vpp2": ("interleaved", 2)}


def run(name, ranks, micros, chunks, times, w_share=1.0):
    plan = build(name, ranks, micros, chunks)
    return simulate(plan, Costs.uniform(plan.placement, *times, w_share=w_share))


def peer_rows():
    lines = [line for line in PEER_FILE.read_text().splitlines() if not line.startswith("#")]
    return [
        pytest.param(row, id=f"{row['cost']}-{row['p']}-{row['m']}-{row['peer']}")
        for row in csv.DictReader(lines)
        if row["peer"] in PEERS
    ]


@pytest.mark.parametrize("row", peer_rows())
def test_figures_are_those_of_an_independent_evaluator(row):
    name, chunks = PEERS[row["peer"]]
    ranks, micros = int(row["p"]), int(row["m"])
    found = run(name, ranks, micros, chunks, profiles()[row["cost"]].numbers, float(row["w_share"]))
    assert f"{100 * found.bubble_span:.2f}" == row["bubble_span_pct"]
    assert f"{100 * found.bubble_sync:.2f}" == row["bubble_sync_pct"]
    assert found.span_s == pytest.approx(float(row["span"]), abs=0.006)
    assert found.makespan_s == pytest.approx(float(row["makespan"]), abs=0.006)
    assert f"{found.peak_bytes.max() / ranks:.3f}" == row["peak_over_p"]


def test_sends_add_nothing_where_links_are_free_and_messages_take_no_time():
    for name, chunks in (("1f1b", 1), ("zb-h1", 1), ("interleaved", 3)):
        plan = build(name, 4, 8, chunks)
        costs = Costs.uniform(plan.placement)
        plain, lowered = simulate(plan, costs), simulate(add_sends(plan), costs)
        assert lowered.makespan_s == plain.makespan_s
        assert lowered.peak_bytes.tolist() == plain.peak_bytes.tolist()


def test_blocking_sends_cost_what_overlapped_ones_hide():
    plan = build("1f1b", 4, 16)
    costs = Costs.uniform(plan.placement, link_s=0.1)
    hidden, blocking = (simulate(add_sends(plan, how), costs).makespan_s for how in ("overlapped", "blocking"))
    assert simulate(plan, costs).makespan_s <= hidden < blocking


def test_a_step_counts_in_the_step_not_in_the_makespan():
    plan = add_step(build("gpipe", 2, 2))
    costs = Costs.uniform(plan.placement)
    from penstock.core.op import Kind

    timeline = simulate(plan, costs.with_seconds(Kind.STEP, 1, 5.0))
    assert timeline.step_only_s == 5.0
    assert timeline.step_s == timeline.makespan_s + 5.0


def test_costs_of_another_size_are_refused():
    with pytest.raises(ValueError, match="costs are for 4 stages on 4 ranks, the plan has 2 on 2"):
        simulate(build("1f1b", 2, 2), Costs.uniform(Placement.loop(4)))


@pytest.mark.parametrize(
    ("lanes", "says"),
    [
        (("0F0 0B0", "1B0 1F0"), "deadlock: rank 1 waits at 1B0 for 1F0"),
        (("0F0 0B0", "1F0"), "1B0: is missing"),
        (("0F0 0B0 9F0", "1F0 1B0"), "9F0: does not exist"),
    ],
)
def test_what_cannot_run_is_named(lanes, says):
    plan = Plan("mine", Placement.loop(2), 1, tuple(map(Lane.parse, lanes)))
    with pytest.raises(IllegalPlan, match=says):
        simulate(plan, Costs.uniform(plan.placement))


def test_a_plan_of_200_000_ops_is_built_checked_and_simulated():
    """Counts that must not grow: the loop visits each op once."""
    plan = build("interleaved", 64, 512, 3)
    assert len(plan) == 196_608
    timeline = simulate(plan, Costs.uniform(plan.placement))
    assert timeline.makespan_s == pytest.approx(3 * 512 + 63)
    assert not np.isnan(timeline.end_s).any()


def test_slices_that_attend_to_more_take_longer():
    plan = build("seq1f1b", 1, 2, slices=2)
    costs = Costs.uniform(plan.placement, 2, 1, 1).sliced(2)
    uneven = replace(costs, slice_factor=(0.5, 1.5))
    timeline = simulate(plan, uneven)
    assert (timeline.end_s - timeline.start_s).tolist() == [0.5, 1.5, 1.5, 0.5, 0.5, 1.5, 1.5, 0.5]
    assert Costs.from_dict(uneven.to_dict()).to_dict() == uneven.to_dict()
    with pytest.raises(ValueError, match=r"slice_factor=\(0.5, 1.5\), but the plan has slices=4; make them fit"):
        simulate(build("seq1f1b", 1, 2, slices=4), uneven)
    with pytest.raises(ValueError, match="factors are finite and not negative"):
        replace(costs, slice_factor=(-1.0, 1.0))


def test_costs_of_a_slice_are_its_share_and_what_a_step_takes_stays():
    whole = Costs.uniform(Placement.loop(2), 4, 2, 1, 3, boundary_bytes=8, other_s={Kind.STEP: 5})
    slice_ = whole.sliced(4)
    assert slice_.seconds[[Kind.F, Kind.I, Kind.W, Kind.STEP], 0].tolist() == [1, 0.5, 0.25, 5]
    assert (slice_.hop_s[0, 1], slice_.saved_bytes[0], slice_.boundary_bytes[0]) == (0.75, 0.25, 2)


def test_as_many_micro_batches_of_a_slice_s_size_take_as_long_as_1f1b_of_them():
    """On the last rank Seq1F1B's bubble is 1F1B's at micros x slices; only the peak is larger, by slices - 1."""
    for p, m, k in [(4, 4, 4), (8, 2, 8)]:
        sliced, plain = build("seq1f1b", p, m, slices=k), build("1f1b", p, m * k)
        costs = Costs.uniform(sliced.placement)
        a, b = simulate(sliced, costs), simulate(plain, costs)
        assert a.makespan_s == b.makespan_s
        assert a.peak_bytes.tolist() == [peak + k - 1 for peak in b.peak_bytes]
