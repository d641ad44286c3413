"""Plans that never flush, on real ranks, against one process that is late by the documented number of updates."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pipes import ROWS, WIDTH, blocks, rows
from typing import Any

import pytest
import torch
from ranks import on_ranks
from runs import losses, prepared, run_forked, spec_in
from runs import rows as metrics
from torch import Tensor
from torch.func import functional_call

from penstock.core.job import Job
from penstock.core.plan import Plan
from penstock.engine.staleness import versions
from penstock.lower import add_sends
from penstock.runtime.execute import Executor
from penstock.runtime.messages import Boundary
from penstock.runtime.optimizer import Optimizer, learning_rate
from penstock.runtime.run import plan_of
from penstock.runtime.stage import Stage
from penstock.runtime.stale import Stale, micros_per_update
from penstock.runtime.train import Trainer
from penstock.runtime.transport import Links
from penstock.schedules import build

JOB = Job(steps=10, warmup_steps=0, learning_rate=0.05, weight_decay=0.2, clip_norm=0.0, precision="float64")
CARRIES = (ROWS, WIDTH)


def on_rank(plan: Plan, rank: int, windows: int) -> tuple[dict[int, Any], list[float], list[int]]:
    """Weights of the stages, losses of all micro-batches, and the most versions each stage held."""
    modules = blocks(plan.placement.on(rank), plan.placement.stages)
    last, scale = plan.placement.stages - 1, 1 / micros_per_update(plan)
    stages = {s: Stage(m, s == 0, s == last, CARRIES, scale, split=False) for s, m in modules.items()}
    optimizer = Optimizer(JOB, modules, plan, rank)
    for s, stage in stages.items():
        stage.stale = Stale(modules[s], plan, s, partial(optimizer.predicted, s))

    def step(stage: int) -> None:
        optimizer.apply(stage)
        optimizer.clear(stage)

    links = Links(plan, rank) if plan.placement.ranks > 1 else None
    executor = Executor(plan, rank, stages, links, Boundary(CARRIES, torch.float64, torch.device("cpu")), step)
    seen = []
    for window in range(windows):
        optimizer.step_number = window + 1
        for stage in stages.values():
            assert stage.stale is not None
            stage.stale.begin()
        executor.run(*rows(plan.micros, seed=window))
        seen += [loss.item() for loss in executor.take_losses()]
    return {s: m.state_dict() for s, m in modules.items()}, seen, [s.stale.most for s in stages.values() if s.stale]


@dataclass
class History:
    """A stage's weights and AdamW's means after each update of a window, by plain arithmetic."""

    weights: list[dict[str, Tensor]]
    means: list[dict[str, tuple[Tensor, Tensor]]]
    count: list[int] = field(default_factory=lambda: [0])

    def update(self, grads: dict[str, Tensor], rate: float) -> None:
        t = self.count[-1] + 1
        weights, means = {}, {}
        for name, grad in grads.items():
            first, second = self.means[-1][name]
            first = JOB.beta1 * first + (1 - JOB.beta1) * grad
            second = JOB.beta2 * second + (1 - JOB.beta2) * grad.square()
            means[name] = first, second
            old = self.weights[-1][name] * (1 - rate * (JOB.weight_decay if grad.ndim > 1 else 0.0))
            weights[name] = old - rate * self.direction(means[name], t)
        self.weights.append(weights)
        self.means.append(means)
        self.count.append(t)

    def direction(self, means: tuple[Tensor, Tensor], t: int) -> Tensor:
        first, second = means[0] / (1 - JOB.beta1**t), means[1] / (1 - JOB.beta2**t)
        return first / (second.sqrt() + 1e-8)

    def ahead(self, version: int, updates: int, rate: float) -> dict[str, Tensor]:
        if not updates or not self.count[version]:
            return self.weights[version]
        return {
            name: weight - updates * rate * self.direction(self.means[version][name], self.count[version])
            for name, weight in self.weights[version].items()
        }

    def last(self) -> "History":
        return History(self.weights[-1:], self.means[-1:], self.count[-1:])


Late = Callable[[int, int], tuple[int, int]]
"""Of a stage and a micro-batch: the version its forward uses, and over how many updates that is extrapolated."""


def emulated(p: int, m: int, group: int, late: Late, windows: int) -> tuple[dict[int, Any], list[float]]:
    """One process, one micro-batch after the other, each stage with the version that ``late`` says."""
    modules, seen = blocks(range(p), p), []
    histories = {}
    for s, module in modules.items():
        own = {name: param.detach().clone() for name, param in module.named_parameters()}
        zeros = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in own.items()}
        histories[s] = History([own], [zeros])
    for window in range(windows):
        rate = learning_rate(JOB, window + 1)
        histories = {s: history.last() for s, history in histories.items()}
        sums: dict[int, dict[str, Tensor]] = {}
        for i, (x, target) in enumerate(zip(*rows(m, seed=window), strict=True)):
            used = {}
            for s in range(p):
                weights = histories[s].ahead(*late(s, i), rate)
                used[s] = {name: w.clone().requires_grad_() for name, w in weights.items()}
                x = functional_call(modules[s], used[s], (x,) if s < p - 1 else (x, target))
            seen.append(x.item())
            (x / group).backward()
            for s, weights in used.items():
                mine = sums.setdefault(s, {})
                for name, weight in weights.items():
                    assert weight.grad is not None
                    mine[name] = mine[name] + weight.grad if name in mine else weight.grad
            if (i + 1) % group == 0 or i == m - 1:
                for s, grads in sums.items():
                    histories[s].update(grads, rate)
                sums = {}
    return {s: history.weights[-1] for s, history in histories.items()}, seen


def test_a_run_learns_and_resumes(tmp_path: Path) -> None:
    """Whole runs: the losses fall, and a run that goes on from a checkpoint ends with the same."""
    flags = {"schedule": "pipedream", "clip_norm": 0.0, "steps": 12, "warmup_steps": 0, "learning_rate": 0.01}
    (tmp_path / "whole").mkdir()
    folder, spec = prepared(tmp_path / "whole", **flags)
    assert run_forked(folder, spec).codes == [0, 0]
    found = losses(folder)
    assert found[12] < found[1] - 0.5
    assert all(row["gradient_norm"] is None for row in metrics(folder))

    def before(rank: int) -> None:
        train_step = Trainer._train_step

        def stop(self: Trainer) -> None:
            if self.done == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            train_step(self)

        Trainer._train_step = stop  # type: ignore[method-assign]

    folder, spec = prepared(tmp_path, **flags)
    assert run_forked(folder, spec, before).codes == [-signal.SIGKILL] * 2
    folder, spec = prepared(tmp_path, resume=True, **flags)
    assert run_forked(folder, spec).codes == [0, 0]
    assert losses(folder) == found


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"clip_norm": 1.0}, "clip_norm=1, but in 'pipedream' no norm over all stages exists; give --clip-norm 0"),
        ({"optimizer_step": "post-validation"}, "'pipedream' has no step to validate"),
        ({"config": {"tie_word_embeddings": True}}, "whose copies would drift apart with 'pipedream'"),
    ],
    ids=str,
)
def test_what_needs_all_gradients_is_refused(flags: dict[str, Any], says: str, tmp_path: Path) -> None:
    config = flags.pop("config", None)
    spec = spec_in(tmp_path, config, **{"schedule": "pipedream", "clip_norm": 0.0, **flags})
    with pytest.raises(ValueError, match=says):
        plan_of(spec)


def pipedream(p: int) -> Late:
    return lambda s, i: (i - min(i, p - 1 - s), 0)


def two_versions(p: int) -> Late:
    return lambda s, i: (max(i // p - 1, 0), 0)


def predicted(p: int) -> Late:
    return lambda s, i: (i - min(i, p - 1 - s), min(i, p - 1 - s))


@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 6), pytest.param(4, 12, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "late", "whole"),
    [("pipedream", pipedream, 0), ("pipedream-2bw", two_versions, 1), ("spectrain", predicted, 0)],
)
def test_it_is_as_late_as_documented(name: str, late: Callable[[int], Late], whole: int, p: int, m: int) -> None:
    """Losses and weights after two windows, float64, to 1e-12; and the versions held are those that are computed."""
    bare = build(name, p, m)
    plan = add_sends(bare) if p > 1 else bare
    expected, seen = emulated(p, m, p if whole else 1, late(p), 2)
    parts = on_ranks(p, lambda rank: on_rank(plan, rank, 2)) if p > 1 else [on_rank(plan, 0, 2)]
    assert parts[-1][1] == pytest.approx(seen, rel=0, abs=1e-12)
    kept = versions(bare).kept(bare)
    for rank, (weights, _, most) in enumerate(parts):
        for stage, found in weights.items():
            for key, value in found.items():
                assert torch.allclose(value, expected[stage][key], rtol=0, atol=1e-12), (stage, key)
        assert most == [kept[rank]] or name == "spectrain"
    if p > 1:
        on_time, _ = emulated(p, m, p if whole else 1, lambda s, i: (i // (p if whole else 1), 0), 2)
        assert max((on_time[0][key] - value).abs().max() for key, value in expected[0].items()) > 1e-4
