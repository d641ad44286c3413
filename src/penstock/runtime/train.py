"""Training on one rank: data in, the lane run, metrics and checkpoints out."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.core.files import write_whole
from penstock.core.job import RunSpec
from penstock.core.plan import Plan
from penstock.runtime import checkpoint
from penstock.runtime.corpus import Batch, Corpus, read_corpus
from penstock.runtime.evaluation import evaluation_plan
from penstock.runtime.execute import Executor
from penstock.runtime.keeping import Keeping
from penstock.runtime.measure import probe
from penstock.runtime.measure_kept import probe_shares
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.optimizer import Optimizer, learning_rate
from penstock.runtime.owned import Owned
from penstock.runtime.progress import Progress
from penstock.runtime.rows import as_rows
from penstock.runtime.solving import Search
from penstock.runtime.stale import Stale
from penstock.runtime.trained import CALIBRATION_STEPS, WARM_STEPS, Trained
from penstock.runtime.transport import Links
from penstock.runtime.validate import PostValidation

KEPT_STEPS = 512
"""Steps whose op times a rank keeps."""


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
        own = Owned.of(spec, plan, rank, device)
        self.modules, self.stages, self._lengths, self._boundary = own.modules, own.stages, own.lengths, own.boundary
        self.optimizer = Optimizer(spec.job, self.modules, plan, rank)
        links = Links(plan, rank) if plan.placement.ranks > 1 else None
        tokens = spec.sequences_per_micro_batch * spec.job.seq_length / plan.slices
        self.trained = Trained(boundary_bytes=tokens * own.boundary.shape[-1] * own.boundary.dtype.itemsize)
        looks = evaluation_plan(plan)
        self._rows = own.ends.held if own.ends else {}
        passes = [own.ends.vocabulary(each, rank, own.boundary) if own.ends else None for each in (plan, looks)]
        self.validation = None if plan.barrier else PostValidation(self.optimizer, self._report)
        settle = None if self.validation is None else self.validation.settle
        keeping = Keeping.of(spec.strategy)
        run = (rank, self.stages, links, own.boundary)
        self._executor = lambda plan: Executor(plan, *run, self._step, passes[0], settle=settle, keeping=keeping)
        self.trainer = self._executor(plan)
        self.evaluator = Executor(looks, *run, None, passes[1])
        self._search = Search.of(spec, plan, folder, rank, device)
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
        self._copy_weights()
        self.optimizer.copy_state()
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
        first = self._micro_batches(self.corpus.batch(0))
        self.trained.shares = probe_shares(self.trainer.activations, self.trained.saved, *first)
        if self.plan.weights != "synced":
            for s, stage in self.stages.items():
                stage.stale = Stale(self.modules[s], self.plan, s, partial(self.optimizer.predicted, s))
        self.trained.held_out_before = self.evaluate()
        progress.begin(self.done, self.trained.held_out_before)
        while self.done < job.steps:
            begun = time.perf_counter()
            self._train_step()
            self.done += 1
            self._keep(begun)
            if self.validation is None:
                self._report()
            self._look_for_better()
            if every and (self.done % every == 0 or self.done == job.steps):
                self._settle()
                checkpoint.save(self.folder / "checkpoints", self.done, self._state())
        self._settle()
        self.trained.loss = self.optimizer.total
        self.trained.held_out = self.evaluate()
        return self.trained

    def _look_for_better(self) -> None:
        """Go on in another order of the same ops, if a search has found a better one and there are steps left."""
        search = self._search
        if search is not None and self.done == self.spec.job.steps:
            search.close()
        elif search is not None and (plan := search.after(self.done, self.trained)) is not None:
            self._settle()
            self.plan, self.trainer = plan, self._executor(plan)
            self.trained.begin_anew()
            if self.rank == 0:
                write_whole(self.folder / "plan.json", plan.to_json())

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
        if stage == self.optimizer.first_stage:
            losses = self.trainer.take_losses()
            self.optimizer.total = torch.stack(losses).double().sum().item() / self.plan.micros if losses else 0.0
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
        """Inputs and targets by micro-batch or slice; each of shape (micro, tokens)."""
        whole = self.plan.micros // self.plan.slices
        cut = (torch.from_numpy(rows).to(self.device).chunk(whole) for rows in batch)
        inputs, targets = (tuple(part for each in rows for part in each.split(self._lengths, 1)) for rows in cut)
        return inputs, targets

    def _probe(self) -> None:
        slices, dtype = range(self.plan.slices), self._boundary.dtype
        inputs, targets = (of[: len(slices)] for of in self._micro_batches(self.corpus.batch(0)))
        for s, stage in self.stages.items():
            carried = [torch.zeros(stage.carries(k), dtype=dtype, device=self.device) for k in slices]
            self.trained.saved[s] = probe(stage, inputs if stage.first else carried, targets if stage.last else None)

    def _keep(self, begun: float) -> None:
        trained = self.trained
        trained.peak_buffers = max(trained.peak_buffers, self.trainer.peak_buffers)
        trained.times[self.done] = self.trainer.clock.times_s()  # waits for a GPU, which has the step to end yet
        trained.wall_s[self.done] = time.perf_counter() - begun
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
        return {
            "model": as_rows(self._weights(), self._rows),
            "optimizer": as_rows(self.optimizer.state(), self._rows),
            "step": self.done,
            "corpus": self.corpus.fingerprint,
        }

    def _weights(self) -> dict[str, Tensor]:
        """By full name, one copy of each."""
        found: dict[str, Tensor] = {}
        for module in self.modules.values():
            for name, param in module.named_parameters():
                found.setdefault(name, param.detach())
        return found

    def _copy_weights(self) -> None:
        """Give loaded weights to further copies on this rank."""
        loaded = self._weights()
        for module in self.modules.values():
            for name, param in module.named_parameters():
                if param.data_ptr() != loaded[name].data_ptr():
                    param.detach().copy_(loaded[name])
