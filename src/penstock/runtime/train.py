"""Training on one rank: data in, the lane run, metrics and checkpoints out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
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
from penstock.core.op import Kind, Op
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan
from penstock.engine.check import check
from penstock.lower import add_sends, algorithm_of, split_vocabulary
from penstock.runtime import checkpoint
from penstock.runtime.corpus import Batch, Corpus, read_corpus
from penstock.runtime.decoder import DecoderStage, load_config
from penstock.runtime.execute import Executor
from penstock.runtime.measure import probe
from penstock.runtime.messages import Boundary
from penstock.runtime.metrics import MetricsFile
from penstock.runtime.optimizer import Optimizer, learning_rate
from penstock.runtime.part import rows_of
from penstock.runtime.progress import Progress
from penstock.runtime.rows import as_rows
from penstock.runtime.stage import Stage
from penstock.runtime.transport import Links
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
        placement = plan.placement
        cut = Model.read(spec.model).cut(len(set(placement.part_of)), spec.strategy.stage_layers)
        dtype = dtype_of(spec.job.precision)
        micro = spec.sequences_per_micro_batch
        carries = (micro, spec.job.seq_length // plan.slices, config.hidden_size)
        split = set(plan.ops[plan.ops[:, 0] == Kind.I, 1].tolist())
        ends = {s: (placement.prev[s] == NO_STAGE, placement.next[s] == NO_STAGE) for s in placement.on(rank)}
        whole, rows = not algorithm_of(plan), rows_of(rank, placement.ranks, config.vocab_size)
        held = {} if whole else {placement.on(rank)[0]: rows}
        seed = spec.job.seed
        self.modules = {
            s: DecoderStage(
                config,
                cut[placement.depth_of[s]],
                *end,
                seed,
                dtype,
                device,
                s in split,
                whole,
                held.get(s),
                plan.slices,
            )
            for s, end in ends.items()
        }
        scale = 1 / plan.micros
        self.stages = {
            s: Stage(m, ends[s][0] and whole, ends[s][1] and whole, carries, scale) for s, m in self.modules.items()
        }
        self.optimizer = Optimizer(spec.job, self.modules, plan, rank)
        links = Links(plan, rank) if plan.placement.ranks > 1 else None
        boundary = Boundary(carries, dtype, device)
        self.trained = Trained(boundary_bytes=float(math.prod(carries) * dtype.itemsize))
        looks = evaluation_plan(plan)
        own = SplitEnds.of(self.modules, held, scale, config.vocab_size, device) if held else None
        self._rows = own.held if own else {}
        passes = [own.vocabulary(each, rank, boundary) if own else None for each in (plan, looks)]
        self.trainer = Executor(plan, rank, self.stages, links, boundary, self._step, passes[0])
        self.evaluator = Executor(looks, rank, self.stages, links, boundary, None, passes[1])
        self.done = 0

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
        self._probe()
        self.trained.held_out_before = self.evaluate()
        progress.begin(self.done, self.trained.held_out_before)
        while self.done < job.steps:
            begun = time.perf_counter()
            self._train_step()
            self.done += 1
            wall_s = time.perf_counter() - begun
            self._keep(wall_s)
            row = self._row(wall_s)
            if metrics is not None:
                metrics.append(self.done, row)
            progress.step(self.done, row)
            if every and (self.done % every == 0 or self.done == job.steps):
                checkpoint.save(self.folder / "checkpoints", self.done, self._state())
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
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        if losses:
            total += torch.stack(losses).double().sum()
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.item() / (len(batches) * self.plan.micros)

    def _train_step(self) -> None:
        inputs, targets = self._micro_batches(self.corpus.batch(self.done))
        self.trainer.run(inputs, targets)

    def _step(self, stage: int) -> None:
        if stage == self.optimizer.first_stage:
            losses = self.trainer.take_losses()
            self.optimizer.total = torch.stack(losses).double().sum().item() / self.plan.micros if losses else 0.0
        self.optimizer.step_number = self.done + 1
        self.optimizer.step(stage)

    def _micro_batches(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs and targets by micro-batch; each of shape (micro, seq / slices)."""
        slices, whole = self.plan.slices, self.plan.micros // self.plan.slices
        cut = (torch.from_numpy(rows).to(self.device).chunk(whole) for rows in batch)
        inputs, targets = (tuple(part for each in rows for part in each.chunk(slices, 1)) for rows in cut)
        return inputs, targets

    def _probe(self) -> None:
        inputs, targets = self._micro_batches(self.corpus.batch(0))
        carried = torch.zeros(self.stages[min(self.stages)]._carries, device=self.device)
        for s, stage in self.stages.items():
            x = inputs[0] if stage.first else carried.to(dtype_of(self.spec.job.precision))
            self.trained.saved[s] = probe(stage, x, targets[0] if stage.last else None, self.plan.slices)

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
            "gradient_norm": self.optimizer.norm,
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


def evaluation_plan(plan: Plan) -> Plan:
    """Forwards alone, each micro-batch through the chain it takes in training; those that can run first come first."""
    placement = plan.placement
    chain_of = {op.micro: placement.chain_of[op.stage] for lane in plan.lanes for op in lane if op.kind == Kind.F}
    nth, on_chain = {}, [0] * placement.chains
    for i in sorted(chain_of):
        nth[i] = on_chain[chain_of[i]]
        on_chain[chain_of[i]] += 1

    def turn(op: Op) -> tuple[int, int]:
        return nth[op.micro] + placement.depth_of[op.stage], placement.chain_of[op.stage]

    rows = [sorted([op for op in lane if op.kind == Kind.F], key=turn) for lane in plan.lanes]
    bare = Plan("evaluation", placement, plan.micros, tuple(map(Lane.of, rows)), slices=plan.slices)
    check(bare)
    algorithm = algorithm_of(plan)
    if algorithm:
        bare = split_vocabulary(bare, algorithm)
    lowered = add_sends(bare, plan.sends)
    check(lowered)
    return lowered
