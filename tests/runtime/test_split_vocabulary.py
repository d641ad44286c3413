"""Head and embedding split over ranks give the gradients and losses of a whole model."""

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import on_ranks
from test_gradients import (
    CONFIGS,
    EXACT,
    MICRO,
    MICROS,
    SEQ,
    Grads,
    differ,
    gradients_of,
    grads_of,
    loss_of,
    made,
    run_once,
    summed,
)
from torch import Tensor, nn

from penstock.core.plan import Plan
from penstock.engine import check
from penstock.lower import add_sends, split_vocabulary
from penstock.runtime.decoder import DecoderStage
from penstock.runtime.execute import Executor
from penstock.runtime.messages import Boundary
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


@functools.cache
def whole(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """transformers' own model in float64, and one batch for it; some targets do not count."""
    model, ids, targets = made(MODELS[kind], MICROS * MICRO, SEQ)
    targets[:, 2] = -100
    targets[::4, 0] = -100
    return model, ids, targets


@functools.cache
def reference(kind: str) -> tuple[float, Grads]:
    """Mean over micro-batches of their losses, and its gradients."""
    model, ids, targets = whole(kind)
    pairs = zip(ids.chunk(MICROS), targets.chunk(MICROS), strict=True)
    return gradients_of(model, torch.stack([loss_of(model, *pair) for pair in pairs]).mean())


def split_rank(plan: Plan, rank: int, kind: str, steps: int = 1) -> tuple[float, Grads, dict[str, tuple[int, int]]]:
    """Loss, gradients and held rows of one rank."""
    _, ids, targets = whole(kind)
    executor, modules, held = split_executor(plan, rank, kind)
    for _ in range(steps):
        loss = run_once(executor, list(ids.chunk(MICROS)), list(targets.chunk(MICROS)))
    return loss, summed(grads_of(modules).values()), held


def split_executor(plan: Plan, rank: int, kind: str) -> tuple[Executor, dict[int, Any], dict[str, tuple[int, int]]]:
    """The executor of one rank, its modules and which rows it holds."""
    model, _, _ = whole(kind)
    placement = plan.placement
    cut, last, ranks = 8 // placement.stages, placement.stages - 1, placement.ranks
    rows = {placement.on(rank)[0]: rows_of(rank, ranks, 17)}
    modules: dict[int, Any] = {}
    for s in placement.on(rank):
        layers = range(s * cut, (s + 1) * cut)
        modules[s] = DecoderStage(
            model.config, layers, s == 0, s == last, dtype=torch.float64, whole_ends=False, rows=rows.get(s)
        )
        load(modules[s], model, rows.get(s))
    shape = (MICRO, SEQ, 8)
    boundary = Boundary(shape, torch.float64, torch.device("cpu"))
    own = SplitEnds.of(modules, rows, 1 / MICROS, 17, boundary.device)
    stages = {s: Stage(m, False, False, shape, 1 / MICROS) for s, m in modules.items()}
    links = Links(plan, rank) if ranks > 1 else None
    passes = own.vocabulary(plan, rank, boundary)
    return Executor(plan, rank, stages, links, boundary, None, passes), modules, own.held


def load(module: nn.Module, model: nn.Module, rows: range | None) -> None:
    state = model.state_dict()
    for name, param in module.named_parameters():
        value = state[name]
        with torch.no_grad():
            param.copy_(value if value.shape == param.shape or rows is None else value[rows.start : rows.stop])


def joined(parts: list[tuple[float, Grads, dict[str, tuple[int, int]]]]) -> tuple[float, Grads]:
    """Loss and gradients of all ranks, rows put together in their order."""
    loss = sum(loss for loss, _, _ in parts)
    grads = summed({n: g for n, g in mine.items() if n not in held} for _, mine, held in parts)
    for name in parts[0][2]:
        assert [held[name][0] for _, _, held in parts] == sorted(held[name][0] for _, _, held in parts)
        grads[name] = torch.cat([mine[name] for _, mine, _ in parts])
    return loss, grads


NAMES = ["1f1b", "zb-h1", "interleaved", "zb-v"]
CASES = [
    *((name, "llama", 1 + place % 2, 4 if name == "zb-h1" else 2) for place, name in enumerate(NAMES)),
    *((name, "gpt2-tied", 2 - place % 2, 2) for place, name in enumerate(NAMES)),
    ("1f1b", "qwen3", 2, 2),
    ("zb-h1", "gpt2", 2, 2),
    *(("1f1b", "llama-tied", algorithm, 1) for algorithm in (1, 2)),
]
"""Each schedule with both algorithms, some kinds of model with one of them."""
MORE = [
    (name, kind, algorithm, ranks)
    for name in NAMES
    for kind in ["llama", "llama-tied", "gpt2-tied"]
    for algorithm in (1, 2)
    for ranks in (2, 4)
    if (name, kind, algorithm, ranks) not in CASES
]
MORE += [("1f1b", "mistral", 1, 2), ("1f1b", "mistral", 2, 2), ("1f1b", "qwen3", 1, 2)]
MORE += [
    ("zb-h1", "qwen2", 1, 2),
    *(("zb-h1", kind, algorithm, 4) for kind in ["qwen2", "gpt2"] for algorithm in (1, 2)),
]


@pytest.mark.parametrize(
    ("name", "kind", "algorithm", "ranks"), [*CASES, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE)]
)
def test_gradients(name: str, kind: str, algorithm: int, ranks: int) -> None:
    plan = plan_of(name, ranks, algorithm)
    loss, grads = joined(on_ranks(ranks, lambda rank: split_rank(plan, rank, kind)))
    expected_loss, expected = reference(kind)
    assert abs(loss - expected_loss) < EXACT * expected_loss
    assert differ(grads, expected) < EXACT


def test_a_second_step_adds_to_the_gradients_of_the_first() -> None:
    plan = plan_of("zb-h1", 2, 1)
    _, grads = joined(on_ranks(2, lambda rank: split_rank(plan, rank, "llama-tied", steps=2)))
    assert differ({name: grad / 2 for name, grad in grads.items()}, reference("llama-tied")[1]) < EXACT


@pytest.mark.parametrize("algorithm", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("1f1b", marks=pytest.mark.slow), "zb-v"])
def test_no_more_tensors_are_alive_the_more_micro_batches_there_are(name: str, algorithm: int) -> None:
    """Results of collectives and what passes keep go as soon as they have been used."""
    peaks = []
    for micros in (8, 24):
        bare = build(name, 2, micros, 2 if SCHEDULES[name].chunks else 1)
        plan = add_sends(split_vocabulary(bare, algorithm))  # type: ignore[arg-type]

        def work(rank: int, plan: Plan = plan, micros: int = micros) -> int:
            executor, _, _ = split_executor(plan, rank, "llama")
            seen: list[int] = []
            gc.freeze()  # what is there already is not looked at again
            executor._actions = [counted(action, seen) for action in executor._actions]
            _, ids, targets = whole("llama")
            executor.run([ids[:MICRO]] * micros, [targets[:MICRO]] * micros)
            return max(seen)

        peaks.append(on_ranks(2, work, timeout_s=60))
    assert (
        max(peaks[1]) <= max(peaks[0]) + 8
    )  # collectives may end a little sooner or later; 16 more would leak one each


def counted(action: Callable[[], None], seen: list[int]) -> Callable[[], None]:
    def work() -> None:
        action()
        seen.append(sum(type(x) is Tensor and x.numel() == MICRO * SEQ * 8 for x in gc.get_objects()))

    return work


# -- parts without ranks -------------------------------------------------------------------------------------------


class Alone:
    """What `Collectives` does, for parts of one process: each sees the values of all."""

    def __init__(self, parts: list[Any]) -> None:
        self.most_of = torch.stack([scores.most for scores in parts]).amax(0)
        self.sums = sum(torch.stack([each.total * (each.most - self.most_of).exp(), each.target]) for each in parts)

    def most(self, tensor: Tensor) -> Tensor:
        return self.most_of

    def sum(self, tensor: Tensor) -> Tensor:
        return self.sums


def parts_of(weight: Tensor, count: int) -> list[Part]:
    """Parts of a head, their tables the same parameter."""
    found = []
    for rank in range(count):
        rows = rows_of(rank, count, len(weight))
        param = nn.Parameter(weight[rows.start : rows.stop].clone())
        found.append(Part(param, param, rows.start, 2, 0.25))
    return found


@pytest.mark.parametrize("size", [1.0, 1e3], ids=["usual", "huge"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_parts_of_a_head(count: int, size: float) -> None:
    """Loss and gradients, also where exp of a logit would be infinite and where a part has no rows."""
    maker = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 5, generator=maker, dtype=torch.float64) * size
    hidden = torch.randn(2, 4, 5, generator=maker, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([[0, 6, -100, 3], [2, 2, 5, -100]])
    head = weight.clone().requires_grad_()
    loss = nn.functional.cross_entropy((hidden @ head.t()).flatten(0, 1), targets.flatten())
    (0.25 * loss).backward()
    for pull_early in (False, True):
        parts = parts_of(weight, count)
        with torch.no_grad():
            scores = [part.score(0, hidden, targets, pull_early, keep=True) for part in parts]
            whole = scores[0].whole(Alone(scores))  # type: ignore[arg-type]
            early = [part.pull(s, whole) for part, s in zip(parts, scores, strict=True)] if pull_early else []
            late = [part.gradients(0, whole, not pull_early) for part in parts]
        assert abs(whole.loss() - loss) <= EXACT * loss
        assert torch.isfinite(whole.loss())
        pulled = sum(early or late)
        assert (pulled - hidden.grad.flatten(0, 1)).abs().max() <= EXACT * hidden.grad.abs().max()  # type: ignore
        grads = torch.cat([part.head.grad for part in parts])  # type: ignore[misc]
        assert (grads - head.grad).abs().max() <= EXACT * head.grad.abs().max()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_parts_of_a_table(count: int) -> None:
    """As nn.Embedding, whose padding row is never trained."""
    maker = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 5, generator=maker, dtype=torch.float64)
    ids = torch.tensor([[0, 6, 2, 3], [2, 2, 5, 6]])
    table = nn.Embedding(7, 5, padding_idx=2, dtype=torch.float64)
    table.load_state_dict({"weight": weight})
    grad = torch.randn(2, 4, 5, generator=maker, dtype=torch.float64)
    out = table(ids)
    out.backward(grad)
    parts = parts_of(weight, count)
    assert torch.equal(sum(part.embed(ids) for part in parts), out.detach())
    for part in parts:
        part.embed_backward(ids, grad)
    grads = torch.cat([torch.zeros_like(part.table) if part.table.grad is None else part.table.grad for part in parts])
    assert (grads - table.weight.grad).abs().max() < EXACT  # type: ignore[operator]
