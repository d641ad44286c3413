"""What a search is told, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.core.costs import Costs
from penstock.core.plan import Plan
from penstock.core.timeline import Timeline
from penstock.engine import Noise
from penstock.engine.bounds import Bound
from penstock.schedules.task import Objective, seconds_of
from penstock.search.judged import Robust

Aim = Objective | Literal["period"]
"""What a search is for: a step, or the time from one micro-batch to the next where steps hold very many of them."""

CLOSE = 1e-6
"""Share of a period that rounding leaves between what an order takes and what none that repeats beats."""


@dataclass(frozen=True)
class Found:
    """A better order on the way."""

    after_s: float
    """Seconds since the search began."""
    seconds: float
    """The time that counts, of the order."""
    where: str
    """The name of its placement, and of the schedule if it has one."""


@dataclass(frozen=True, eq=False)
class Solution:
    """What a search found.

    Args:
        plan: the best order, legal and within the limit.
        where: the name of its placement or way.
        timeline: the plan as it runs.
        costs: of its ops.
        objective: what counts.
        bound: a time that no order on any of the placements beats, and why.
        bound_here: the same for the placement of the plan.
        named: the best named schedule on the same placements, and the time that counts; ``None`` if none is legal.
        history: every better order, the first of them the first that was known.
        stints: pieces of work that were done, over all placements.
        robust: what the answer is expected to take under the noise of ``Options``, for which it was chosen; the rest
            says what it takes without, as the bounds and ``named`` do.
        micro_s: seconds from one micro-batch to the next, if that is what counts.
        none_s: what no order beats then that repeats, by placement and micro-batches of every chain per turn; an order
            that never repeats, or with others, may.
    """

    plan: Plan
    where: str
    timeline: Timeline
    costs: Costs
    objective: Aim
    bound: Bound
    bound_here: Bound
    named: tuple[str, float] | None
    history: tuple[Found, ...]
    stints: int
    robust: Robust | None = None
    micro_s: float | None = None
    none_s: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The time that counts: the makespan, the span, or the seconds from one micro-batch to the next."""
        if self.objective == "period":
            assert self.micro_s is not None
            return self.micro_s
        return seconds_of(self.timeline, self.objective)

    @property
    def gap(self) -> float:
        """How much longer than the bound, as a share of it."""
        return self.seconds / self.bound.seconds - 1 if self.bound.seconds else 0.0

    @property
    def proven(self) -> bool:
        """Whether no order on any of the placements is shorter."""
        return self.gap <= 1e-9

    def unbeaten(self, name: str, each: int) -> bool:
        """Whether no order on a placement that repeats so many micro-batches of every chain is faster."""
        return self.seconds <= self.none_s[name][each] * (1 + CLOSE)


@dataclass(frozen=True)
class Options:
    """How long and how a search goes.

    Args:
        time_s: seconds after which no stint begins that would not end, but for named schedules.
        seed: of all that is drawn; with it and the number of processes a search goes the same way, and the time only
            says how far.
        processes: that work side by side; ``None`` for one per core, 1 for this one alone.
        stints: rounds of stints after which it ends in any case, 0 for the best of what it starts from; ``None`` for no
            such end.
        noise: how times vary, if the order is wanted that is expected to take least; two thirds of the time, and as
            many rounds of stints again, then go to orders under noise.
        draws: by how many draws of it the answer is judged.

    Raises:
        ValueError: fewer than one process, or a negative number of stints or seed.
    """

    time_s: float = 30.0
    seed: int = 0
    processes: int | None = None
    stints: int | None = None
    noise: Noise | None = None
    draws: int = 100

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("stints", 0), ("seed", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}={value}; give {least} or more")

    @property
    def first_s(self) -> float:
        """Seconds for orders without noise."""
        return self.time_s if self.noise is None else self.time_s / 3


DEFAULTS = Options()


def seed_of(options: Options, rounds: int, number: int) -> int:
    """Of the stint of this number behind so many rounds."""
    return (options.seed * 1_000_003 + 101 * rounds + number) % 2**31
