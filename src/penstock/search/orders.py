"""Orders of passes for the best plans: solved for at what their passes cost, within what their ranks have room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.predict.memory import rooms, vocabulary_waits
from penstock.predict.step import Step, begun
from penstock.search.choice import Choice, Ordered
from penstock.search.solution import Options
from penstock.search.solver import solve
from penstock.search.space import Space

FINALISTS = 3
"""Plans that are solved for at most; they share the time."""


def orders(
    space: Space, choices: Sequence[Choice], headroom: float, time_s: float, processes: int | None = None
) -> tuple[Ordered, ...]:
    """Return the best orders that are found for the best plans with a pipeline, the fastest step first.

    Each begins with the named schedules that live on the plan's placement and fit, so none is slower than the plan but
    by what named schedules cannot split: their backwards are whole, where an order has gradients of inputs and of
    weights apart.

    Args:
        space: what the plans are from.
        choices: plans, the best first.
        headroom: share of a device's memory that stays free.
        time_s: seconds for all together.
        processes: that search side by side; ``None`` for one per core.

    Raises:
        ValueError: the framework has its own schedules alone, or no time is given.
    """
    check(space, time_s)
    piped = [one for one in choices if one.setup.pp > 1][:FINALISTS]
    options = Options(time_s / max(1, len(piped)), processes=processes)
    found = [_ordered(space, one, headroom, options) for one in piped]
    return tuple(sorted(found, key=lambda one: one.choice.seconds))


def check(space: Space, time_s: float) -> None:
    """Do nothing where orders can be solved for.

    Raises:
        ValueError: the framework has its own schedules alone, or there is no time.
    """
    if not 0 < time_s < np.inf:
        raise ValueError(f"solve={time_s:g}: give seconds above 0, for example 10")
    if not space.stack.own_orders:
        raise ValueError(f"solve: {space.stack.name} runs its own schedules alone; use penstock, pytorch or torchtitan")


def _ordered(space: Space, choice: Choice, headroom: float, options: Options) -> Ordered:
    """The best order for one plan."""
    step = begun(space.model, space.cluster, choice.setup, space.stack)
    place, micros = step.plan.placement, choice.setup.micros
    room = _room_bytes(step, headroom)
    # each rank has its own limit: bytes count as shares of it
    shares = step.costs.saved_bytes / np.maximum(1.0, room)[list(place.rank_of)]
    solution = solve(replace(step.costs, saved_bytes=shares), place, micros, 1.0, options=options)
    after_s = float(step.after_s.min())
    solved = Step(space.model, space.cluster, choice.setup, space.stack, plan=solution.plan)
    made = Choice.of(choice.setup, solved.prediction(), choice.score_s)
    faster = made.seconds < choice.seconds and made.headroom >= headroom
    bound_s = solution.bound.seconds + after_s
    return Ordered(made if faster else choice, choice.seconds, bound_s, solution.plan if faster else step.plan)


def _room_bytes(step: Step, headroom: float) -> NDArray[np.float64]:
    """What each rank has for the activations of a timeline."""
    free = (1 - headroom) * step.rank.device.memory_bytes
    held = rooms(step.rank, step.of_ranks, step.timeline.peak_bytes.tolist())
    others = np.array([room.needed - room.activations for room in held])
    return np.asarray((free - others) / (1 + vocabulary_waits(step.rank)))
