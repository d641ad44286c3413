"""Training on one rank: data in, the lane run, metrics and checkpoints out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from penstock.core.job import RunSpec
from penstock.core.lane import Lane
from penstock.core.model import Model
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine.check import check
from penstock.lower import add_sends, algorithm_of, split_vocabulary
from penstock.runtime import checkpoint
from penstock.runtime.corpus import Batch, Corpus, read_corpus
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.execute import Executor
from penstock.runtime.measure import probe
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.optimizer import Optimizer, learning_rate
from penstock.runtime.part import rows_of
from penstock.runtime.progress import Progress
from penstock.runtime.rows import as_rows
from penstock.runtime.stage import Stage
from penstock.runtime.stale import Stale, micros_per_update
from penstock.runtime.transport import Boundary, Links
from penstock.runtime.validate import PostValidation
from penstock.runtime.vocabulary import SplitEnds

WARM_STEPS = 2
"""Steps left out of all measurements: allocators and caches settle."""
CALIBRATION_STEPS = 6
"""Steps after those from which the prediction takes its costs."""
KEPT_STEPS = 512
"""Steps whose op times a rank keeps."""


@dataclass
class Trained:
    """What one rank knows at the end."""

    times: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Op times of the lane by step, shape (2, ops of the lane)."""
    wall_s: dict[int, float] = field(default_factory=dict)
    """Time of each whole step on this rank."""
    saved: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Per stage, bytes kept by a forward and the share of them kept until ``W``."""
    loss: float = math.nan
    held_out_before: float = math.nan
    held_out: float = math.nan
    peak_buffers: int = 0
    rollbacks: int = 0
    """Optimizer steps taken back (post-validation)."""
    rollback_bytes: int = 0
    """What is kept to take one back."""
    boundary_bytes: float = 0.0


def dtype_of(precision: str) -> torch.dtype:
    """The tensor type of a precision's name."""
    found = getattr(torch, precision)
    assert isinstance(found, torch.dtype)
    return found


class Trainer:
    """One rank of a run.

    Args:
        spec: the run.
        plan: with sends and steps; the same on all ranks.
        rank: this one.
        folder: the results folder.
        device: where this rank computes.
    """

    def __init__(self, spec: RunSpec, plan: Plan, rank: int, folder: Path, device: torch.device) -> None:
        self.spec, self.plan, self.rank, self.folder, self.device = spec, plan, rank, folder, device
        self.corpus: Corpus = read_corpus(spec.job)
        config = load_config(spec.model)
        cut = Model.read(spec.model).cut(plan.placement.stages, spec.strategy.stage_layers)
        dtype = dtype_of(spec.job.precision)
        micro = spec.sequences_per_micro_batch
        carries = (micro, spec.job.seq_length, config.hidden_size)
        last = plan.placement.stages - 1
        split = set(plan.ops[plan.ops[:, 0] == Kind.I, 1].tolist())
        whole, rows = not algorithm_of(plan), rows_of(rank, plan.placement.ranks, config.vocab_size)
        held = {} if whole else {plan.placement.on(rank)[0]: rows}
        self.modules = {
            s: DecoderStage(
                config, cut[s], s == 0, s == last, spec.job.seed, dtype, device, s in split, whole, held.get(s)
            )
            for s in plan.placement.on(rank)
        }
        scale = 1 / (plan.micros if plan.weights == "synced" else micros_per_update(plan))
        self.stages = {
            s: Stage(m, s == 0 and whole, s == last and whole, carries, scale) for s, m in self.modules.items()
        }
        self.optimizer = Optimizer(spec.job, self.modules, plan, rank)
        links = Links(plan, rank) if plan.placement.ranks > 1 else None
        boundary = Boundary(carries, dtype, device)
        self.trained = Trained(boundary_bytes=float(math.prod(carries) * dtype.itemsize))
        looks = evaluation_plan(plan)
        own = SplitEnds.of(self.modules, held, scale, config.vocab_size, device) if held else None
        self._rows = own.held if own else {}
        passes = [own.vocabulary(each, rank, boundary) if own else None for each in (plan, looks)]
        self.validation = None if plan.barrier else PostValidation(self.optimizer, self._report)
        settle = None if self.validation is None else self.validation.settle
        self.trainer = Executor(plan, rank, self.stages, links, boundary, self._step, passes[0], settle)
        self.evaluator = Executor(looks, rank, self.stages, links, boundary, None, passes[1])
        self.done = 0
        self._metrics: MetricsFile | None = None
        self._progress = Progress(spec.job.steps, shown=False)

    @property
    def unsplit(self) -> list[str]:
        """Parameters whose gradient comes with ``I`` because their module cannot be split."""
        return [name for stage in self.stages.values() for name in stage.unsplit]

    def where(self) -> str:
        """What this rank does, for people."""
        return f"in step {self.done + 1} {self._active().where()}"

    def spot(self) -> object:
        """Changes as long as the rank makes progress; None while it runs no lane."""
        active = self._active()
        return None if active.position < 0 else (self.done, active is self.trainer, active.position)

    def _active(self) -> Executor:
        return self.trainer if self.evaluator.position < 0 else self.evaluator

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one; returns the steps done."""
        path = checkpoint.latest(self.folder / "checkpoints")
        if path is None:
            return 0
        facts = checkpoint.load(path, self._state())
        if facts["corpus"] != self.corpus.fingerprint:
            raise ValueError(
                f"{path} was trained on other text (fingerprint {facts['corpus']}, now {self.corpus.fingerprint}); "
                f"give the data it began with"
            )
        self.done = int(facts["step"])
        return self.done

    def train(self, metrics: MetricsFile | None, progress: Progress) -> Trained:
        """All steps that are left; rank 0 gives the metrics file."""
        job, every = self.spec.job, self.spec.run.checkpoint_every
        self._metrics, self._progress = metrics, progress
        self._probe()
        if self.plan.weights != "synced":
            for s, stage in self.stages.items():
                stage.stale = Stale(self.modules[s], self.plan, s, partial(self.optimizer.predicted, s))
        self.trained.held_out_before = self.evaluate()
        progress.begin(self.done, self.trained.held_out_before)
        while self.done < job.steps:
            begun = time.perf_counter()
            self._train_step()
            self.done += 1
            wall_s = time.perf_counter() - begun
            self._keep(wall_s)
            if self.validation is None:
                self._report()
            if every and (self.done % every == 0 or self.done == job.steps):
                self._settle()
                checkpoint.save(self.folder / "checkpoints", self.done, self._state())
        self._settle()
        self.trained.loss = self.optimizer.total
        self.trained.held_out = self.evaluate()
        return self.trained

    def evaluate(self) -> float:
        """Mean loss on held-out text, on every rank."""
        sequences = self.spec.job.held_out_sequences
        if not sequences:
            return math.nan
        losses: list[Tensor] = []
        batches = self.corpus.held_out(sequences)
        for batch in batches:
            self.evaluator.run(*self._micro_batches(batch))
            losses += self.evaluator.take_losses()
        return self._mean_loss(losses, len(batches) * self.plan.micros)

    def _mean_loss(self, losses: list[Tensor], count: int) -> float:
        """Mean over all ranks, of which those without a last stage have none."""
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        if losses:
            total += torch.stack(losses).double().sum()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.item() / count

    def _train_step(self) -> None:
        inputs, targets = self._micro_batches(self.corpus.batch(self.done))
        stale = [stage.stale for stage in self.stages.values() if stage.stale is not None]
        for each in stale:
            each.begin()
        self.trainer.run(inputs, targets)
        if stale:
            self.optimizer.total = self._mean_loss(self.trainer.take_losses(), self.plan.micros)

    def _step(self, stage: int) -> None:
        """``STEP``, or in a plan without flush ``UPDATE``, of one stage."""
        self.optimizer.step_number = self.done + 1
        if self.stages[stage].stale is not None:
            self.optimizer.apply(stage)
            self.optimizer.clear(stage)
            return
        losses = self.trainer.take_losses()
        if losses or stage == min(self.stages):
            self.optimizer.total = torch.stack(losses).double().mean().item() if losses else 0.0
        (self.validation or self.optimizer).step(stage)

    def _settle(self) -> None:
        """Make the last step final, before anyone reads the weights for good."""
        if self.validation is not None:
            self.validation.settle()
            self.trained.rollbacks = self.validation.rollbacks
            self.trained.rollback_bytes = self.validation.held_bytes

    def _report(self, stood: bool = True) -> None:
        """The figures of the last step, once they are final."""
        row = self._row(self.trained.wall_s[self.done])
        if self.validation is not None:
            row["taken_back"] = int(not stood)
        if self._metrics is not None:
            self._metrics.append(self.done, row)
        self._progress.step(self.done, row)

    def _micro_batches(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs where the first stage is, targets where the last is; each of shape (micro, seq)."""
        inputs, targets = (torch.from_numpy(rows).to(self.device).chunk(self.plan.micros) for rows in batch)
        return inputs, targets

    def _probe(self) -> None:
        inputs, targets = self._micro_batches(self.corpus.batch(0))
        carried = torch.zeros(self.stages[min(self.stages)]._carries, device=self.device)
        for s, stage in self.stages.items():
            x = inputs[0] if stage.first else carried.to(dtype_of(self.spec.job.precision))
            self.trained.saved[s] = probe(stage, x, targets[0] if stage.last else None)

    def _keep(self, wall_s: float) -> None:
        trained = self.trained
        trained.peak_buffers = max(trained.peak_buffers, self.trainer.peak_buffers)
        trained.times[self.done], trained.wall_s[self.done] = self.trainer.clock.times_s(), wall_s
        if len(trained.times) > KEPT_STEPS:
            del trained.times[sorted(trained.times)[WARM_STEPS + CALIBRATION_STEPS]]

    def _row(self, wall_s: float) -> dict[str, Any]:
        job = self.spec.job
        return {
            "loss": self.optimizer.total,
            "learning_rate": learning_rate(job, self.done),
            "gradient_norm": self.optimizer.norm if self.plan.weights == "synced" else None,
            "step_s": round(wall_s, 6),
            "tokens_per_s": round(job.tokens_per_step / wall_s, 1),
        }

    def _state(self) -> dict[str, Any]:
        model = {name: param.detach() for module in self.modules.values() for name, param in module.named_parameters()}
        return {
            "model": as_rows(model, self._rows),
            "optimizer": as_rows(self.optimizer.state(), self._rows),
            "step": self.done,
            "corpus": self.corpus.fingerprint,
        }


def evaluation_plan(plan: Plan) -> Plan:
    """Forwards alone on the same stages."""
    placement = plan.placement
    lanes = tuple(
        Lane.of([(Kind.F, s, i) for i in range(plan.micros) for s in sorted(placement.on(r))])
        for r in range(placement.ranks)
    )
    bare = Plan("evaluation", placement, plan.micros, lanes)
    check(bare)
    algorithm = algorithm_of(plan)
    if algorithm:
        bare = split_vocabulary(bare, algorithm)
    lowered = add_sends(bare, plan.sends)
    check(lowered)
    return lowered
