"""Head and embedding split over ranks give the gradients and losses of a whole model."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from pipes import executor_of
from ranks import on_ranks
from test_gradients import CONFIGS, EXACT, MICRO, MICROS, SEQ, Grads, differ, gather, grads_of, run_once
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from penstock.core.plan import Plan
from penstock.engine import check
from penstock.lower import add_sends, add_step, split_vocabulary
from penstock.runtime.decoder import DecoderStage
from penstock.runtime.execute import Boundary, Executor
from penstock.runtime.part import Part, rows_of
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Links
from penstock.runtime.vocabulary import SplitEnds
from penstock.schedules import SCHEDULES, build

SMALL = {key: CONFIGS["llama"][key] for key in CONFIGS["llama"] if key not in ("model_type", "tie_word_embeddings")}
MODELS: dict[str, dict[str, Any]] = {
    "llama": CONFIGS["llama"],
    "llama-tied": {**CONFIGS["llama"], "tie_word_embeddings": True, "pad_token_id": 3},
    "mistral": {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": 3, **SMALL},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, **SMALL},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False, "head_dim": 4, **SMALL},
    "gpt2": {**CONFIGS["gpt2"], "tie_word_embeddings": False},
    "gpt2-tied": CONFIGS["gpt2"],
}
"""Of 17 tokens, which neither 2 nor 4 ranks divide."""


def plan_of(name: str, ranks: int, algorithm: int) -> Plan:
    bare = build(name, ranks, MICROS, 2 if SCHEDULES[name].chunks else 1)
    split = split_vocabulary(bare, algorithm)  # type: ignore[arg-type]
    plan = add_sends(split) if ranks > 1 else split
    check(plan)
    return plan


class ExactNorm(nn.Module):
    """RMSNorm in the type of its input. transformers' own rounds to float32, which makes 1e-7 of a last bit."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def exact(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.__class__ = ExactNorm
    return model


@functools.cache
def whole(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """transformers' own model in float64, and one batch for it; some targets do not count."""
    facts = copy.deepcopy(MODELS[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = AutoConfig.for_model(facts.pop("model_type"), **facts)
        model = exact(AutoModelForCausalLM.from_config(config, dtype=torch.float64))
        for param in model.parameters():
            nn.init.normal_(param, std=0.3)
        ids = torch.randint(0, 17, (MICROS * MICRO, SEQ + 1))
    targets = ids[:, 1:].contiguous()
    targets[:, 2] = -100
    targets[::4, 0] = -100
    return model, ids[:, :-1].contiguous(), targets


@functools.cache
def reference(kind: str) -> tuple[float, Grads]:
    """Mean over micro-batches of their losses, and its gradients."""
    model, ids, targets = whole(kind)
    model.zero_grad()
    pairs = zip(ids.chunk(MICROS), targets.chunk(MICROS), strict=True)
    losses = [nn.functional.cross_entropy(model(input_ids=x).logits.flatten(0, 1), t.flatten()) for x, t in pairs]
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {name: param.grad.clone() for name, param in model.named_parameters()}


def split_rank(plan: Plan, rank: int, kind: str, steps: int = 1) -> tuple[float, Grads, dict[str, tuple[int, int]]]:
    """Loss, gradients and held rows of one rank."""
    model, ids, targets = whole(kind)
    placement = plan.placement
    cut, last, ranks = 8 // placement.stages, placement.stages - 1, placement.ranks
    rows = {placement.on(rank)[0]: rows_of(rank, ranks, 17)}
    modules: dict[int, Any] = {}
    for s in placement.on(rank):
        layers = range(s * cut, (s + 1) * cut)
        modules[s] = DecoderStage(
            model.config, layers, s == 0, s == last, dtype=torch.float64, whole_ends=False, rows=rows.get(s)
        )
        load(exact(modules[s]), model, rows.get(s))
    shape = (MICRO, SEQ, 8)
    boundary = Boundary(shape, torch.float64, torch.device("cpu"))
    own = SplitEnds.of(modules, rows, 1 / MICROS, 17, boundary.device)
    stages = {s: Stage(m, False, False, shape, 1 / MICROS) for s, m in modules.items()}
    links = Links(plan, rank) if ranks > 1 else None
    executor = Executor(plan, rank, stages, links, boundary, None, own.vocabulary(plan, rank, boundary))
    for _ in range(steps):
        loss = run_once(executor, list(ids.chunk(MICROS)), list(targets.chunk(MICROS)))
    return loss, grads_of(modules), own.held


def load(module: nn.Module, model: nn.Module, rows: range | None) -> None:
    state = model.state_dict()
    for name, param in module.named_parameters():
        value = state[name]
        with torch.no_grad():
            param.copy_(value if value.shape == param.shape or rows is None else value[rows.start : rows.stop])


def joined(parts: list[tuple[float, Grads, dict[str, tuple[int, int]]]]) -> tuple[float, Grads]:
    """Loss and gradients of all ranks, rows put together in their order."""
    loss, grads = gather([(loss, {n: g for n, g in mine.items() if n not in held}) for loss, mine, held in parts])
    for name in parts[0][2]:
        assert [held[name][0] for _, _, held in parts] == sorted(held[name][0] for _, _, held in parts)
        grads[name] = torch.cat([mine[name] for _, mine, _ in parts])
    return loss, grads


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2-tied"])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved", "zb-v"])
def test_gradients(name: str, kind: str, algorithm: int, ranks: int) -> None:
    plan = plan_of(name, ranks, algorithm)
    loss, grads = joined(on_ranks(ranks, lambda rank: split_rank(plan, rank, kind)))
    expected_loss, expected = reference(kind)
    assert abs(loss - expected_loss) < EXACT * expected_loss
    assert differ(grads, expected) < EXACT
