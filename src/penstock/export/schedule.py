"""The order of a setup's pipeline as PyTorch's CSV, which its own runtime of schedules reads."""

from __future__ import annotations

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.export.torch_csv import to_csv
from penstock.export.written import Left, Written, refuse
from penstock.predict.pipelines import pipeline


def schedule(model: Architecture, cluster: Cluster, setup: Setup) -> Written:
    """Return the compute-only CSV of the pipeline: a row for each rank, which PyTorch adds sends to as it reads it.

    Raises:
        ValueError: there is no pipeline, or PyTorch cannot hold its order.
    """
    refuse("schedule", {"pp=1 is no pipeline; a schedule is an order for several ranks": setup.pp == 1})
    text = to_csv(pipeline(setup.schedule, setup.pp, setup.micros, setup.chunks))
    left = (Left("setup", "all but the pipeline: which rank runs which stage and micro-batch, and in what order"),)
    return Written({"": text}, left)
