"""Our orders are those that PyTorch runs, where it has the schedule. PyTorch's stages are mocks: no process group."""

from unittest import mock

import pytest

from penstock.schedules import build

torch_schedules = pytest.importorskip("torch.distributed.pipelining.schedules")


def fake_stage(index, stages, ranks, log):
    """A stage that notes what it is asked to do."""
    stage = mock.MagicMock()
    stage.stage_index, stage.num_stages, stage.group_size, stage.group_rank = index, stages, ranks, index % ranks
    stage.is_first, stage.is_last, stage.has_backward, stage.submod = index == 0, index == stages - 1, True, None
    for ops in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
        getattr(stage, ops).return_value = []
    stage.forward_one_chunk.side_effect = lambda i, *args, **kwargs: log.append(f"{index}F{i}")
    stage.backward_one_chunk.side_effect = lambda i, **kwargs: log.append(f"{index}B{i}")
    return stage


def executed(kind, rank, ranks, micros):
    """What a single-stage schedule really does on a rank; its printed order of 1F1B is wrong on the last rank."""
    log: list[str] = []
    schedule = kind(fake_stage(rank, ranks, ranks, log), micros, loss_fn=None)
    nothing = [() for _ in range(micros)], [{} for _ in range(micros)]
    with (
        mock.patch.object(kind, "_check_inputs", return_value=nothing),
        mock.patch.object(kind, "_initialize_stage"),
        mock.patch.object(kind, "_maybe_get_loss"),
    ):
        schedule._has_backward = True
        schedule._step_microbatches()
    return " ".join(log)


@pytest.mark.parametrize(("ranks", "micros"), [(1, 3), (2, 2), (2, 5), (4, 4), (4, 9)])
@pytest.mark.parametrize(("name", "peer"), [("gpipe", "ScheduleGPipe"), ("1f1b", "Schedule1F1B")])
def test_orders_are_what_pytorch_executes(name, peer, ranks, micros):
    plan = build(name, ranks, micros)
    for rank, lane in enumerate(plan.lanes):
        assert str(lane) == executed(getattr(torch_schedules, peer), rank, ranks, micros)


@pytest.mark.parametrize(
    ("ranks", "micros", "chunks"), [(2, 2, 2), (2, 8, 3), (4, 4, 2), (4, 8, 2), (4, 12, 3), (8, 16, 4), (3, 6, 2)]
)
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("interleaved", "ScheduleInterleaved1F1B"),
        ("breadth-first", "ScheduleLoopedBFS"),
        ("interleaved-zb", "ScheduleInterleavedZeroBubble"),
    ],
)
def test_orders_of_several_stages_are_pytorch_s(name, peer, ranks, micros, chunks):
    assert_same_order(build(name, ranks, micros, chunks), getattr(torch_schedules, peer))


@pytest.mark.parametrize(("ranks", "micros", "chunks"), [(4, 1, 2), (4, 3, 2), (4, 6, 3), (4, 10, 2), (3, 8, 4)])
def test_interleaved_is_pytorch_s_order_for_any_micros_it_allows(ranks, micros, chunks):
    assert_same_order(build("interleaved", ranks, micros, chunks), torch_schedules.ScheduleInterleaved1F1B)


@pytest.mark.parametrize(("ranks", "micros"), [(2, 1), (2, 3), (2, 8), (4, 2), (4, 7), (4, 16), (3, 5), (8, 24)])
def test_zb_v_is_pytorch_s_order(ranks, micros):
    assert_same_order(build("zb-v", ranks, micros, 2), torch_schedules.ScheduleZBVZeroBubble)


@pytest.mark.parametrize(
    ("ranks", "micros"), [(1, 2), (1, 5), (2, 4), (2, 7), (3, 6), (4, 8), (4, 9), (5, 12), (8, 24)]
)
def test_dualpipev_is_pytorch_s_order_with_its_blocks(ranks, micros):
    assert_same_order(build("dualpipev", ranks, micros, 2), torch_schedules.ScheduleDualPipeV)


def assert_same_order(plan, kind):
    ranks, stages = plan.placement.ranks, plan.placement.stages
    mine = [fake_stage(stage, stages, ranks, []) for stage in plan.placement.on(0)]
    peer = kind(mine, plan.micros, loss_fn=None)
    compute = {"FORWARD", "FULL_BACKWARD", "BACKWARD_INPUT", "BACKWARD_WEIGHT", "OVERLAP_F_B"}
    for rank, lane in enumerate(plan.lanes):
        order = [op for op in peer.pipeline_order[rank] if op is not None and op.computation_type.name in compute]
        assert str(lane) == " ".join(map(str, order))
