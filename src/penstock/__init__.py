"""Penstock plans, simulates, draws and runs pipeline-parallel training of large language models.

Importing it is quick: each name is loaded when first used, and none but ``run`` imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.api import (
        add_sends,
        add_step,
        bounds,
        build,
        check,
        period_s,
        predict_step,
        problems,
        read_csv,
        read_plan,
        show,
        simulate,
        split_vocabulary,
        to_csv,
    )
    from penstock.core.cluster import Cluster
    from penstock.core.costs import Costs
    from penstock.core.device import Device
    from penstock.core.job import Job, RunSpec, Strategy
    from penstock.core.jobfile import make_spec
    from penstock.core.lane import Lane
    from penstock.core.op import Kind, Op
    from penstock.core.placement import Placement
    from penstock.core.plan import Plan
    from penstock.core.setup import Setup
    from penstock.core.timeline import Timeline
    from penstock.export.begin import improve
    from penstock.predict import Prediction
    from penstock.predict.goodput import goodput
    from penstock.runtime.run import run
    from penstock.schedules import SCHEDULES
    from penstock.search.pareto import pareto
    from penstock.search.planner import plan
    from penstock.search.questions import largest_model, longest_sequence, size_cluster

_HOME = {
    "add_sends": "penstock.api",
    "add_step": "penstock.api",
    "bounds": "penstock.api",
    "build": "penstock.api",
    "check": "penstock.api",
    "goodput": "penstock.predict.goodput",
    "improve": "penstock.export.begin",
    "largest_model": "penstock.search.questions",
    "longest_sequence": "penstock.search.questions",
    "pareto": "penstock.search.pareto",
    "period_s": "penstock.api",
    "plan": "penstock.search.planner",
    "predict_step": "penstock.api",
    "problems": "penstock.api",
    "read_csv": "penstock.api",
    "read_plan": "penstock.api",
    "show": "penstock.api",
    "simulate": "penstock.api",
    "size_cluster": "penstock.search.questions",
    "solve": "penstock.search",
    "split_vocabulary": "penstock.api",
    "to_csv": "penstock.api",
    "Cluster": "penstock.core.cluster",
    "Costs": "penstock.core.costs",
    "Device": "penstock.core.device",
    "Job": "penstock.core.job",
    "Kind": "penstock.core.op",
    "Lane": "penstock.core.lane",
    "Op": "penstock.core.op",
    "Placement": "penstock.core.placement",
    "Plan": "penstock.core.plan",
    "Prediction": "penstock.predict",
    "RunSpec": "penstock.core.job",
    "SCHEDULES": "penstock.schedules",
    "Setup": "penstock.core.setup",
    "Strategy": "penstock.core.job",
    "Timeline": "penstock.core.timeline",
    "make_spec": "penstock.core.jobfile",
    "run": "penstock.runtime.run",
}

__all__ = [
    "SCHEDULES",
    "Cluster",
    "Costs",
    "Device",
    "Job",
    "Kind",
    "Lane",
    "Op",
    "Placement",
    "Plan",
    "Prediction",
    "RunSpec",
    "Setup",
    "Strategy",
    "Timeline",
    "__version__",
    "add_sends",
    "add_step",
    "bounds",
    "build",
    "check",
    "goodput",
    "improve",
    "largest_model",
    "longest_sequence",
    "make_spec",
    "pareto",
    "period_s",
    "plan",
    "predict_step",
    "problems",
    "read_csv",
    "read_plan",
    "run",
    "show",
    "simulate",
    "size_cluster",
    "solve",
    "split_vocabulary",
    "to_csv",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("penstock")
    if name not in _HOME:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
