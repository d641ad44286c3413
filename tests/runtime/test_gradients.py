"""Gradients of every schedule on real processes equal those of one process that knows nothing of pipelines."""

import copy
import functools
from collections.abc import Iterable, Sequence
from pipes import FEW_FIRST, PLANS, ROWS, WAYS, WIDTH, blocks, blocks_on, executor_of, plan_of, rows
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from penstock.core.op import Kind, Sends
from penstock.core.plan import Plan
from penstock.runtime.decoder import DecoderStage
from penstock.runtime.execute import Executor

MICROS, SEQ, MICRO = 8, 5, 2
EXACT = 1e-12
Grads = dict[str, Tensor]

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "vocab_size": 17,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 17,
        "n_embd": 8,
        "n_layer": 8,
        "n_head": 2,
        "n_positions": 8,
        "tie_word_embeddings": True,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}


def differ(mine: Grads, reference: Grads) -> float:
    """Largest difference over the largest gradient of each parameter; the worst parameter."""
    assert mine.keys() == reference.keys()
    return max(((mine[n] - g).abs().max() / g.abs().max()).item() for n, g in reference.items())


Found = tuple[float, dict[int, Grads]]
"""Loss of a rank, gradients of its stages."""


def gather(plan: Plan, parts: Sequence[Found], prefix: str = "") -> tuple[float, Grads]:
    """Loss and gradients of all ranks together. Replicas are equal to the last bit and count once; a weight held at
    both ends is summed, as the optimizer does it."""
    of_part: dict[int, Grads] = {}
    for _, stages in parts:
        for stage, grads in stages.items():
            part = plan.placement.part_of[stage]
            same = of_part.setdefault(part, grads)
            assert all(torch.equal(same[name], grad) for name, grad in grads.items()), f"stage {stage}"
    named = [{prefix.format(part) + name: g for name, g in grads.items()} for part, grads in of_part.items()]
    return sum(loss for loss, _ in parts), summed(named)


def summed(each: Iterable[Grads]) -> Grads:
    total: Grads = {}
    for grads in each:
        for name, grad in grads.items():
            total[name] = total[name] + grad if name in total else grad
    return total


def grads_of(modules: dict[int, nn.Module]) -> dict[int, Grads]:
    found: dict[int, Grads] = {}
    for stage, module in modules.items():
        params = dict(module.named_parameters())
        assert all(param.grad is not None for param in params.values())
        found[stage] = {name: param.grad.clone() for name, param in params.items()}
    return found


def run_once(executor: Executor, inputs: list[Tensor], targets: list[Tensor]) -> float:
    executor.run(inputs, targets)
    losses = executor.take_losses()
    return sum(loss.item() for loss in losses) / executor.plan.micros


# -- decoders ------------------------------------------------------------------------------------------------------


def made(config: dict[str, Any], sequences: int, seq: int) -> tuple[nn.Module, Tensor, Tensor]:
    """transformers' own model in float64, and one batch for it."""
    facts = copy.deepcopy(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(facts.pop("model_type"), **facts), dtype=torch.float64
        )
        for param in model.parameters():  # biases start at zero, which would hide mistakes
            nn.init.normal_(param, std=0.3)
        ids = torch.randint(0, 17, (sequences, seq + 1))
    return model, ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def loss_of(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), targets.flatten())


def gradients_of(model: nn.Module, loss: Tensor) -> tuple[float, Grads]:
    """A loss, and its gradients by the names of parameters."""
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: param.grad.clone() for name, param in model.named_parameters()}


@functools.cache
def whole(family: str) -> tuple[nn.Module, Tensor, Tensor]:
    return made(CONFIGS[family], MICROS * MICRO, SEQ)


@functools.cache
def reference(family: str) -> tuple[float, Grads]:
    """Loss and gradients of the whole batch at once."""
    return gradients_of(whole(family)[0], loss_of(*whole(family)))


def decoder_rank(plans: list[Plan], rank: int, family: str) -> list[Found]:
    """Loss and gradients of one rank for plans on the same placement, one after the other."""
    model, ids, targets = whole(family)
    placement = plans[0].placement
    parts = len(set(placement.part_of))
    cut = 8 // parts
    modules: dict[int, nn.Module] = {}
    for s in placement.on(rank):
        n = placement.part_of[s]
        layers = range(n * cut, (n + 1) * cut)
        modules[s] = DecoderStage(model.config, layers, n == 0, n == parts - 1, dtype=torch.float64)
        modules[s].load_state_dict({name: model.state_dict()[name] for name in modules[s].state_dict()})
    found = []
    for plan in plans:
        executor = executor_of(plan, rank, modules, (MICRO, SEQ, 8))
        loss = run_once(executor, list(ids.chunk(MICROS)), list(targets.chunk(MICROS)))
        found.append((loss, grads_of(modules)))
        for module in modules.values():
            module.zero_grad()
    return found


def also(*one: object) -> Any:
    return pytest.param(*one, marks=pytest.mark.slow)


@pytest.mark.parametrize(("family", "ranks"), [("llama", 2), also("gpt2", 4), also("llama", 4), also("gpt2", 2)])
@pytest.mark.parametrize("name", FEW_FIRST)
def test_decoders(name: str, family: str, ranks: int) -> None:
    """All kinds of sends, against transformers' model on the whole batch."""
    expected_loss, expected = reference(family)
    plans = [plan_of(name, ranks, MICROS, sends) for sends in WAYS]
    parts = on_ranks(ranks, lambda rank: decoder_rank(plans, rank, family))
    for plan, each in zip(plans, zip(*parts, strict=True), strict=True):
        loss, grads = gather(plan, each)
        assert abs(loss - expected_loss) < EXACT * expected_loss
        assert differ(grads, expected) < EXACT, plan.sends


# -- any module ----------------------------------------------------------------------------------------------------


def plain_reference(count: int) -> tuple[float, Grads]:
    """The same blocks one after the other under plain autograd."""
    modules, (inputs, targets) = blocks(range(count), count), rows(MICROS)
    total = torch.zeros((), dtype=torch.float64)
    for x, target in zip(inputs, targets, strict=True):
        for s in range(count - 1):
            x = modules[s](x)
        total = total + modules[count - 1](x, target) / MICROS
    total.backward()
    of_stages = grads_of(dict(modules))
    return total.item(), {f"{s}.{name}": grad for s, grads in of_stages.items() for name, grad in grads.items()}


def plain_rank(plan: Plan, rank: int, foreign: bool) -> Found:
    modules = blocks_on(plan, rank, foreign=foreign)
    executor = executor_of(plan, rank, modules, (ROWS, WIDTH))
    unsplit = {s: len(stage.unsplit) for s, stage in executor.stages.items()}
    assert unsplit == dict.fromkeys(modules, 6 if foreign else 0)
    loss = run_once(executor, *rows(MICROS))
    return loss, grads_of(modules)


@pytest.mark.parametrize(
    ("name", "ways", "foreign", "ranks"),
    [
        *((name, [WAYS[place % len(WAYS)]], True, 2) for place, name in enumerate(PLANS)),
        *(also(name, WAYS, foreign, ranks) for name in PLANS for foreign in (True, False) for ranks in (2, 4)),
    ],
)
def test_plain_modules(name: str, ways: Sequence[Sends], foreign: bool, ranks: int) -> None:
    """A stage takes any module, also one whose layers cannot be split."""
    plans = [plan_of(name, ranks, MICROS, sends) for sends in ways]
    parts = on_ranks(ranks, lambda rank: [plain_rank(plan, rank, foreign) for plan in plans])
    expected_loss, expected = plain_reference(len(set(plans[0].placement.part_of)))
    for plan, each in zip(plans, zip(*parts, strict=True), strict=True):
        loss, grads = gather(plan, each, "{}.")
        assert abs(loss - expected_loss) < EXACT * expected_loss
        assert differ(grads, expected) < EXACT, plan.sends


@pytest.mark.parametrize("name", ["1f1b", "zb-h1"])
def test_one_rank_needs_no_messages(name: str) -> None:
    plan = plan_of(name, 1, MICROS)
    modules: dict[int, nn.Module] = dict(blocks([0], 1))
    loss = run_once(executor_of(plan, 0, modules, (ROWS, WIDTH)), *rows(MICROS))
    expected_loss, expected = plain_reference(1)
    assert abs(loss - expected_loss) < EXACT
    assert differ(gather(plan, [(loss, grads_of(modules))], "{}.")[1], expected) < EXACT


def test_a_second_step_adds_to_the_gradients_of_the_first() -> None:
    """Nothing of a step leaks into the next; gradients accumulate until the optimizer clears them."""
    plan = plan_of("zb-h1", 2, MICROS)

    def work(rank: int) -> Found:
        modules = blocks_on(plan, rank)
        executor = executor_of(plan, rank, modules, (ROWS, WIDTH))
        run_once(executor, *rows(MICROS))
        loss = run_once(executor, *rows(MICROS))
        return loss, grads_of(modules)

    _, twice = gather(plan, on_ranks(2, work), "{}.")
    grads = {name: grad / 2 for name, grad in twice.items()}
    assert differ(grads, plain_reference(2)[1]) < EXACT


def test_plans_of_this_file_split_and_do_not() -> None:
    kinds = {name: {int(k) for k in plan_of(name, 2, MICROS).ops[:, 0]} for name in PLANS}
    assert Kind.W in kinds["zb-h1"]
    assert Kind.W in kinds["eager"]
    assert {Kind.B, Kind.I, Kind.W} <= kinds["vee"]
    assert Kind.W not in kinds["1f1b"]
