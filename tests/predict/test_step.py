"""What a prediction says beside the step itself, and sums that must hold."""

from dataclasses import replace

import pytest

from penstock.core.cluster import Cluster
from penstock.core.config import gpt, read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import stack
from penstock.predict import predict
from penstock.predict.micro import Rank
from penstock.predict.part import both_s

MODEL, NODES = read_architecture("llama-3-8b"), Cluster.read("dgx-h100:2")


def found(**given):
    setup = Setup(**({"seq": 2048, "batch": 32, "dp": 16} | given))
    return predict(MODEL, NODES, setup, stack("megatron-core"))


@pytest.mark.parametrize(
    "split", [{}, {"zero": 1}, {"dp": 4, "tp": 4}, {"dp": 2, "tp": 2, "pp": 4}], ids=lambda split: str(split)
)
def test_a_checkpoint_holds_each_weight_and_its_state_once_however_it_is_split(split):
    one = found(**split)
    assert one.checkpoint_bytes == pytest.approx((2 + 4 + 8) * MODEL.parameters, rel=1e-3)
    disk = NODES.node_of(0).disk_write_bytes_per_s
    assert one.checkpoint_s == pytest.approx(one.checkpoint_bytes / 2 / disk)


def test_a_checkpoint_of_an_adapter_is_small():
    assert 0 < found(adapter=8).checkpoint_bytes < 0.02 * found().checkpoint_bytes


def test_parts_add_up_to_the_step_and_lie_in_its_interval():
    one = found(dp=2, tp=2, pp=4)
    assert sum(one.parts.values()) == pytest.approx(one.seconds)
    assert one.low_s < one.seconds < one.high_s


def test_a_precision_that_the_device_has_not_is_said_to_be_another():
    setup = Setup(seq=2048, batch=8, dp=8, precision="fp8")
    words = [predict(MODEL, Cluster.read(f"{name}:8"), setup, stack("nemo")).guessed for name in ("a100-80gb", "h100")]
    assert ["bf16 stands for fp8" in guessed for guessed in words] == [True, False]


@pytest.mark.parametrize(("sp", "tp", "least", "most"), [(False, 8, 2, 8), (False, 1, 1, 1), (True, 8, 1, 1)])
def test_messages_between_stages_are_smaller_where_each_tensor_rank_sends_a_part(sp, tp, least, most):
    setup = Setup(seq=2048, batch=32, tp=tp, pp=2, dp=8 // tp, sp=sp)
    split = stack("megatron-deepspeed")
    whole, parts = (
        predict(MODEL, NODES, setup, one).parts["between stages"] for one in (replace(split, p2p_split=False), split)
    )
    assert least <= whole / parts <= most


def test_graphs_of_parts_of_blocks_save_some_of_the_waits_for_launches():
    setup = Setup(seq=4096, batch=64, ep=8, dp=16, precision="fp8")
    bridge, model, nodes = stack("megatron-bridge"), read_architecture("qwen3-30b-a3b"), Cluster.read("dgx-h100:2")
    ways = [(), ("router",), ("attention",), ("attention", "router")]
    waits = [predict(model, nodes, setup, replace(bridge, graphed=parts)).parts for parts in ways]
    whole = predict(model, nodes, replace(setup, graphs=True), bridge).parts
    found = [parts["waiting for launches"] for parts in (*waits, whole)]
    assert found == sorted(found, reverse=True)
    assert found[3] > 2 * found[4]
    sooner = replace(bridge, experts_s=bridge.fused_experts_s)
    fused = [predict(model, nodes, setup, one).parts["waiting for launches"] for one in (sooner, bridge)]
    assert fused[0] < fused[1] == found[0]


def test_products_of_single_experts_take_the_host_longer_the_more_there_are_on_a_rank():
    model, nodes, bridge = read_architecture("qwen3-30b-a3b"), Cluster.read("dgx-h100:8"), stack("megatron-bridge")
    found = []
    for ep in (8, 64):
        setup = Setup(seq=4096, batch=64, ep=ep, dp=64, precision="fp8")
        each = [predict(model, nodes, setup, replace(bridge, expert_s=seconds)) for seconds in (0.0, 1e-5)]
        found.append(each[1].parts["waiting for launches"] - each[0].parts["waiting for launches"])
    assert found[0] > 4 * found[1] > 0


def test_tokens_that_go_once_to_each_node_are_sooner_there():
    model, nodes, core = read_architecture("qwen3-235b-a22b"), Cluster.read("dgx-h100:4"), stack("megatron-core")
    setup = Setup(seq=4096, batch=64, ep=32, dp=32)
    apart, once = (
        predict(model, nodes, setup, replace(core, dispatcher=name)).parts["expert parallel messages"]
        for name in ("alltoall", "deepep")
    )
    assert 0.4 < once / apart < 0.5  # of 8 copies 6 leave a node, of those to each node 2.7


def test_gradients_that_kernels_of_their_own_add_take_what_they_move():
    """Two bytes of a gradient, and twice the width of the sum; where it is turned into that before, twice more."""
    framework = stack("megatron-deepspeed")
    assert [framework.added_bytes(precision) for precision in ("fp16", "bf16")] == [6, 18]
    assert [stack(name).added_bytes("bf16") for name in ("megatron-core", "pytorch")] == [0, 10]
    setup = Setup(seq=2048, batch=32, tp=8, pp=2)
    plain = replace(framework, passing_bytes=0.0)
    times = [predict(MODEL, NODES, setup, one).parts["blocks"] for one in (plain, framework)]
    each = MODEL.parameters / 16 * 18 * (32 - 1) / NODES.device.memory_bytes_per_s
    assert each < times[1] - times[0] < 1.3 * framework.moves * each


def test_launches_that_wait_for_their_kernels_hide_nothing_of_the_host():
    framework = stack("megatron-deepspeed")
    setup = Setup(seq=2048, batch=32, tp=4, dp=4)
    ways = [{}, {"blocking": True}, {"blocking": True, "launch_s": 2 * framework.launch_s}]
    parts = [predict(MODEL, NODES, setup, replace(framework, **way)).parts for way in ways]
    hidden, all_of_it, twice = (each["waiting for launches"] for each in parts)
    assert 0 < hidden < all_of_it
    assert twice == pytest.approx(2 * all_of_it)
    assert parts[0]["blocks"] == pytest.approx(parts[1]["blocks"])


def test_messages_beside_compute_slow_it_and_no_more_than_all_of_them_shows():
    setup, framework = Setup(seq=2048, batch=64, micro=4, dp=16, zero=3), stack("pytorch")
    none_s, some_s, all_s = (
        predict(MODEL, NODES, setup, replace(framework, fsdp_shown=share)).seconds
        for share in (0.0, framework.fsdp_shown, 1.0)
    )
    assert framework.fsdp_shown == 0.189
    assert some_s - none_s == pytest.approx(0.189 * (all_s - none_s))
    assert all_s > 1.05 * none_s


def test_sums_over_tensor_ranks_are_launched_and_make_ranks_wait_for_each_others_hosts():
    setup, model = Setup(seq=128, batch=16, dp=8, tp=2), read_architecture("llama-3-8b")
    slow = replace(stack("megatron-core"), launch_s=1e-2)
    alone, together = (Rank(model, NODES, replace(setup, tp=tp), slow) for tp in (1, 2))
    block = model.blocks[0]
    assert [rank.summed(block)[1] for rank in (alone, together)] == [0, 2]
    assert Rank(model, NODES, replace(setup, sp=True), slow).summed(block)[1] == 4
    more_s = together.parts[block].f_s - alone.parts[block].f_s
    assert more_s == pytest.approx(2 * 1e-2, rel=0.02)
    assert both_s(NODES.device, 2.0, 1.0, together=True) > both_s(NODES.device, 2.0, 1.0) > 2.0


@pytest.mark.parametrize(
    ("vocab", "framework", "tp"), [(50257, "megatron-core", 1), (50257, "pytorch", 2), (50304, "pytorch", 1)]
)
def test_a_head_over_an_odd_vocabulary_is_slow_unless_it_is_filled_up(vocab, framework, tp):
    def head_s(vocab, framework, tp):
        model = gpt(layers=2, hidden=1024, heads=16, vocab=vocab)
        return Rank(model, NODES, Setup(seq=1024, batch=16, dp=8, tp=tp), stack(framework)).parts["head"].all_s

    assert head_s(50257, "pytorch", 1) > 1.5 * head_s(vocab, framework, tp)


def test_heads_of_odd_width_keep_attention_off_the_matrix_units_unless_it_is_one_kernel():
    def forward_s(heads, flash):
        model = gpt(layers=1, hidden=13824, heads=heads, vocab=96)
        setup = Setup(seq=2048, batch=8, dp=8, flash=flash)
        return Rank(model, NODES, setup, stack("megatron-deepspeed")).parts[model.blocks[0]].f_s

    wide, odd, narrow = (forward_s(heads, False) for heads in (108, 128, 144))
    assert odd > 1.2 * max(wide, narrow)
    assert forward_s(128, True) < 1.1 * forward_s(108, True)
