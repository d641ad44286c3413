"""Measuring this machine for real, in seconds; the CPU's numbers are only known to be plausible."""

import math
from time import sleep

import numpy as np
import pytest
import torch

from penstock.calibrate.bench import attending, blocks, launches, moving, products, timers, worker
from penstock.calibrate.bench.pieces import Machine, Piece
from penstock.calibrate.cluster_file import cluster_file
from penstock.calibrate.measure import measure, read_rows
from penstock.calibrate.settings import ROWS, Settings
from penstock.core.cluster import Cluster
from penstock.cost import kernels


def cpu(target_s=0.005):
    machine = Machine.of(torch.device("cpu"), 0, 1)
    machine.timer.target_s = target_s
    return machine


def seconds_of(piece):
    """What a piece that is timed by itself takes."""
    ((_, seconds),) = piece.run()
    return seconds


def test_a_look_at_this_machine_becomes_a_cluster(tmp_path):
    asked = ("launch", "memory", "sustained", "attention", "matmul", "disk")
    found = measure(tmp_path, Settings(device="cpu", ranks=1, seconds=4.0, parts=asked))
    parts = {row["part"] for row in found if "seconds" in row}
    assert parts == {"launch", "memory", "sustained", "attention", "matmul", "disk", "end"}
    assert all(math.isfinite(row["seconds"]) for row in found if "seconds" in row)
    facts = found[0]
    assert (facts["part"], facts["type"], facts["ranks"], facts["threads"]) == ("facts", "cpu", 1, 1)
    assert facts["torch"] == torch.__version__
    assert sum(row["part"] == "matmul" for row in found) >= worker.LEAST
    assert not [row for row in found if "failed" in row and "out of time" not in row["failed"]]
    (tmp_path / "here.toml").write_text(cluster_file(found, "here"))
    here = Cluster.read(tmp_path / "here.toml").device_of(0)
    assert 1e9 < here.peak_flops("fp32") < 1e13
    assert 1e-7 < here.curves.launches["operator"] < 1e-3
    small, large = kernels.matmul(here, "fp32", [64, 512], 256, 256).seconds
    assert 1e-7 < small < large < 1.0


@pytest.mark.slow
def test_a_part_that_cannot_be_measured_here_ends_in_one_line(tmp_path, capfd):
    with pytest.raises(ValueError, match="nothing was measured"):
        measure(tmp_path, Settings(device="cpu", ranks=1, seconds=1.0, parts=("transfer",)))
    assert "penstock: part 'transfer' cannot be measured here" in capfd.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capfd):
    with pytest.raises(ValueError, match="nothing was measured"):
        measure(tmp_path, Settings(device="cuda", ranks=1))
    said = capfd.readouterr().err
    assert "PyTorch sees no GPU here" in said
    assert "Traceback" not in said


def test_what_fails_is_noted_and_the_rest_measured(tmp_path):
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    def lasts():
        return [({"spread": 0.0}, 0.5)]

    with (tmp_path / ROWS).open("w") as file:
        rows, ranks = worker.Rows(file), worker.Ranks(0, 1)
        worker._measure_piece("memory", Piece({"kind": "copy"}, fails), cpu(), ranks, rows)
        worker._measure_piece("memory", Piece({"kind": "add"}, lasts), cpu(), ranks, rows)
    assert read_rows(tmp_path / ROWS) == [
        {"part": "memory", "kind": "copy", "failed": "OutOfMemoryError: CUDA out of memory."},
        {"part": "memory", "kind": "add", "spread": 0.0, "seconds": 0.5},
    ]


def test_operands_are_spread_over_more_than_the_cache_or_refused():
    machine = Machine(torch.device("cpu"), timers.HostTimer(), cache_bytes=1000, memory_bytes=10_000)
    assert [machine.sets(size) for size in (10, 100, 1000, 3000)] == [64, 20, 2, 1]
    with pytest.raises(MemoryError, match=r"needs 0\.00 GB, more than"):
        machine.sets(10_001)


def test_products_have_the_layouts_of_a_linear_layer():
    layer = torch.nn.Linear(24, 40, bias=False)
    x = torch.randn(16, 24, requires_grad=True)
    y = layer(x)
    g = torch.randn_like(y)
    made = {"forward": x.detach(), "input_grad": g, "weight_grad": g.t()}
    other = {"forward": layer.weight.t(), "input_grad": layer.weight, "weight_grad": x.detach()}
    sizes = {"forward": (16, 40, 24), "input_grad": (16, 24, 40), "weight_grad": (40, 24, 16)}
    for layout, (m, n, k) in sizes.items():
        call = products._call(torch.randn, products.Product(layout, 1, m, n, k))
        a, b = call.args
        assert (a.shape, a.stride()) == (made[layout].shape, made[layout].stride())
        assert (b.shape, b.stride()) == (other[layout].shape, other[layout].stride())
        torch.testing.assert_close(call(), a @ b)


def test_blocks_keep_one_micro_batch_in_flight_and_add_up_gradients():
    shape = blocks.Blocks(hidden=32, inner=48, heads=2, kv_heads=1, seq=8, batch=2, layers=2)
    forward, backward = blocks._passes(cpu(), shape)
    forward(0)
    assert forward(1).shape == (2, 8, 32)
    first, second = backward(0), backward(1)
    assert first.shape == second.shape == (2, 8, 32)
    rows = list(blocks._run(cpu(), shape))
    assert [facts for facts, _ in rows] == [{"gradient": False}, {"gradient": True}]
    assert all(1e-5 < seconds < 1 for _, seconds in rows)


@pytest.mark.usefixtures("one_thread")
def test_the_clock_of_one_thread_stands_still_while_it_sleeps():
    now = timers.working_clock()
    begun = now()
    sleep(0.05)
    assert now() - begun < 0.02


def test_attention_gives_what_it_should_both_ways():
    shape = attending.Attention(2, 4, 2, 16, 8, True)
    forward = attending._call(cpu(), "chosen", shape, False)()
    assert forward.shape == (2, 4, 16, 8)
    gradients = attending._call(cpu(), "chosen", shape, True)()
    assert [each.shape[1] for each in gradients] == [4, 2, 2]


def test_memory_bound_pieces_say_what_they_move():
    for name, (make, times, _, grad) in moving._KINDS.items():
        with torch.set_grad_enabled(grad):
            call = make(cpu(), "fp32", 1 << 16)
            call()
        assert times >= 1, name
    assert {piece.facts["kind"] for piece in moving.pieces(cpu(), 1.0)} == set(moving._KINDS) - {"rms_norm"}


def test_costs_of_operators_are_small_and_positive():
    found = {piece.facts["what"]: next(iter(piece.run()))[1] for piece in launches.pieces(cpu(), 1.0)}
    assert set(found) == {"operator", "forward", "backward", "linear_forward", "linear_backward"}
    assert all(1e-7 < seconds < 1e-2 for seconds in found.values())


def test_the_host_timer_counts_calls():
    count, timer = [], timers.HostTimer()
    timer.target_s = 0.01
    took = timer.time([lambda: count.append(1), lambda: count.append(2)])
    assert 0 < took.seconds < 1e-3
    assert abs(count.count(1) - count.count(2)) <= len(count) // 4


@pytest.mark.slow
def test_two_ranks_measure_together_and_talk(tmp_path):
    found = measure(tmp_path, Settings(device="cpu", ranks=2, seconds=12.0, parts=("matmul", "collective", "memory")))
    kinds = {row["kind"] for row in found if row["part"] == "collective" and "seconds" in row}
    assert kinds >= {"all_reduce", "send", "all_gather"}
    (tmp_path / "two.toml").write_text(cluster_file(found, "two"))
    cluster = Cluster.read(tmp_path / "two.toml")
    assert cluster.devices == 2
    (level,) = cluster.path(2)
    assert 1e-6 < level.latency_s < 1e-2
    assert level.curves is not None


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_second_measurement_is_predicted_from_the_first(tmp_path):
    """Products, attention and memory-bound work of sizes that the first did not see; the limits leave room for what
    else this machine does meanwhile."""
    settings = Settings(device="cpu", ranks=1, seconds=25.0, parts=("matmul", "attention", "memory"))
    (tmp_path / "first.toml").write_text(cluster_file(measure(tmp_path, settings), "first"))
    here = Cluster.read(tmp_path / "first.toml").device_of(0)
    machine, off = cpu(0.05), {"matmul": [], "attention": [], "memory": []}
    for m, n, k in 2 ** np.random.default_rng(3).uniform(5, 10, (20, 3)):
        shape = products.Product("forward", 1, int(m), int(n), int(k))
        piece = products.timed({}, machine, lambda shape=shape: products._calls(machine, "fp32", shape))
        off["matmul"].append(kernels.matmul(here, "fp32", *shape[2:]).seconds / seconds_of(piece))
    for seq, heads, head in ((96, 4, 32), (192, 8, 64), (320, 6, 32), (640, 4, 64), (256, 12, 32), (768, 8, 32)):
        piece = attending._piece(machine, "chosen", attending.Attention(1, heads, heads, seq, head, True), False)
        off["attention"].append(kernels.attention(here, "fp32", 1, heads, seq, head).seconds / seconds_of(piece))
    for kind in sorted({piece.facts["kind"] for piece in moving.pieces(machine, 1.0)}):
        piece = moving._piece(machine, kind, "fp32", 3 << 19)
        moved = kernels.memory_bound(here, piece.facts["moved_bytes"], kernels=piece.facts["kernels"])
        off["memory"].append(moved.seconds / seconds_of(piece))
    medians = {part: float(np.median(np.abs(np.log(ratios)))) for part, ratios in off.items()}
    print("median errors of a second measurement:", {part: round(value, 3) for part, value in medians.items()})
    assert medians["matmul"] < 0.25
    assert medians["attention"] < 0.35
    assert medians["memory"] < 0.6
