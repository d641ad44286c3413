"""Stages of a decoder, chained by hand, against transformers' own causal model with the same weights."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from penstock.runtime.decoder import FAMILIES, DecoderStage, load_config
from penstock.runtime.split import backward, run_pending

NAMES = [f"tiny-{kind}" for kind in FAMILIES]
CUTS = [(0, 8), (0, 3, 8), (0, 2, 5, 8)]


def cut(config: Any, bounds: Sequence[int], seed: int = 0, **kwargs: Any) -> list[DecoderStage]:
    """The stages that hold layers bounds[0]..bounds[1], bounds[1]..bounds[2] and so on."""
    count = len(bounds) - 1
    return [
        DecoderStage(config, range(bounds[i], bounds[i + 1]), i == 0, i == count - 1, seed, **kwargs)
        for i in range(count)
    ]


def whole(config: Any, stages: Sequence[DecoderStage]) -> nn.Module:
    """transformers' own model with the weights of the stages, by their names."""
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="sdpa", dtype=stages[0].dtype)
    state: dict[str, Tensor] = {}
    for stage in stages:
        state |= stage.state_dict()
    model.load_state_dict(state)
    return model


def train(
    stages: Sequence[DecoderStage], ids: Tensor, targets: Tensor, split: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients by name of one micro-batch; copies of a tied parameter are summed, as the trainer does."""
    inputs: list[Tensor] = [ids]
    for stage in stages[:-1]:
        inputs.append(stage(inputs[-1]))
        stage.output, inputs[-1] = inputs[-1], inputs[-1].detach().requires_grad_(inputs[-1].requires_grad)
    output, grad = stages[-1](inputs[-1], targets), None
    loss = output.detach()
    for index in reversed(range(len(stages))):
        stage, output = stages[index], output if index == len(stages) - 1 else stages[index].output
        stage.queue.pending = [] if split else None
        grad = backward(output, grad, inputs[index] if index else None)
    for stage in stages:
        run_pending(stage.queue.pending or [])
    grads: dict[str, Tensor] = {}
    for stage in stages:
        for name, param in stage.named_parameters():
            if param.grad is not None:
                grads[name] = grads[name] + param.grad if name in grads else param.grad
    return loss, grads


def assert_equals_transformers(stages: Sequence[DecoderStage], config: Any, seq: int, split: bool) -> None:
    model = whole(config, stages)
    trained = {name: p.requires_grad for stage in stages for name, p in stage.named_parameters()}
    for name, param in model.named_parameters():
        param.requires_grad_(trained[name])
    torch.manual_seed(1)
    ids, targets = torch.randint(0, config.vocab_size, (2, 2, seq))
    logits = model(ids, use_cache=False).logits
    reference = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    reference.backward()
    x = ids
    with torch.no_grad():
        for stage in stages:
            x = stage(x)
    torch.testing.assert_close(x, logits.detach(), rtol=0, atol=1e-12)
    loss, grads = train(stages, ids, targets, split)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, reference.detach(), rtol=1e-12, atol=0)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("split", [pytest.param(False, marks=pytest.mark.slow), True], ids=["B", "IW"])
@pytest.mark.parametrize("bounds", [*(pytest.param(cut, marks=pytest.mark.slow) for cut in CUTS[:2]), CUTS[2]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_family_and_cut_equals_transformers(name: str, bounds: tuple[int, ...], split: bool) -> None:
    config = load_config(name)
    assert_equals_transformers(cut(config, bounds, dtype=torch.float64), config, 64, split)


@pytest.mark.parametrize("name", NAMES)
def test_tied_and_untied_the_other_way_round(name: str) -> None:
    config = load_config(name)
    config.tie_word_embeddings = not config.tie_word_embeddings
    for bounds in CUTS[:2]:
        assert_equals_transformers(cut(config, bounds, dtype=torch.float64), config, 32, True)


def test_a_sliding_window_shorter_than_the_sequence() -> None:
    config = load_config("tiny-mistral")
    assert config.sliding_window == 128
    stages = cut(config, (0, 3, 8), dtype=torch.float64)
    assert_equals_transformers(stages, config, 200, True)
    ids = torch.randint(0, 256, (1, 200))
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 256
    reach = {}
    for window in (128, None):
        config.sliding_window = window
        layer = cut(config, (0, 1, 8))[0]
        with torch.no_grad():
            reach[window] = (layer(ids) != layer(changed)).any(-1).nonzero()[:, 1].max().item()
    assert reach == {128: 127, None: 199}  # the last position that sees the first token after one layer


def test_layers_of_different_attention_keep_their_kind_in_any_cut() -> None:
    """Qwen2 with full attention in layers 0 to 4 and a window of 16 in layers 5 to 7."""
    data = {**json.loads(json.dumps(load_config("tiny-qwen2").to_dict())), "use_sliding_window": True}
    kinds = ["full_attention"] * 5 + ["sliding_attention"] * 3
    config = type(load_config("tiny-qwen2"))(
        **data | {"sliding_window": 16, "max_window_layers": 5, "layer_types": kinds}
    )
    for bounds in [(0, 8), (0, 6, 8), (0, 2, 5, 8)]:
        assert_equals_transformers(cut(config, bounds, dtype=torch.float64), config, 48, True)


def test_scaled_rotary_embedding() -> None:
    config = load_config("tiny-llama")
    config.rope_parameters = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    assert_equals_transformers(cut(config, (0, 5, 8), dtype=torch.float64), config, 128, True)


@pytest.mark.parametrize("name", NAMES)
def test_each_stage_holds_only_its_own_parameters(name: str) -> None:
    config = load_config(name)
    stages, (one,) = cut(config, (0, 2, 5, 8)), cut(config, (0, 8))
    family, tie = FAMILIES[config.model_type], config.tie_word_embeddings
    embed = f"{family.base}.{family.embed}.weight"
    model = whole(config, [one])
    names = [[n for n, _ in stage.named_parameters()] for stage in stages]
    assert [n for n, _ in one.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert sorted(n for held in names for n in held) == sorted([n for n, _ in model.named_parameters()] + [embed] * tie)
    for stage, layers in zip(stages, [range(2), range(2, 5), range(5, 8)], strict=True):
        prefix = f"{family.base}.{family.layers}."
        held = {int(n.removeprefix(prefix).split(".")[0]) for n, _ in stage.named_parameters() if n.startswith(prefix)}
        assert held == set(layers)
        assert all(p.device.type == "cpu" for p in stage.parameters())
        assert stage.unsplit == []
    total = sum(p.numel() for stage in stages for p in stage.parameters())
    assert total == sum(p.numel() for p in model.parameters()) + tie * model.get_parameter(embed).numel()
    assert [list(stage.tied) for stage in stages] == ([["embedding"], [], ["embedding"]] if tie else [[], [], []])
    assert one.tied == {}
    assert 2e6 < sum(p.numel() for p in one.parameters()) < 3e6


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_do_not_depend_on_the_cut(name: str) -> None:
    config = load_config(name)
    before = torch.random.get_rng_state()
    (one,) = cut(config, (0, 8), seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = dict(one.named_parameters())
    for bounds in [(0, 3, 8), (0, 0, 2, 4, 8, 8)]:
        stages = cut(config, bounds, seed=3)
        for stage in stages:
            for key, param in stage.named_parameters():
                assert torch.equal(param, expected[key]), key
        assert all(torch.equal(s.tied["embedding"], stages[0].tied["embedding"]) for s in stages if s.tied)
    other = dict(cut(config, (0, 8), seed=4)[0].named_parameters())
    same = [key for key, param in other.items() if torch.equal(param, expected[key])]
    assert all("norm" in key or "ln_" in key or "bias" in key for key in same)
    bf16 = dict(cut(config, (0, 8), seed=3, dtype=torch.bfloat16)[0].named_parameters())
    assert all(torch.equal(param, expected[key].bfloat16()) for key, param in bf16.items())


def test_initial_values_follow_hugging_face() -> None:
    """GPT-2 divides the spread of what writes into the residual by sqrt(2 * layers)."""
    params = dict(cut(load_config("tiny-gpt2"), (0, 8))[0].named_parameters())
    for name, std in [("attn.c_attn", 0.02), ("mlp.c_fc", 0.02), ("attn.c_proj", 0.005), ("mlp.c_proj", 0.005)]:
        weight = params[f"transformer.h.5.{name}.weight"]
        assert abs(weight.std().item() / std - 1) < 0.02
        assert not torch.equal(weight, params[f"transformer.h.6.{name}.weight"])
    assert torch.equal(params["transformer.h.5.ln_1.weight"], torch.ones(192))


@pytest.mark.parametrize(("name", "split"), [("tiny-llama", False), ("tiny-gpt2", True)])
def test_frozen_parameters(name: str, split: bool) -> None:
    """The embedding, the first two layers and one projection of each other layer do not train."""
    config = load_config(name)
    stages = cut(config, (0, 1, 4, 8), dtype=torch.float64)
    for stage in stages:
        for key, param in stage.named_parameters():
            frozen = any(part in key for part in ("embed_tokens", "wte", "wpe", ".0.", ".1.", "v_proj", "c_fc"))
            param.requires_grad_(not frozen)
    assert_equals_transformers(stages, config, 16, split)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_first_stage_i_is_the_whole_chain_and_w_only_the_weights(name: str) -> None:
    """PyTorch's split does nothing in the I of stage 0 and everything in its W; here both are what schedules assume."""
    stage = cut(load_config(name), (0, 2, 8))[0]
    ids = torch.randint(0, 256, (1, 16))
    y = stage(ids)
    stage.queue.pending = pending = []
    assert backward(y, torch.randn_like(y), None) is None
    assert all(p.grad is None for p in stage.parameters())
    own = {id(arg) for _, args in pending for arg in args if isinstance(arg, torch.nn.Parameter)}
    assert own == {id(p) for p in stage.parameters()}
    assert all(t.grad_fn is None for _, args in pending for t in args if isinstance(t, Tensor))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(y, torch.ones_like(y))
    run_pending(pending)
    assert all(p.grad is not None for p in stage.parameters())


def test_low_precision_loss_is_float32_and_ignores_masked_targets() -> None:
    (stage,) = cut(load_config("tiny-qwen3"), (0, 8), dtype=torch.bfloat16)
    ids = torch.randint(0, 256, (2, 16))
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    loss, logits = stage(ids, targets), stage(ids)
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    kept = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets[:, :-1].flatten())
    torch.testing.assert_close(loss, kept)


def test_layer_arguments_are_recorded_once_per_shape() -> None:
    stage = cut(load_config("tiny-mistral"), (0, 2, 8))[0]
    calls = [stage._calls(torch.zeros(shape, dtype=torch.int64), True) for shape in [(1, 8), (1, 8), (2, 8)]]
    assert calls[0] is calls[1] is not calls[2]
    for seq in range(1, 12):
        stage(torch.zeros(1, seq, dtype=torch.int64))
    assert len(stage._calls.cache) == 8


def test_dropout_is_off_and_configs_load_from_files_and_folders(tmp_path: Path) -> None:
    data = {"model_type": "gpt2", "n_layer": 2, "attn_pdrop": 0.3, "embd_pdrop": 0.2, "resid_pdrop": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(data))
    for path in (tmp_path, tmp_path / "config.json", str(tmp_path)):
        config = load_config(path)
        assert (config.n_layer, config.attn_pdrop, config.embd_pdrop, config.resid_pdrop) == (2, 0, 0, 0)


def test_errors_name_the_value_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'tiny-lama'; the nearest are tiny-llama"):
        load_config("tiny-lama")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ValueError, match=r"'mamba' is not supported; supported are gpt2, llama, mistral, qwen2, qwen3"):
        load_config(tmp_path)
    for text, message in [("{", "is not JSON"), ("[]", "holds a list")]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_config(tmp_path / "bad.json")
    config = load_config("tiny-gpt2")
    for layers, message in [(range(2, 9), r"range\(0, 8\)"), (range(0, 8, 2), "consecutive"), (range(1, 4), "first")]:
        with pytest.raises(ValueError, match=message):
            DecoderStage(config, layers, True, False)
    with pytest.raises(ValueError, match="last stage of 8 layers"):
        DecoderStage(config, range(0, 7), True, True)
    first, last = cut(config, (0, 4, 8))
    for stage, x, message in [
        (first, torch.zeros(1, 600, dtype=torch.int64), "use seq <= 512"),
        (first, torch.zeros(1, 8), r"int64 ids \(micro, seq\), not torch.float32 \(1, 8\)"),
        (last, torch.zeros(1, 8, 64), r"hidden state \(micro, seq, 192\), not torch.float32 \(1, 8, 64\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            stage(x)
    with pytest.raises(ValueError, match="targets belong to the last stage"):
        first(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))
