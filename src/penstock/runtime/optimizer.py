"""AdamW over the stages of one rank, as one optimizer over the whole model would do it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.core.job import Job
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.core.plan import Plan


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
    """

    def __init__(self, job: Job, modules: Mapping[int, nn.Module], plan: Plan, rank: int) -> None:
        self._job, self._modules = job, dict(modules)
        self.norm, self.total, self.step_number = 0.0, 0.0, 0
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
        return torch.optim.AdamW(groups, lr=0.0, betas=(self._job.beta1, self._job.beta2), fused=True)

    def step(self, stage: int) -> None:
        """``STEP`` of one stage; the first on the rank also sums, measures and clips for all of them."""
        if stage == self.first_stage:
            self._sum_shared()
            self._clip()
        adam = self._adams[stage]
        if adam is not None:
            for group in adam.param_groups:
                group["lr"] = learning_rate(self._job, self.step_number)
            adam.step()
            adam.zero_grad(set_to_none=True)

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

    def _clip(self) -> None:
        """Scale all gradients so that their common norm is at most ``clip_norm`` (as ``clip_grad_norm_`` does)."""
        again = [p for s, module in self._modules.items() if s not in self._counted for p in module.parameters()]
        again += [p for s, shared in self._shared.items() if s not in self._begins for p in shared.values()]
        copies = {id(p) for p in again}
        params = [p for module in self._modules.values() for p in module.parameters() if p.grad is not None]
        grads = [_grad(p) for p in params]
        counted = [_grad(p) for p in params if id(p) not in copies]
        sums = torch.zeros(2, dtype=torch.float64, device=grads[0].device if grads else self._device)
        if counted:
            sums[0] = torch.stack([norm.double() for norm in torch._foreach_norm(counted)]).square().sum()
        sums[1] = self.total
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        self.norm, self.total = math.sqrt(sums[0].item()), sums[1].item()
        if not math.isfinite(self.norm):
            raise FloatingPointError(
                f"the gradient norm of step {self.step_number} is {self.norm}; lower learning_rate="
                f"{self._job.learning_rate:g} or set clip_norm"
            )
        if grads and self._job.clip_norm and self.norm > self._job.clip_norm:
            torch._foreach_mul_(grads, self._job.clip_norm / (self.norm + 1e-6))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Moments by full parameter name, of one copy; created if there are none yet, so that a checkpoint can fill
        them."""
        found: dict[str, dict[str, Tensor]] = {}
        for stage, module in self._modules.items():
            adam = self._adams[stage]
            for name, param in module.named_parameters():
                if adam is None or not param.requires_grad:
                    continue
                held = adam.state[param]
                if not held:
                    held["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
                    held["exp_avg"], held["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
                found.setdefault(name, held)
        return found

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
