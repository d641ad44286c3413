from unittest import mock

import pytest
from hypothesis import given, settings

from penstock.core.lane import Lane
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.engine import problems
from penstock.export import read_csv, to_csv
from penstock.lower import add_sends, add_step
from penstock.schedules import SCHEDULES, build
from randoms import plans

SIZES = {"interleaved": (4, 8, 3), "zb-v": (4, 8, 2), "hanayo": (4, 8, 2), "bitpipe": (4, 8, 2)}


def written(tmp_path, text):
    file = tmp_path / "mine.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip(name, tmp_path):
    plan = build(name, *SIZES.get(name, (4, 8, 1)))
    if plan.placement.chains > 1:
        with pytest.raises(ValueError, match="holds one chain of stages 0, 1, 2"):
            to_csv(plan)
        return
    back = read_csv(written(tmp_path, to_csv(plan)))
    assert (back.placement, back.micros, back.lanes) == (plan.placement, plan.micros, plan.lanes)
    assert to_csv(add_step(add_sends(plan))) == to_csv(plan)


@given(plans())
@settings(max_examples=50, deadline=None)
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


@pytest.mark.parametrize("name", ["interleaved", "zb-h1", "gpipe", "1f1b"])
def test_pytorch_reads_it(name, tmp_path):
    """Its runtime loads the file and lowers it with sends of its own."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    plan = build(name, *SIZES.get(name, (4, 8, 1)))
    stages = plan.placement.stages
    fakes = []
    for index in plan.placement.on(0):
        stage = mock.MagicMock(stage_index=index, num_stages=stages, group_size=4, group_rank=0, has_backward=True)
        stage.is_first, stage.is_last, stage.submod = index == 0, index == stages - 1, None
        fakes.append(stage)
    runtime = schedules._PipelineScheduleRuntime(fakes, plan.micros)
    runtime._load_csv(str(written(tmp_path, to_csv(plan))), format="compute_only")
    for rank, lane in enumerate(plan.lanes):
        assert " ".join(map(str, runtime.pipeline_order[rank])) == str(lane)
    assert any("SEND_F" in str(op) for op in runtime.pipeline_order_with_comms[0])


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
        ("0F0,0STEP\n", "row 1, cell 2: '0STEP' is none of PyTorch's actions"),
        ("(0F0;1B0)OVERLAP_F_B\n", "row 1, cell 1: .* fused pairs are not supported yet"),
        ("0F0,0B0\n0F1,0B1\n", "row 2: 0F1 stands here, but stage 0 has ops in row 1 too"),
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


@pytest.mark.parametrize("name", ["ScheduleInterleaved1F1B", "ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble"])
def test_what_pytorch_lowers_is_read_checked_and_written_back(name, tmp_path):
    """PyTorch's own check of these files fails on their UNSHARD actions (2.13)."""
    from torch.distributed.pipelining import schedules

    plan = read_csv(written(tmp_path, _lowered_by_pytorch(schedules, name)))
    assert plan.lowered
    assert problems(plan) == []
    back = read_csv(written(tmp_path, to_csv(plan, comms=True)))
    assert back == plan
    assert read_csv(written(tmp_path, to_csv(plan))).lowered is False


def _lowered_by_pytorch(schedules, name):
    """``compute_comms`` of a schedule on 2 ranks with 2 stages each, without processes."""
    stages = []
    for index in (0, 3) if "ZBV" in name else (0, 2):
        stage = mock.MagicMock(spec=schedules._PipelineStageBase)
        stage.stage_index, stage.num_stages, stage.group_size, stage.group_rank = index, 4, 2, 0
        stage.submod = None
        stages.append(stage)
    schedule = getattr(schedules, name)(stages, 4)
    schedule._prepare_schedule_with_comms(schedule.pipeline_order, format="compute_only")
    lanes = schedule.pipeline_order_with_comms
    return "\n".join(",".join(map(str, lanes[rank])) for rank in sorted(lanes)) + "\n"


def test_sends_are_written_on_request():
    plan = build("1f1b", 2, 1)
    assert to_csv(add_sends(plan), comms=True).splitlines()[0] == "0F0,0SEND_F0,0RECV_B0,0B0"
    with pytest.raises(ValueError, match="has no sends to write"):
        to_csv(plan, comms=True)
