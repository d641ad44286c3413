"""Operators: FLOPs beside PyTorch's own counter, shapes, shards, and kernels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from families import CASES
from penstock.core.architecture import Architecture
from penstock.core.config import architecture_from_config, gpt
from penstock.core.device import device
from penstock.core.mask import Mask
from penstock.core.parts import Experts
from penstock.cost.kept import kept, rerun
from penstock.cost.model_operators import head_operators, operators, predictor_operators, stage_operators
from penstock.cost.operators import FUSED, PLAIN, Kernels, Microbatch, Operator, Shard, flops, saved_bytes
from penstock.cost.passes import timed, work
from penstock.cost.rows import rows_of

MICRO, SEQ = 2, 8
SMALL = Microbatch(micro=MICRO, seq=SEQ)
EAGER = replace(PLAIN, attention=False)
STATES = {
    "bamba",
    "jamba",
    "kimi_linear",
    "mamba",
    "mamba2",
    "minimax",
    "nemotron_h",
    "nemotron_h dense",
    "nemotron_h latent",
}
STATES |= {"falcon_mamba", "granitemoehybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "deepseek_v4"}
QUICK = ("llama", "gpt2", "mixtral", "deepseek_v2", "qwen3_next", "gemma2", "gpt_oss")


def made(case: str) -> Architecture:
    family, config = CASES[case]
    found = architecture_from_config(case, {"model_type": family, **config}, "config.json")
    if family != "llama4_text":
        return found

    def all_experts(block: Any) -> Any:  # transformers runs every expert of Llama 4 on all tokens
        mixed = isinstance(block.mlp, Experts)
        return replace(block, mlp=replace(block.mlp, topk=block.mlp.experts)) if mixed else block

    return replace(found, blocks=tuple(map(all_experts, found.blocks)))


def whole(model: Architecture, kernels: Kernels, **sizes: Any) -> tuple[Operator, ...]:
    batch = Microbatch(**{"micro": MICRO, "seq": SEQ, "width_bytes": 4, **sizes}, kernels=kernels)
    return stage_operators(model, range(model.layers), batch)


def counted(case: str) -> list[dict[str, int]]:
    """FLOPs of a forward and of a backward of transformers' model, by operation."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    family, config = CASES[case]
    config = AutoConfig.for_model(family, **{"pad_token_id": 0, **config})
    try:
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
        )
    except (ValueError, TypeError):  # no experts to choose for
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    ids = torch.randint(1, 90, (MICRO, SEQ), generator=torch.Generator().manual_seed(0))
    found = []
    with FlopCounterMode(display=False) as counter:
        loss = model.train()(ids, labels=ids, use_cache=False).loss
    found.append(counter)
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    found.append(counter)
    return [{str(op): n for op, n in each.get_flop_counts()["Global"].items()} for each in found]


SLOW = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", SLOW)
def test_flops_equal_those_that_pytorch_counts(case: str) -> None:
    ours, (forward, backward) = whole(made(case), EAGER), counted(case)
    if case in STATES:  # how a state is computed is the library's own affair; linear layers are not
        linear = ("aten.mm", "aten.addmm")
        batched = ("attention.out_down", "indexer.scores")  # DeepSeek-V4's products per group and per head
        products = [op for op in ours if op.kind in ("matmul", "grouped_matmul") and not op.name.endswith(batched)]
        assert flops(products, "F") == sum(n for op, n in forward.items() if op in linear)
        return
    assert flops(ours, "F") == sum(forward.values())
    assert flops(ours, "I") + flops(ours, "W") == sum(backward.values())


@pytest.mark.parametrize("case", ["gpt2", "llama", "deepseek_v2"])
def test_a_fused_attention_makes_its_scores_again(case: str) -> None:
    """As PyTorch counts flash attention: five products in the backward, of which one is the forward's."""
    counter = pytest.importorskip("torch.utils.flop_counter")
    block = made(case).blocks[0]
    forward, backward = (op.flops for op in operators(block, SMALL) if op.kind == "attention")
    part = block.attention
    query, key = ((MICRO, heads, SEQ, part.head_dim) for heads in (part.heads, part.kv_heads))
    value, out = ((MICRO, heads, SEQ, part.value_dim) for heads in (part.kv_heads, part.heads))
    assert forward == counter.sdpa_flop_count(query, key, value)
    assert backward == counter.sdpa_backward_flop_count(out, query, key, value)


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (Mask(), lambda q, k: True),
        (Mask(window=5), lambda q, k: q - k < 5),
        (Mask(window=50), lambda q, k: q - k < 50),
        (Mask(chunk=4), lambda q, k: q // 4 == k // 4),
        (Mask(selected=6), lambda q, k: q - k < 6),
        (Mask(block=3, local=2), lambda q, k: q // 3 - k // 3 < 2),
        (Mask(block=3, local=1, stride=2), lambda q, k: (q // 3 - k // 3) % 2 == 0),
        (Mask(window=4, compress=100), lambda q, k: q - k < 4),
    ],
)
def test_pairs_of_a_mask_are_those_that_it_shows(mask: Mask, seen: Any) -> None:
    for seq in (1, 4, 17, 18):
        expected = sum(k <= q and seen(q, k) for q in range(seq) for k in range(seq))
        assert mask.pairs(seq) == expected


@pytest.mark.parametrize("selected", [0, 1, 3])
def test_compressed_keys_are_one_for_each_so_many_tokens(selected: int) -> None:
    for seq in (3, 4, 16, 21):
        entries = [(query + 1) // 4 for query in range(seq)]
        seen = sum(min(count, selected or count) for count in entries)
        mask = Mask(window=5, compress=4, selected=selected)
        assert mask.pairs(seq) == Mask(window=5).pairs(seq) + seen


def test_a_mask_has_one_shape() -> None:
    with pytest.raises(ValueError, match="one of window, chunk, selected and block, not window and chunk"):
        Mask(window=4, chunk=4)
    with pytest.raises(ValueError, match="local=0"):
        Mask(block=4)


# -- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["llama", "gpt2", "deepseek_v3", "qwen3_moe", "nemotron_h", "qwen3_next"])
@pytest.mark.parametrize(
    "shard", [Shard(tp=2), Shard(tp=2, sp=True), Shard(cp=4), Shard(cp=2, cp_turned=2), Shard(cp=4, cp_turned=2)]
)
def test_ranks_share_the_products_and_the_scores(case: str, shard: Shard) -> None:
    model, ranks = made(case), shard.tp * shard.cp
    for block in model.kinds():
        one, part = (
            {
                (op.name, op.phase): op.flops
                for op in operators(block, replace(SMALL, shard=each))
                if op.kind in ("matmul", "attention", "scan")
            }
            for each in (Shard(), shard)
        )
        latents = ("attention.kv_down", "attention.query_down", "experts.router", "shared.gate_scalar")
        for key in one:
            whole_on_each = key[0] in latents and not shard.sp
            share = shard.cp if whole_on_each else ranks
            assert part[key] == pytest.approx(one[key] / share), key


def test_experts_of_a_rank_get_as_many_rows_as_it_sends() -> None:
    block = made("mixtral").blocks[0]
    for shard, groups, width in ((Shard(ep=3), 2, 112), (Shard(ep=3, etp=2), 2, 56), (Shard(), 6, 112)):
        found = {op.name: op for op in operators(block, replace(SMALL, shard=shard)) if op.phase == "F"}
        up = found["experts.gate_up"]
        assert (up.batch, up.n, up.k) == (groups, 2 * width, 64)
        assert up.batch * up.m == MICRO * SEQ * 2 * shard.etp
        assert up.flops == 2 * MICRO * SEQ * 2 * shard.etp * 2 * width * 64


def test_biases_of_experts_apart_move_bytes_by_the_weights_of_the_router() -> None:
    block, sent, ffn = made("gpt_oss").blocks[0], MICRO * SEQ * 2, 112
    together, apart = (operators(block, replace(SMALL, kernels=replace(FUSED, biased=one))) for one in (True, False))

    def moved(ops: tuple[Operator, ...], name: str) -> dict[str, float]:
        return {op.phase: op.moved_bytes for op in ops if op.name == name}

    assert moved(together, "experts.gate_up.bias") == moved(apart, "experts.gate_up.bias") == {"W": 2 * sent * 2 * ffn}
    assert moved(together, "experts.down.bias") == {"W": 2 * sent * 64}
    assert moved(apart, "experts.down.bias") == {"F": 28 * sent * 64, "I": 40 * sent * 64}
    assert moved(apart, "experts.activation.limits") == {"F": 8 * sent * 2 * ffn, "I": 10 * sent * 2 * ffn}
    assert saved_bytes(apart) - saved_bytes(together) == 2 * sent * 2 * ffn
    assert kept(apart, "experts.activation") == kept(together, "experts.activation")


def test_biases_of_experts_apart_are_started_one_by_one() -> None:
    block, where = made("gpt_oss").blocks[0], device("h100")
    each = []
    for shard in (Shard(), Shard(ep=3)):
        rows = rows_of(operators(block, replace(SMALL, shard=shard, kernels=replace(FUSED, biased=False))))
        each.append(work(rows, np.zeros(len(rows.names), bool), timed(rows, where, "bf16", "bf16")).experts)
    assert each[0] == (6 * 4, 6 * 7, 6 * 2, 0)
    assert each[1] == tuple(count / 3 for count in each[0])


def test_a_rotation_that_scales_is_several_kernels_where_the_one_only_turns() -> None:
    for case, kernels, count in (
        ("gpt_oss", FUSED, 1),
        ("gpt_oss", replace(FUSED, yarn=False), 5),
        ("llama", replace(FUSED, yarn=False), 1),
    ):
        found = operators(made(case).blocks[0], replace(SMALL, kernels=kernels))
        assert {op.launches for op in found if op.name == "attention.rope"} == {count}


def test_sequence_parallel_keeps_a_share_of_norms() -> None:
    block = gpt(layers=1, hidden=64, heads=4, vocab=96).blocks[0]
    kept = [saved_bytes(operators(block, Microbatch(micro=1, seq=8, shard=Shard(tp=4, sp=sp)))) for sp in (False, True)]
    norms = 8 * 64 * 2 * 4 + 8 * 2 * 4 * 2  # two inputs, two outputs; two numbers per token and norm
    assert kept[0] - kept[1] == norms * 3 / 4


def test_what_does_not_divide_is_named() -> None:
    block = gpt(layers=1, hidden=96, heads=6, vocab=96).blocks[0]
    with pytest.raises(ValueError, match="4 ranks do not divide heads=6; use 1, 2, 3, 6"):
        operators(block, Microbatch(micro=1, seq=8, shard=Shard(tp=4)))


def test_activations_of_megatron_are_those_of_its_paper() -> None:
    """34 s b h without dropout masks, scores by flash attention: Korthikanti et al. (arXiv:2205.05198, 4.1).

    Of their 34 bytes, 1 + 1 are masks of dropout. Flash attention adds 4 bytes per token and head.
    """
    micro, seq, hidden, heads = 2, 64, 128, 8
    block = gpt(layers=1, hidden=hidden, heads=heads, vocab=96).blocks[0]
    kept = saved_bytes(operators(block, Microbatch(micro=micro, seq=seq)))
    tokens = micro * seq
    assert kept == tokens * (32 * hidden + 4 * heads + 2 * 2 * 4)


@pytest.mark.parametrize(
    ("model", "shard", "seqs", "grown_gib"),
    [
        ("70B", {"tp": 2, "sp": True, "cp": 4}, (32768, 131072), 112.67 - 68.43),
        ("70B", {"cp": 8}, (32768, 131072), 147.99 - 104.51),
        ("70B", {"tp": 2, "sp": True}, (4096, 32768), 68.43 - 60.68),
        ("405B", {"tp": 2, "sp": True, "cp": 4}, (32768, 131072), 118.13 - 87.03),
        ("405B", {"tp": 2, "sp": True}, (4096, 32768), 87.03 - 81.59),
    ],
)
def test_activations_grow_with_the_sequence_as_on_machines(
    model: str, shard: dict[str, Any], seqs: tuple[int, int], grown_gib: float
) -> None:
    """Peaks of Megatron on 8 B200, one micro-batch, in GiB: github.com/MooreThreads/SimuMax docs/b200, cut to 12 and 4
    layers. What is not kept but only passes through (logits, gradients of activations) grows too, so a little less.
    """
    sizes: dict[str, Any] = {"vocab": 128256, "gated": True}
    wide = {"layers": 4, "hidden": 16384, "heads": 128, "kv_heads": 16, "ffn": 53248}
    small = {"layers": 12, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672}
    made = gpt(**sizes, **(small if model == "70B" else wide))
    kept = []
    for seq in seqs:
        cp = 4 if seq == 32768 and "cp" not in shard else shard.get("cp", 1)
        split = Shard(**{**shard, "cp": cp, "cp_turned": cp})
        kept.append(saved_bytes(whole(made, FUSED, micro=1, seq=seq, width_bytes=2, shard=split)))
    assert 0.84 * grown_gib <= (kept[1] - kept[0]) / 2**30 <= grown_gib


def test_fused_kernels_move_and_launch_less_but_compute_the_same() -> None:
    model = made("llama")
    plain, fused = whole(model, PLAIN, width_bytes=2), whole(model, FUSED, width_bytes=2)
    assert flops(plain) == flops(fused)
    for fact in ("moved_bytes", "launches"):
        assert sum(getattr(op, fact) for op in fused) < sum(getattr(op, fact) for op in plain)
    assert saved_bytes(fused) < saved_bytes(plain)


def test_parameters_are_read_once_a_pass() -> None:
    """Weights of products and embedding are all parameters but norms and biases."""
    model = made("llama")
    forward = [op for op in whole(model, FUSED, width_bytes=2) if op.phase == "F"]
    products = sum(op.weight_bytes for op in forward) / 2
    others = sum(norm.parameters for block in model.blocks for norm in block.norms) + model.norm.parameters
    biases = sum(m.outputs for b in model.blocks for m in (*b.attention.inward, b.attention.outward) if m.bias)
    biases += sum(m.outputs for b in model.blocks for m in (*b.mlp.inward, b.mlp.outward) if m.bias)
    assert products == model.parameters - others - biases - model.embedding.parameters


def test_an_indexer_scores_compressed_keys_where_there_are_such() -> None:
    for case, keys in (("deepseek_v32", SEQ), ("deepseek_v4", SEQ / 4)):
        found = [op for op in whole(made(case), FUSED) if op.name.endswith("indexer.scores")]
        assert {(op.m, op.n) for op in found} == {(SEQ, keys)}
        assert {op.writes_bytes for op in found} == {4 * MICRO * SEQ * keys}


def test_a_multi_token_head_is_a_block_and_a_pass_through_the_head() -> None:
    config = {**CASES["deepseek_v3"][1], "num_nextn_predict_layers": 2, "model_type": "deepseek_v3"}
    model = architecture_from_config("mtp", config, "config.json")
    assert len(model.predictors) == 2
    assert model.parameters == made("deepseek_v3").parameters
    per_head = model.blocks[-1].parameters + 2 * 64 * 64 + 3 * 64
    assert [each.parameters for each in model.predictors] == [per_head] * 2
    once = flops(operators(model.blocks[-1], SMALL)) + flops(head_operators(model, SMALL))
    project = 3 * 2 * MICRO * SEQ * 2 * 64 * 64
    assert flops(predictor_operators(model, SMALL)) == 2 * (once + project)


def test_every_head_keeps_logits_of_its_own() -> None:
    config = {**CASES["deepseek_v3"][1], "num_nextn_predict_layers": 2, "model_type": "deepseek_v3"}
    made = whole(architecture_from_config("mtp", config, "config.json"), FUSED)
    logits = [name for name in kept(made) if name.endswith("logits.y")]
    assert logits == ["predictor0.head.logits.y", "predictor1.head.logits.y", "head.logits.y"]
    ends = ("head.loss", "predictor1.head.loss", "predictor1.join", "predictor0.head.loss", "predictor0.join")
    assert tuple(op.name for op in made if op.phase == "I" and op.name in ends) == ends


@pytest.mark.parametrize("case", ["llama", "qwen3_next", "deepseek_v32", "mixtral"])
def test_products_of_tokens_that_are_gathered_first_read_them_all(case: str) -> None:
    """Sequence parallelism gives a rank a part of the tokens; what is split by columns reads those of all ranks."""
    for block in made(case).kinds():
        one, part = (
            {
                op.name: op
                for op in operators(block, replace(SMALL, shard=each))
                if (op.kind, op.phase) == ("matmul", "F")
            }
            for each in (Shard(tp=2), Shard(tp=2, sp=True))
        )
        for name, op in part.items():
            if op.m == one[name].m:
                assert op.reads_bytes == one[name].reads_bytes, name


@pytest.mark.parametrize(("heads", "odd"), [(15, False), (16, True)])
def test_odd_heads_keep_products_of_attention_off_the_matrix_units(heads, odd):
    """Heads of 64 and of 60 elements; one kernel for all of attention fills up what is missing."""
    a100 = device("a100-80gb-sxm")

    def core_s(kernels):
        block = gpt(layers=1, hidden=960, heads=heads, vocab=96).blocks[0]
        made = operators(block, Microbatch(micro=4, seq=2048, kernels=kernels))
        rows = rows_of([op for op in made if op.kind == "attention"])
        return float(timed(rows, a100, "fp16", "fp16").seconds.sum())

    assert (core_s(replace(FUSED, attention=False)) > 8 * core_s(FUSED)) == odd


def test_what_is_made_again_ends_where_gradients_have_all_that_they_need() -> None:
    ops = operators(gpt(layers=1, hidden=64, heads=4, vocab=64, gated=True).blocks[0], SMALL)

    def again(policy: Any, early: bool) -> set[str]:
        return {op.name for op, runs in zip(ops, rerun(ops, policy, early), strict=True) if runs}

    assert again("full", False) - again("full", True) == {"mlp.down", "mlp.add"}
    assert again("selective", False) - again("selective", True) == {"mlp.add"}
    assert again(("mlp",), False) - again(("mlp",), True) == {"mlp.down", "mlp.add"}
    assert again(("attention.core",), True) == {"attention.core"}


@pytest.mark.parametrize("reentrant", [False, True])
def test_pytorch_ends_where_gradients_have_all_that_they_need(reentrant: bool) -> None:
    """A checkpoint that is not entered again (``Stack.stops_early``) leaves out the last product."""
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.checkpoint import checkpoint

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += "mm" in str(func)
            return func(*args, **(kwargs or {}))

    block = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 8))
    x = torch.randn(4, 8, requires_grad=True)
    with Products() as seen:
        (x + checkpoint(block, x, use_reentrant=reentrant)).sum().backward()
    assert seen.count == 2 + 4 + (2 if reentrant else 1)  # forward, gradients, again
