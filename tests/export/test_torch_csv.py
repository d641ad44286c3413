from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import torch_peer
from penstock.core.lane import Lane
from penstock.core.op import Kind, Op
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.export import read_csv, to_csv, torch_problems
from penstock.lower import add_sends, add_step
from penstock.lower.place import place
from penstock.schedules import SCHEDULES, build
from randoms import plans


def built(name):
    """A schedule on 4 ranks with the fewest chunks it can have; interleaved with three."""
    return build(name, 4, 8, 3 if name == "interleaved" else SCHEDULES[name].least_chunks(4, 8))


def without_sums(plan):
    """The lanes without sums of gradients, which stand in the file of sends and receives alone."""
    kept = [lane.codes[:, 0] != Kind.REDUCE_GRAD for lane in plan.lanes]
    return tuple(Lane(lane.codes[rows], lane.fused[rows]) for lane, rows in zip(plan.lanes, kept, strict=True))


def written(tmp_path, text):
    file = tmp_path / "mine.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip(name, tmp_path):
    plan = built(name)
    if plan.placement.chains > 1:
        with pytest.raises(ValueError, match="cannot hold replicas of a stage"):
            to_csv(plan)
        return
    if plan.slices > 1:
        with pytest.raises(ValueError, match="PyTorch's CSV has no slices of a micro-batch"):
            to_csv(plan)
        return
    if not SCHEDULES[name].gradient_equal:
        with pytest.raises(ValueError, match="PyTorch has no action UPDATE"):
            to_csv(plan)
        return
    back = read_csv(written(tmp_path, to_csv(plan)))
    assert (back.placement, back.micros, back.lanes) == (plan.placement, plan.micros, without_sums(plan))
    assert to_csv(add_step(add_sends(plan))) == to_csv(plan)


@given(plans())
def test_round_trip_of_any_single_chain(plan):
    import tempfile
    from pathlib import Path

    if plan.placement.prev != tuple(range(-1, plan.placement.stages - 1)):
        with pytest.raises(ValueError, match="holds one chain of stages 0, 1, 2"):
            to_csv(plan)
        return
    with tempfile.TemporaryDirectory() as folder:
        back = read_csv(written(Path(folder), to_csv(plan)))
    assert (back.placement, back.lanes) == (plan.placement, plan.lanes)


@pytest.mark.parametrize("name", torch_peer.held())
def test_pytorch_reads_it(name, tmp_path):
    """Its runtime loads the file of either format; the one it lowers itself comes back legal."""
    plan = built(name)
    runtime = torch_peer.loaded(written(tmp_path, to_csv(plan)), plan)
    for rank, lane in enumerate(without_sums(plan)):
        assert " ".join(map(str, runtime.pipeline_order[rank])) == str(lane)
    lowered = read_csv(torch_peer.dumped(runtime, tmp_path, "compute_comms"))
    assert lowered.lowered
    assert problems(lowered) + torch_problems(lowered) == []
    sent = add_sends(plan)
    runtime = torch_peer.loaded(written(tmp_path, to_csv(sent, comms=True)), plan, "compute_comms")
    back = read_csv(torch_peer.dumped(runtime, tmp_path, "compute_comms"))
    assert problems(back) + torch_problems(back) == []
    for lane, mine in zip(back.lanes, without_sums(sent), strict=True):
        kept = ~np.isin(lane.codes[:, 0], (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD))
        assert Lane(lane.codes[kept], lane.fused[kept]) == mine


def test_what_pytorch_writes_is_read(tmp_path):
    """Idle slots are empty cells, and stages may turn round on the last rank."""
    plan = read_csv(written(tmp_path, "0F0,,,,3F0,3B0,,,,0B0\n,1F0,2F0,,,,2B0,1B0,,\n"))
    assert plan.name == "mine"
    assert plan.placement == Placement((0, 1, 1, 0))
    assert [str(lane) for lane in plan.lanes] == ["0F0 3F0 3B0 0B0", "1F0 2F0 2B0 1B0"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no ops; one row per rank"),
        (",,\n", "holds no ops"),
        ("0F0,0Q0\n", "row 1, cell 2: '0Q0': unknown kind 'Q'"),
        ("0F0,0B0x\n", "row 1, cell 2: '0B0x' is not an op"),
        ("0F0,0STEP\n", "row 1, cell 2: '0STEP': STEP is none of PyTorch's actions"),
        ("0F0,xyz0F1\n", "row 1, cell 2: 'xyz0F1' is not an op"),
        ("0F0,0F1 0B0,0Q0\n", r"row 1, cell 2: '0F1 0B0' is not an op.* \(and 1 more\)"),
        ("0F0,0UNSHARD1\n", "row 1, cell 2: '0UNSHARD1': UNSHARD has no micro-batch number"),
        ("0F0,0R0\n", "row 1, cell 2: '0R0': R is none of PyTorch's actions, F, B, I, W, SEND_F"),
        ("0F0,(0F1;0B0)OVERLAP\n", "row 1, cell 2: .* is not a block of two actions; write for example"),
        ("0F0,(0F1;0F2;0B0)OVERLAP_F_B\n", "row 1, cell 2: '0F1;0F2' is not an op"),
        ("0F0,(0B0;0F1)OVERLAP_F_B\n", "row 1, cell 2: .* a block is a forward and then a backward"),
        ("(0F0;1STEP)OVERLAP_F_B\n", "row 1, cell 1: .* STEP is none of PyTorch's actions"),
        ("0F0,0B0\n0F1,0B1\n", "row 2: 0F1 stands here, but stage 0 has ops in row 1 too; in PyTorch a stage lives on"),
        ('0F0,"0B0\n', "is not CSV: unexpected end of data"),
        ("0F0,0B0\n\n1F0,1B0\n", "row 2: the row holds no op"),
        ("0F0,0B0\n2F0,2B0\n", "stages go up to 2, but stage 1 stands in no row"),
        ("999999999F0\n", "stages go up to 999999999, but stage 0 stands in no row"),
    ],
)
def test_what_is_not_a_schedule_is_named(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        read_csv(written(tmp_path, text))


def test_what_pytorch_cannot_hold_is_refused():
    lanes = (Lane.parse("0F0 0B0 2F0 2B0"),)
    with pytest.raises(ValueError, match=r"one chain of stages .* prev=\(-1, -1\)"):
        to_csv(Plan("two", Placement((0, 0), (-1, -1)), 1, lanes))
    with pytest.raises(ValueError, match="cannot hold replicas"):
        to_csv(Plan("copies", Placement((0, 0), (-1, 0), (0, 0)), 1, lanes))
    with pytest.raises(ValueError, match="no slices of a micro-batch; this plan has slices=2"):
        to_csv(replace(build("1f1b", 2, 4), slices=2))
    for op in (Op(Kind.R, 0, 1), Op(Kind.OFFLOAD, 0, 1), Op(Kind.S, 0, 1), Op(Kind.REDUCE_T, 0, 1)):
        plan = place(build("1f1b", 2, 2), np.array([op]), np.array([0]), np.array([12]))
        with pytest.raises(
            ValueError, match=f"no action {op.kind.name}: {op} stands on rank 0; write the plan without"
        ):
            to_csv(plan)


def test_cells_may_have_quotes_and_blanks_and_a_mark_of_their_coding(tmp_path):
    text = '\ufeff"0F0", 0F1 ,( 0F2 ; 0B0 )OVERLAP_F_B,,"0B1",0B2\r\n\r\n'
    assert str(read_csv(written(tmp_path, text)).lanes[0]) == "0F0 0F1 (0F2;0B0)OVERLAP_F_B 0B1 0B2"


@pytest.mark.parametrize(
    ("raw", "says"), [(b"\xff\xfe0", "is not text"), (b'0F0,"' + b"x" * 200_000, "is not CSV: field")]
)
def test_what_is_no_csv_is_named(raw, says, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=f"mine.csv: {says}"):
        read_csv(file)


def test_an_op_in_the_wrong_row_is_left_to_the_check(tmp_path):
    plan = read_csv(written(tmp_path, "0F0,0F1,1B0,0B0,0B1\n1F0,1F1,1B1\n"))
    assert [str(one) for one in problems(plan)] == ["rank 0, 1B0: stage 1 lives on rank 1; move it to rank 1"]


TRIED = [(name, *sizes, chunks) for name, chunks in torch_peer.BUILT_IN.items() for sizes in [(2, 4), (4, 8)]]
TRIED += [("Interleaved1F1B", 4, 8, 4), ("LoopedBFS", 2, 5, 3), ("InterleavedZeroBubble", 4, 4, 5)]


@pytest.mark.parametrize(("name", "ranks", "micros", "chunks"), TRIED)
def test_what_pytorch_lowers_is_legal_and_written_back(name, ranks, micros, chunks, tmp_path):
    """PyTorch's own check of these files fails on their UNSHARD actions (2.13)."""
    schedule = torch_peer.orders(name, ranks, micros, chunks)
    plans = [read_csv(torch_peer.dumped(schedule, tmp_path, fmt)) for fmt in ("compute_only", "compute_comms")]
    for plan, order in zip(plans, (schedule.pipeline_order, schedule.pipeline_order_with_comms), strict=True):
        assert problems(plan) + torch_problems(plan) == []
        for rank, lane in enumerate(plan.lanes):
            assert str(lane) == " ".join(str(action) for action in order[rank] if action is not None)
    compute, lowered = plans
    assert (compute.lowered, lowered.lowered) == (False, True)
    assert {Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD} < set(lowered.ops[:, 0].tolist())
    assert read_csv(written(tmp_path, to_csv(lowered, comms=True))).lanes == lowered.lanes
    assert read_csv(written(tmp_path, to_csv(lowered))).lanes == compute.lanes


def test_the_order_that_pytorch_prints_for_1f1b_is_not_one_it_could_run(tmp_path):
    """On the last rank it counts forwards from 1."""
    order = torch_peer.printed_order("1F1B", 2, 4)
    text = "\n".join(",".join("" if op is None else str(op) for op in order[rank]) for rank in sorted(order))
    assert ("1F0", "is missing") in [(one.op, one.message) for one in problems(read_csv(written(tmp_path, text)))]


def test_sends_are_written_on_request():
    plan = build("1f1b", 2, 1)
    assert to_csv(add_sends(plan), comms=True).splitlines() == [
        "0UNSHARD,0F0,0SEND_F0,0RECV_B0,0B0,0REDUCE_GRAD,0RESHARD",
        "1RECV_F0,1UNSHARD,1F0,1B0,1SEND_B0,1REDUCE_GRAD,1RESHARD",
    ]
    with pytest.raises(ValueError, match="has no sends to write"):
        to_csv(plan, comms=True)
