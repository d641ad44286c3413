"""Memory of a step against sums that can be done by hand."""

from dataclasses import replace

import pytest

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.config import gpt, read_architecture
from penstock.core.setup import Setup
from penstock.cost.stack import Stack, stack
from penstock.predict import Prediction, Room, predict

LAYERS, HIDDEN, HEADS, VOCAB, SEQ = 8, 1024, 16, 32000, 2048
MODEL = gpt(layers=LAYERS, hidden=HIDDEN, heads=HEADS, vocab=VOCAB, positions=SEQ)
BLOCK = 12 * HIDDEN**2 + 13 * HIDDEN
TABLE, POSITIONS, NORM = VOCAB * HIDDEN, SEQ * HIDDEN, 2 * HIDDEN
TENSOR = 2 * SEQ * HIDDEN
"""Bytes of one sequence's activations of width ``HIDDEN``."""
STATS = SEQ * (2 * 2 * 4 + HEADS * 4)
"""Bytes of what two norms and attention's softmax keep of each row."""
MEGATRON = replace(stack("megatron-core"), slack=0.0)


def predicted(framework: Stack = MEGATRON, model: Architecture = MODEL, **sizes: object) -> Prediction:
    setup = Setup(**{"seq": SEQ, "batch": 64, **sizes})  # type: ignore[arg-type]
    return predict(model, Cluster.read(f"dgx-h100:{-(-setup.devices // 8)}"), setup, framework)


def room(framework: Stack = MEGATRON, model: Architecture = MODEL, rank: int = 0, **sizes: object) -> Room:
    return predicted(framework, model, **sizes).rooms[rank]


def states(found: Room) -> tuple[float, float, float]:
    return found.weights, found.gradients, found.optimizer


def test_all_that_is_trained_takes_18_bytes_a_parameter() -> None:
    count = LAYERS * BLOCK + 2 * TABLE + POSITIONS + NORM
    assert states(room()) == (2 * count, 4 * count, 12 * count)


@pytest.mark.parametrize(("zero", "shares"), [(0, (1, 1, 1)), (1, (1, 1, 8)), (2, (1, 8, 8)), (3, (8, 8, 8))])
def test_zero_shards_what_its_stage_says(zero: int, shares: tuple[int, int, int]) -> None:
    count = LAYERS * BLOCK + 2 * TABLE + POSITIONS + NORM
    each = tuple(size * count / share for size, share in zip((2, 4, 12), shares, strict=True))
    assert states(room(dp=8, zero=zero)) == pytest.approx(each)


def test_hybrid_sharding_shards_over_fewer() -> None:
    whole, half = (room(dp=8, zero=3, shards=shards).optimizer for shards in (8, 4))
    assert half == 2 * whole


def test_experts_are_sharded_over_their_own_replicas() -> None:
    experts = gpt(layers=2, hidden=256, heads=4, vocab=512, gated=True, experts=8, topk=2, expert_ffn=512)
    each = 8 * 3 * 256 * 512
    dense = experts.parameters - 2 * each
    found = room(model=experts, seq=256, dp=8, ep=4, zero=1)
    assert found.weights == 2 * (dense + 2 * each / 4)
    assert found.optimizer == 12 * (dense / 8 + 2 * each / 4 / 2)


def test_stages_hold_their_ends() -> None:
    first, last = (room(pp=4, rank=rank) for rank in (0, 3))
    assert first.weights == 2 * (2 * BLOCK + TABLE + POSITIONS)
    assert last.weights == 2 * (2 * BLOCK + TABLE + NORM)
    assert first.loss == 0 < last.loss
    parts = room(pp=4, rank=2, vocabulary=1)
    assert parts.weights == 2 * (2 * BLOCK + (2 * TABLE + POSITIONS) / 4)


@pytest.mark.parametrize(
    ("optimizer", "size"), [("adam", 12), ("adam-bf16", 8), ("sgd", 8), ("muon", 8), ("adam-8bit", 6.06)]
)
def test_state_of_an_optimizer(optimizer: str, size: float) -> None:
    assert room(optimizer=optimizer).optimizer == pytest.approx(size * MODEL.parameters)


def test_offload_of_the_optimizer_leaves_megatrons_master_weights() -> None:
    assert room(optimizer_offload=0.5).optimizer == (4 + 8 / 2) * MODEL.parameters
    assert room(stack("deepspeed"), optimizer_offload=1.0, dp=8, zero=2).optimizer == 0


def test_activations_are_34_sbh_with_dropout_and_fused_attention() -> None:
    """The sum of Korthikanti et al. 2022 (arXiv:2205.05198), without its quadratic term."""
    found = room(dropout=True)
    assert found.activations == LAYERS * (17 * TENSOR + STATS)
    assert room().activations == LAYERS * (16 * TENSOR + STATS)  # two masks less


def test_scores_in_memory_add_5_bytes_each() -> None:
    scores = HEADS * SEQ**2
    whole, plain = (room(dropout=True, flash=flash).activations for flash in (True, False))
    softmax = SEQ * HEADS * 4  # of fused attention alone
    assert plain - whole == LAYERS * (5 * scores - softmax)
    assert room(flash=False).activations - room().activations == LAYERS * (2 * scores - softmax)


@pytest.mark.parametrize("sp", [False, True])
def test_tensor_parallelism_splits_24_of_34_and_the_rest_with_the_sequence(sp: bool) -> None:
    found, tp = room(tp=4, sp=sp, dropout=True), 4
    whole = (5 * TENSOR + SEQ * 2 * 2 * 4) / (tp if sp else 1)
    assert found.activations == LAYERS * (whole + (12 * TENSOR + SEQ * HEADS * 4) / tp)


def test_full_recompute_keeps_the_input_alone() -> None:
    found = room(recompute="full")
    assert found.activations == LAYERS * TENSOR
    assert room().working == found.working  # both are below the loss


def test_named_recompute() -> None:
    whole = room(flash=False, dropout=True).activations
    core = room(flash=False, dropout=True, recompute=("attention.core",)).activations
    assert whole - core == LAYERS * 5 * HEADS * SEQ**2
    norms = room(recompute=("attention_norm", "mlp_norm")).activations
    assert room().activations - norms == LAYERS * (2 * TENSOR + SEQ * 2 * 2 * 4)


def test_offload_of_a_share_or_of_storages() -> None:
    whole = room().activations
    assert room(offload=0.25).activations == pytest.approx(0.75 * whole)
    assert whole - room(offload=("attention.result",)).activations == LAYERS * TENSOR


def test_products_in_fp8_keep_narrow_inputs() -> None:
    """Inputs of four products go from two bytes to one; two of them are also kept wide by others: what attention gives
    and nothing else here, since an activation keeps its input, not its result."""
    wide, narrow = room().activations, room(precision="fp8").activations
    inputs = TENSOR * (1 + 1 + 1 + 4)
    assert wide - narrow == LAYERS * (inputs / 2 - TENSOR)


def test_a_pipeline_holds_as_many_micro_batches_as_ranks_follow() -> None:
    each = 2 * (16 * TENSOR + STATS)
    assert [found.activations / each for found in predicted(pp=4).rooms] == [4, 3, 2, 1]
    chunks = predicted(pp=4, chunks=2, schedule="interleaved").rooms[0].activations
    assert chunks / each == pytest.approx(4 * (1 + 3 / 8))


def test_a_vocabulary_in_parts_waits() -> None:
    each = 2 * (16 * TENSOR + STATS)
    held = [room(pp=4, vocabulary=way).activations / each for way in (0, 1, 2, 3)]
    assert held == pytest.approx([4, 6, 5, 6])


def test_logits_in_full_precision_beside_their_own() -> None:
    logits = SEQ * VOCAB
    whole, fused = (room(fused_loss=fused).loss for fused in (False, True))
    assert whole - fused == 2 * logits
    assert 6 * logits < whole < 6 * logits + 3 * TENSOR


def test_fsdp_shards_fp32_and_gathers_bf16() -> None:
    """At the loss, the head's weights are whole, and no gradient of the step is there yet."""
    found, count, head = room(stack("pytorch"), dp=8, batch=8, zero=3), MODEL.parameters, TABLE + NORM
    assert states(found) == (4 * count / 8, 0, 8 * count / 8)
    assert found.messages == 2 * head
    assert room(stack("pytorch"), dp=8, batch=16, zero=3).gradients == 4 * count / 8


def test_fsdp_with_few_tokens_peaks_where_the_heads_gradient_is_reduced() -> None:
    """Two blocks are gathered; of the head, weights and a gradient in bf16, and that on its way in fp32."""
    found, head = room(stack("pytorch"), dp=8, batch=8, seq=16, zero=3), TABLE + NORM
    assert found.messages == 2 * 2 * BLOCK + (2 + 2 + 4) * head
    assert found.loss == 0


def test_fsdp_of_wide_blocks_peaks_where_a_blocks_gradient_is_reduced() -> None:
    wide = gpt(layers=8, hidden=1024, heads=16, vocab=128, positions=16)
    found = room(stack("pytorch"), wide, dp=8, batch=16, seq=16, zero=3)
    assert found.messages == 2 * 2 * BLOCK + (2 + 4) * BLOCK
    assert room(stack("pytorch"), wide, dp=8, batch=16, seq=16, zero=3, adapter=8).messages == 4 * BLOCK + 2 * (
        128 * HIDDEN + NORM
    )


def test_pytorchs_data_parallelism_has_buckets_and_copies() -> None:
    """Of all gradients in fp32, and of all weights in bf16."""
    count = MODEL.parameters
    alone, eight = (room(stack("pytorch"), dp=dp, batch=16) for dp in (1, 8))
    assert states(eight) == states(alone) == (4 * count, 4 * count, 8 * count)
    assert (alone.messages, eight.messages) == (2 * count, (2 + 4) * count)
    assert room(dp=8).messages == 0


def test_deepspeed_has_buckets() -> None:
    large = read_architecture("llama-3-8b")
    two, three = (room(stack("deepspeed"), large, dp=8, zero=zero, recompute="full") for zero in (2, 3))
    assert states(two) == pytest.approx([size * large.parameters for size in (2, 2 / 8, 12 / 8)])
    assert (two.messages, three.messages) == (1e9, 3e9)


def test_adapters_train_two_narrow_matrices_each() -> None:
    found, rank = room(adapter=16), 16
    sides = LAYERS * (HIDDEN * (1 + 3) + HIDDEN * (1 + 1) + HIDDEN * (1 + 4) * 2)
    assert states(found) == (2 * MODEL.parameters, 4 * rank * sides, 12 * rank * sides)
    assert room(adapter=16, frozen_bytes=0.5).weights == 0.5 * MODEL.parameters


def test_adapters_need_no_gradients_of_weights_and_take_time_of_their_own() -> None:
    model = read_architecture("llama-3-8b")
    ways = ({}, {"adapter": 16}, {"adapter": 16, "adapter_on": ("attention.qkv",)})
    whole_s, all_s, some_s = (predicted(model=model, **way).parts["blocks"] for way in ways)
    assert some_s < 0.8 * whole_s < 0.9 * all_s < whole_s


def test_adapters_on_some_matrices() -> None:
    found, rank = room(adapter=16, adapter_on=("attention",)), 16
    sides = LAYERS * (HIDDEN * (1 + 3) + HIDDEN * (1 + 1))
    assert states(found) == (2 * MODEL.parameters, 4 * rank * sides, 12 * rank * sides)
    keeps_mlp, keeps_none = (room(adapter=16, adapter_on=(on,)).activations for on in ("mlp", "attention"))
    assert keeps_none < keeps_mlp
