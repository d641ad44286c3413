"""What one slow rank makes of a step: all others wait for it."""

from __future__ import annotations

from dataclasses import replace

from penstock.engine import last_s
from penstock.predict.step import Step


def slow_rank_s(step: Step, by: float) -> float:
    """Return the seconds of a step in which one device does all its work slower by a share, where that hurts most.

    Ranks that share its layers wait for it within each op, other pipelines when gradients are summed: so the pipeline
    with the slow rank is played, once for each place that the rank can have in it.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.core.cluster import Cluster
    >>> from penstock.core.setup import Setup
    >>> from penstock.cost.stack import stack
    >>> model, machines = read_architecture("llama-3-8b"), Cluster.read("dgx-h100:1")
    >>> step = Step(model, machines, Setup(seq=4096, batch=64, tp=2, pp=4), stack("megatron-core"))
    >>> 1.05 < slow_rank_s(step, 0.1) / step.seconds_alone() < 1.1
    True
    """
    slowest = 0.0
    for r, stages in enumerate(step.on):
        op_s = step.op_s.copy()
        op_s[:, stages] *= 1 + by
        done_s = last_s(step.plan, replace(step.costs, seconds=op_s)) + step.after_s
        done_s[r] += by * step.optimizer_s[r]
        slowest = max(slowest, float(done_s.max()))
    return slowest
