"""AdamW over the stages of one rank, as one optimizer over the whole model would do it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.core.job import Job
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan

ADAM_EPS = 1e-8
"""What AdamW adds to the root of its mean of squares."""


def learning_rate(job: Job, step: int) -> float:
    """Rate of a step (1, 2, ...): linear warm-up, then half a cosine down to ``min_learning_rate_ratio``.

    Example:
        >>> round(learning_rate(Job(steps=100, warmup_steps=10, learning_rate=1.0), 5), 6)
        0.5
    """
    if step <= job.warmup_steps:
        return job.learning_rate * step / job.warmup_steps
    progress = (step - job.warmup_steps) / max(1, job.steps - job.warmup_steps)
    floor = job.min_learning_rate_ratio
    return job.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Optimizer:
    """The ``STEP`` of a rank's stages.

    Gradients of weights that the two ends of the model share (tied embeddings) are summed, so that their copies stay
    equal; those of replicas have been summed before (``REDUCE_GRAD``). The norm for clipping is that of the whole
    model, each weight counted once; AdamW decays matrices only.

    Args:
        job: rates, betas, decay, clipping.
        modules: the stages' modules on this rank by virtual stage; a module's ``tied`` names its shared weights.
        plan: who holds which stage.
        rank: this rank.

    Attributes:
        first_stage: the stage whose ``STEP`` comes first on this rank.
        norm: norm of all gradients of the last step before clipping.
        total: the caller's own figure, summed over the ranks together with the norm (the loss).
        left_out: steps left out in a row because their gradients were not finite.
    """

    def __init__(self, job: Job, modules: Mapping[int, nn.Module], plan: Plan, rank: int) -> None:
        self._job, self._modules = job, dict(modules)
        self.norm, self.total, self.step_number, self.left_out = 0.0, 0.0, 0, 0
        self._factor = 1.0
        placement = plan.placement
        steps = [op.stage for op in plan.lanes[rank] if op.kind == Kind.STEP]
        self.first_stage = (steps or placement.on(rank))[0]
        self._begins = {s for s in modules if placement.prev[s] == NO_STAGE}
        self._counted = {s for s in modules if placement.part_of.index(placement.part_of[s]) == s}
        self._shared = {stage: dict(getattr(module, "tied", {})) for stage, module in modules.items()}
        ends = [s for s in range(placement.stages) if NO_STAGE in (placement.prev[s], placement.next[s])]
        ranks = sorted({placement.rank_of[stage] for stage in ends})
        self._group = dist.new_group(ranks) if len(ranks) > 1 else None
        self._adams = {stage: self._adam(module) for stage, module in modules.items()}
        self._device = torch.device("cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu")

    def _adam(self, module: nn.Module) -> torch.optim.AdamW | None:
        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self._job.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            return None
        return torch.optim.AdamW(groups, lr=0.0, betas=(self._job.beta1, self._job.beta2), eps=ADAM_EPS, fused=True)

    def step(self, stage: int) -> None:
        """``STEP`` of one stage; the first on the rank also sums, measures and clips for all of them."""
        if stage == self.first_stage:
            sums = self.local_sums()
            if dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(sums)
            self._factor = self.judge(sums)
            self.scale(self._factor)
        if self._factor:
            self.apply(stage)
        self.clear(stage)

    def apply(self, stage: int) -> None:
        """AdamW on one stage with the gradients as they are."""
        adam = self._adams[stage]
        if adam is not None:
            for group in adam.param_groups:
                group["lr"] = learning_rate(self._job, self.step_number)
            adam.step()

    def predicted(self, stage: int, updates: int) -> dict[str, Tensor]:
        """Weights of a stage after so many updates more, if each goes as AdamW's running means say (weight decay left
        out; Guan et al. 2019, arXiv:1911.04610), by parameter name."""
        job, adam = self._job, self._adams[stage]
        found = {name: param.detach() for name, param in self._modules[stage].named_parameters()}
        for name, param in self._modules[stage].named_parameters():
            held = adam.state.get(param) if adam is not None else None
            if held and updates:
                t = held["step"].item()
                mean, square = held["exp_avg"] / (1 - job.beta1**t), held["exp_avg_sq"] / (1 - job.beta2**t)
                rate = updates * learning_rate(job, self.step_number)
                found[name] = found[name] - rate * mean / (square.sqrt() + ADAM_EPS)
        return found

    def clear(self, stage: int) -> None:
        """Let the gradients of one stage go."""
        adam = self._adams[stage]
        if adam is not None:
            adam.zero_grad(set_to_none=True)

    def local_sums(self) -> Tensor:
        """Sum the gradients of shared weights over their holders; then this rank's part of the squared norm of all
        gradients, and ``total``: shape (2,), float64."""
        self._sum_shared()
        again = [p for s, module in self._modules.items() if s not in self._counted for p in module.parameters()]
        again += [p for s, shared in self._shared.items() if s not in self._begins for p in shared.values()]
        copies = {id(p) for p in again}
        grads = self._grads()
        counted = [_grad(p) for p in self._with_grad() if id(p) not in copies]
        sums = torch.zeros(2, dtype=torch.float64, device=grads[0].device if grads else self._device)
        if counted:
            sums[0] = torch.stack(torch._foreach_norm(counted)).double().square().sum()
        sums[1] = self.total
        return sums

    def judge(self, sums: Tensor) -> float:
        """What the sums of all ranks demand of the gradients: a factor that brings their common norm down to
        ``clip_norm`` (as ``clip_grad_norm_`` does), 1 to take them as they are, 0 to leave the step out.

        Raises:
            FloatingPointError: the norm is not finite, and no more steps in a row may be left out.
        """
        self.norm, self.total = math.sqrt(sums[0].item()), sums[1].item()
        job = self._job
        if math.isfinite(self.norm):
            self.left_out = 0
            return job.clip_norm / (self.norm + 1e-6) if job.clip_norm and self.norm > job.clip_norm else 1.0
        if self.left_out == job.max_left_out:
            raise FloatingPointError(
                f"the gradient norm of step {self.step_number} is {self.norm}; lower learning_rate="
                f"{job.learning_rate:g} or set clip_norm"
            )
        self.left_out += 1
        return 0.0

    def scale(self, factor: float) -> None:
        """Multiply all gradients of this rank."""
        grads = self._grads()
        if grads and factor not in (0.0, 1.0):
            torch._foreach_mul_(grads, factor)

    def _sum_shared(self) -> None:
        """Give every copy of a weight that the ends share the sum over its uses, one replica of each counted."""
        mine = sorted(stage for stage, shared in self._shared.items() if shared)
        for name in sorted({name for stage in mine for name in self._shared[stage]}):
            copies = [self._shared[stage][name] for stage in mine if name in self._shared[stage]]
            total = torch.zeros_like(copies[0])
            for stage in mine:
                if stage in self._counted:
                    total += _grad(self._shared[stage][name])
            if self._group is not None:
                dist.all_reduce(total, group=self._group)
            for copy in copies:
                copy.grad = total.clone()

    def _with_grad(self) -> list[nn.Parameter]:
        return [p for module in self._modules.values() for p in module.parameters() if p.grad is not None]

    def _grads(self) -> list[Tensor]:
        return [_grad(p) for p in self._with_grad()]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Moments by full parameter name, of one copy; created if there are none yet, so that a checkpoint can fill
        them."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, _, held in self._trained():
            found.setdefault(name, held)
        return found

    def changed_by_step(self) -> list[Tensor]:
        """All that a step changes on this rank, as it is held: weights that are trained, their moments and counts."""
        return [tensor for _, param, held in self._trained() for tensor in (param.detach(), *held.values())]

    def _trained(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        """Full name, weight and moments of all that is trained, every copy."""
        for stage, module in self._modules.items():
            adam = self._adams[stage]
            for name, param in module.named_parameters():
                if adam is None or not param.requires_grad:
                    continue
                held = adam.state[param]
                if not held:
                    held["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
                    held["exp_avg"], held["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
                yield name, param, held

    def copy_state(self) -> None:
        """Give the moments that ``state`` shows to further copies of the same weights on this rank."""
        shown = self.state()
        for stage, module in self._modules.items():
            adam = self._adams[stage]
            for name, param in module.named_parameters():
                if adam is not None and name in shown and adam.state[param] is not shown[name]:
                    for key, value in adam.state[param].items():
                        value.copy_(shown[name][key])


def _grad(param: Tensor) -> Tensor:
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad
