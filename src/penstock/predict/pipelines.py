"""Plans of named schedules, built once for each size."""

from __future__ import annotations

from functools import lru_cache

from penstock.core.plan import Plan
from penstock.core.setup import Setup
from penstock.schedules import SCHEDULES, build

MOST_PASSES = 1_000_000
"""Forwards of all stages that are simulated."""


@lru_cache(maxsize=256)
def pipeline(schedule: str, ranks: int, micros: int, chunks: int) -> Plan:
    """Return the plan of a named schedule.

    Raises:
        ValueError: there is no such schedule, or it cannot be at these sizes.
    """
    if ranks * chunks * micros > MOST_PASSES:
        most = max(1, MOST_PASSES // (ranks * chunks))
        raise ValueError(
            f"{micros:,} micro-batches are too many to simulate; use larger ones, at most {most:,} of them"
        )
    return build(schedule, ranks=ranks, micros=micros, chunks=chunks)


def predicted(setup: Setup) -> Plan:
    """Return the plan of a setup's schedule, for a prediction.

    Raises:
        ValueError: as ``pipeline``, or the schedule holds more than one copy of the weights, or slices sequences.
    """
    schedule = setup.schedule
    if schedule in SCHEDULES and SCHEDULES[schedule].copies > 1:
        near = "dualpipev" if schedule == "dualpipe" else "1f1b or zb-h1"
        raise ValueError(f"schedule={schedule} holds its weights twice, which is not predicted yet; use {near}")
    plan = pipeline(schedule, setup.pp, setup.micros, setup.chunks)
    if plan.slices > 1:
        raise ValueError(f"schedule={schedule} slices sequences, which is not predicted yet; use 1f1b or zb-h1")
    return plan
