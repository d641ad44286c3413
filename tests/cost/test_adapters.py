"""Adapters beside frozen matrices: shapes, FLOPs and bytes, some beside PyTorch's own count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.core.config import gpt
from penstock.cost.kept import kept, rerun
from penstock.cost.model_operators import operators
from penstock.cost.operators import Microbatch, Operator, Shard, adapted, flops

TOKENS, HIDDEN, FFN, RANK = 64, 32, 48, 4
MODEL = gpt(layers=1, hidden=HIDDEN, heads=4, vocab=64, ffn=FFN, gated=True)
PLAIN = Microbatch(micro=1, seq=TOKENS, width_bytes=4)
LORA = replace(PLAIN, frozen=True, adapter=RANK)


def made(batch: Microbatch) -> tuple[Operator, ...]:
    return operators(MODEL.blocks[0], batch)


def of(name: str, phase: str, batch: Microbatch = LORA) -> Operator:
    (found,) = [op for op in made(batch) if (op.name, op.phase) == (name, phase)]
    return found


def test_frozen_matrices_have_no_gradients_and_adapters_have() -> None:
    trained = {op.name for op in made(LORA) if op.phase == "W"}
    matrices = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")
    assert trained == {f"{name}.adapter.{half}" for name in matrices for half in ("down", "up")}
    assert {op.name for op in made(LORA) if op.phase == "I"} >= set(matrices)


def test_shapes_of_an_adapter() -> None:
    down, up = of("mlp.down.adapter.down", "F"), of("mlp.down.adapter.up", "F")
    assert (down.m, down.n, down.k) == (TOKENS, RANK, FFN)
    assert (up.m, up.n, up.k) == (TOKENS, HIDDEN, RANK)
    weight = of("mlp.down.adapter.down", "W")
    assert (weight.m, weight.n, weight.k) == (FFN, RANK, TOKENS)
    assert of("mlp.down.adapter.add", "F").moved_bytes == 5 * TOKENS * HIDDEN * 4


def test_adapters_on_some_matrices_keep_less() -> None:
    some = replace(LORA, adapter_on=("attention.qkv",))
    assert {op.name for op in made(some) if op.phase == "W"} == {
        "attention.qkv.adapter.down", "attention.qkv.adapter.up",
    }  # fmt: skip
    gone = kept(made(LORA)).keys() - kept(made(some)).keys()
    assert gone == {
        "mlp_norm.y", "mlp.product", *(f"{name}.adapter.y" for name in ("attention.out", "mlp.gate_up", "mlp.down"))
    }  # fmt: skip
    assert not adapted("experts.router", ())


def test_matrices_of_4_bits_are_made_wide_in_each_direction_and_not_by_selective_recompute() -> None:
    some = replace(LORA, frozen_bytes=0.5)
    for phase in ("F", "I"):
        assert of("mlp.down.widening", phase, some).moved_bytes == HIDDEN * FFN * (0.5 + 4)
    again = {op.name for op, runs in zip(made(some), rerun(made(some), "selective"), strict=True) if runs}
    assert "mlp_norm" in again
    assert not any(name.endswith(".widening") for name in again)
    assert "mlp.down.widening" in {
        op.name for op, runs in zip(made(some), rerun(made(some), "full"), strict=True) if runs
    }


def test_with_split_tokens_adapters_keep_the_gathered_input() -> None:
    split = replace(LORA, shard=Shard(tp=2, sp=True))
    stays = kept(operators(MODEL.blocks[0], split))
    assert stays["attention_norm.y.gathered"] == TOKENS * HIDDEN * 4
    assert "mlp.product.gathered" not in stays


def test_flops_are_those_that_pytorch_counts() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn(TOKENS, FFN, requires_grad=True)
    frozen = torch.randn(HIDDEN, FFN)
    narrow, wide = (torch.randn(*shape, requires_grad=True) for shape in ((RANK, FFN), (HIDDEN, RANK)))
    with FlopCounterMode(display=False) as counter:
        y = x @ frozen.T + 0.5 * ((x @ narrow.T) @ wide.T)
        y.sum().backward()
    ours = [op for op in made(LORA) if op.name.startswith("mlp.down")]
    assert flops(ours) == counter.get_total_flops()
