"""What a schedule that reads costs is made for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, Literal

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.timeline import Timeline

Objective = Literal["sync", "span"]
"""``sync``: the time until the last rank is done. ``span``: the longest time of one rank, where steps may overlap."""


@dataclass(frozen=True)
class Task:
    """Sizes, prices and limits of one step.

    Args:
        placement: where the stages live.
        micros: micro-batches per step.
        costs: of this placement.
        memory_limit: bytes of activations that any rank may hold; ``None`` leaves it to the schedule.
        objective: what counts.
        again: stages whose forward runs again right before each ``I``, which takes that much longer: in between only
            ``Costs.kept_share`` stays.
    """

    placement: Placement
    micros: int
    costs: Costs
    memory_limit: float | None = None
    objective: Objective = "sync"
    again: frozenset[int] = frozenset()

    @property
    def limit(self) -> float:
        """``memory_limit`` as a number: infinite if there is none."""
        return math.inf if self.memory_limit is None else self.memory_limit


def seconds_of(timeline: Timeline, objective: Objective) -> float:
    """The time that counts."""
    return timeline.makespan_s if objective == "sync" else timeline.span_s


@lru_cache(maxsize=256)
def reads_costs(schedule: Callable[..., Any]) -> bool:
    """Whether a schedule's function makes all lanes from a ``Task``: its first parameter is called ``task``. Others
    make one lane, from ``r, p, m, v``."""
    return next(iter(signature(schedule).parameters), "") == "task"
