"""Slices of sequences on real ranks: gradients, boundary tensors and losses are those of whole sequences."""

import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from pipes import executor_of
from typing import Any

import pytest
import torch
from ranks import on_ranks
from runs import losses, plan_for, prepared, spec_in
from test_gradients import EXACT, Grads, gradients_of, loss_of, made
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from penstock.core.costs import Costs
from penstock.core.model import Model
from penstock.core.op import COMPUTE
from penstock.core.plan import Plan
from penstock.core.slicing import equal_time, rounded
from penstock.engine import check, simulate
from penstock.lower import add_sends
from penstock.runtime.decoder import DecoderStage
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.progress import Progress
from penstock.runtime.run import plan_of as plan_of_spec
from penstock.runtime.slices import KeysAndValues
from penstock.runtime.train import Trainer
from penstock.schedules import SCHEDULES, build

MICROS, SLICES, SEQ, MICRO, LAYERS = 4, 3, 12, 2, 4
NAMES = ["seq1f1b", "seq1f1b-i", "seq1f1b-zb"]
LLAMA = {
    "vocab_size": 17,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 5},
    "qwen2": {**LLAMA, "num_key_value_heads": 2},
    "qwen3": {**LLAMA, "head_dim": 4},
    "gpt2": {"vocab_size": 17, "n_embd": 8, "n_layer": LAYERS, "n_head": 2, "n_positions": 16}
    | dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
    | {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None},
}


@functools.cache
def whole(family: str) -> tuple[nn.Module, Tensor, Tensor]:
    return made({"model_type": family, **CONFIGS[family]}, MICROS * MICRO, SEQ)


@functools.cache
def reference(family: str) -> tuple[float, Grads]:
    """Loss and gradients of the whole batch at once, on one device."""
    return gradients_of(whole(family)[0], loss_of(*whole(family)))


def _norm_in_own_type(self: nn.Module, x: Tensor) -> Tensor:
    eps: float = self.variance_epsilon
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm in float64 on both sides. Its usual rounding to float32 makes 1e-7 of differences of 1e-16, and attention
    over slices sums in another order."""
    as_float = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else as_float(x))
    for norm in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
        monkeypatch.setattr(norm, "forward", _norm_in_own_type)


def sliced(rows: Tensor, lengths: tuple[int, ...]) -> list[Tensor]:
    return [part for each in rows.chunk(MICROS) for part in each.split(lengths or SEQ // SLICES, 1)]


def plan_of(name: str, ranks: int, **options: int) -> Plan:
    chunks = min(2, LAYERS // ranks) if SCHEDULES[name].chunks else 1
    bare = build(name, ranks, MICROS, chunks, slices=SLICES, **options)
    plan = add_sends(bare) if ranks > 1 else bare
    check(plan)
    return plan


def on_rank(plan: Plan, rank: int, family: str) -> tuple[float, Grads, int]:
    """Loss, gradients and most boundary tensors of one rank."""
    model, ids, targets = whole(family)
    stages = plan.placement.stages
    cut, modules = LAYERS // stages, {}
    for s in plan.placement.on(rank):
        layers = range(s * cut, (s + 1) * cut)
        modules[s] = DecoderStage(
            model.config,
            layers,
            s == 0,
            s == stages - 1,
            dtype=torch.float64,
            slices=plan.slices,
            lengths=plan.slice_lengths,
        )
        modules[s].load_state_dict({name: model.state_dict()[name] for name in modules[s].state_dict()})
    executor = executor_of(plan, rank, modules, (MICRO, SEQ // SLICES, 8))
    executor.run(*(sliced(rows, plan.slice_lengths) for rows in (ids, targets)))
    loss = sum(loss.item() for loss in executor.take_losses()) / plan.micros
    assert not any(module.past._open for module in modules.values())
    grads: Grads = {}
    for module in modules.values():
        for name, param in module.named_parameters():
            grads[name] = grads[name] + param.grad if name in grads else param.grad
    return loss, grads, executor.peak_buffers


def compare(parts: list[tuple[float, Grads, int]], family: str) -> None:
    expected_loss, expected = reference(family)
    total: Grads = {}
    for _, grads, _ in parts:
        for name, grad in grads.items():
            total[name] = total[name] + grad if name in total else grad
    assert abs(sum(loss for loss, *_ in parts) - expected_loss) < EXACT * expected_loss
    assert total.keys() == expected.keys()
    assert max(((total[n] - g).abs().max() / g.abs().max()).item() for n, g in expected.items()) < EXACT


def taking_turns(families: Iterable[str], *ranks: int) -> list[Any]:
    """On two ranks each family with one of the schedules; the slow suite has them all on any number of ranks."""
    turns = [(family, name, at % len(NAMES) == turn) for at, family in enumerate(families)
             for turn, name in enumerate(NAMES)]  # fmt: skip
    return [
        pytest.param(family, name, count, marks=() if mine and count == 2 else pytest.mark.slow)
        for family, name, mine in turns
        for count in ranks
    ]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("family", "name", "ranks"), taking_turns(CONFIGS, 1, 2, 4))
def test_gradients_and_loss_are_those_of_one_device(family: str, name: str, ranks: int) -> None:
    plan = plan_of(name, ranks)
    parts = [on_rank(plan, 0, family)] if ranks == 1 else on_ranks(ranks, lambda rank: on_rank(plan, rank, family))
    compare(parts, family)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("family", "name", "ranks"), taking_turns(["llama", "mistral", "gpt2"], 1, 2))
def test_slices_of_unequal_length_change_nothing(family: str, name: str, ranks: int) -> None:
    plan = replace(plan_of(name, ranks), slice_lengths=(7, 3, 2))
    parts = [on_rank(plan, 0, family)] if ranks == 1 else on_ranks(ranks, lambda rank: on_rank(plan, rank, family))
    compare(parts, family)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_boundary_tensors_are_as_many_as_simulated(name: str, ranks: int) -> None:
    plan = plan_of(name, ranks)
    parts = on_ranks(ranks, lambda rank: on_rank(plan, rank, "llama"))
    timeline = simulate(plan, Costs.uniform(plan.placement, rank_bytes=0.0, boundary_bytes=1.0))
    assert [peak for *_, peak in parts] == timeline.peak_bytes.tolist()


def test_keys_and_values_of_a_sequence_are_freed_with_its_first_slice_s_backward() -> None:
    past = KeysAndValues(2)
    own = [torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    seen = []
    for micro in (0, 1):
        past.begin(micro, 3)
        seen.append(past.update(own[micro], own[micro].detach(), 0)[0])
    assert torch.equal(seen[1], torch.cat(own, 2))
    assert seen[0].untyped_storage().data_ptr() == seen[1].untyped_storage().data_ptr()
    assert not past._open
    (seen[1] * torch.arange(6.0)[:, None]).sum().backward()
    assert own[0].grad is None
    seen[0].sum().backward()
    assert own[1].grad[0, 0, :, 0].tolist() == [3, 4, 5]
    assert own[0].grad[0, 0, :, 0].tolist() == [1, 2, 3]


WHAT = {"steps": 20, "warmup_steps": 5, "checkpoint_every": 0, "held_out_sequences": 16}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_twenty_steps_have_the_losses_of_whole_sequences(kind: str, tmp_path: Path) -> None:
    found = {}
    config = {} if kind == "llama" else {"model_type": "gpt2", **CONFIGS["gpt2"], "vocab_size": 256}
    for schedule, options in (("1f1b", {}), ("seq1f1b", {"slices": 4}), ("seq1f1b-zb", {"slices": 4})):
        (tmp_path / schedule).mkdir()
        folder, spec = prepared(tmp_path / schedule, config, schedule=schedule, **options, **WHAT)
        lengths = (3, 2, 2, 1) if schedule == "seq1f1b-zb" else ()
        plan = replace(plan_for(spec), slice_lengths=lengths)

        def work(rank: int, spec=spec, plan=plan, folder=folder) -> float:
            trainer = Trainer(spec, plan, rank, folder, torch.device("cpu"))
            metrics = MetricsFile(folder / "metrics.jsonl", after=0) if rank == 0 else None
            return trainer.train(metrics, Progress(20, shown=False)).held_out

        found[schedule] = [*losses_of(on_ranks(2, work), folder)]
    assert max(max(each) - min(each) for each in zip(*found.values(), strict=True)) < 1e-5
    assert found["1f1b"][19] < found["1f1b"][0] - 0.1


def losses_of(held_out: list[float], folder: Path) -> list[float]:
    return [*losses(folder).values(), *held_out]


def test_slices_that_do_not_divide_the_sequence_are_refused_with_the_nearest(tmp_path: Path) -> None:
    says = r"slices=3 does not divide seq_length=8; use 1, 2, 4, 8 slices, or seq_length=9$"
    with pytest.raises(ValueError, match=says):
        plan_of_spec(spec_in(tmp_path, schedule="seq1f1b", slices=3))


def test_slices_by_time_are_cut_for_the_model(tmp_path: Path) -> None:
    flags = {"schedule": "seq1f1b", "slices": 4, "slice_by": "time", "seq_length": 256}
    spec = replace(spec_in(tmp_path, **flags), model="tiny-llama")
    share = Model.read("tiny-llama").attention_share(256)
    assert 0.1 < share < 0.5
    assert plan_of_spec(spec).slice_lengths == rounded(equal_time(4, share), 256)
    assert sum(plan_of_spec(spec).slice_lengths) == 256


def test_slices_by_time_need_slices_and_whole_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slice_by=time, but '1f1b' does not slice sequences"):
        plan_of_spec(spec_in(tmp_path, slice_by="time"))
    flags = {"schedule": "seq1f1b", "slice_by": "time"}
    with pytest.raises(ValueError, match="9 slices of 8 tokens: slice 6 would be empty"):
        plan_of_spec(spec_in(tmp_path, slices=9, **flags))
    with pytest.raises(ValueError, match="slices of unequal length, which vocabulary passes do not take yet"):
        plan_of_spec(spec_in(tmp_path, slices=2, vocabulary=2, **flags))


def test_a_schedule_without_slices_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1f1b has no option 'slices'"):
        plan_of_spec(spec_in(tmp_path, slices=2))


def test_a_run_s_plan_has_the_slices_asked_for(tmp_path: Path) -> None:
    plan = plan_of_spec(spec_in(tmp_path, schedule="seq1f1b", slices=2))
    assert (plan.slices, plan.micros) == (2, 8)
    assert [str(op) for op in plan.lanes[1] if op.kind in COMPUTE][:3] == ["1F0", "1F1", "1B1"]
