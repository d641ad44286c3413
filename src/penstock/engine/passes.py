"""The passes by the names that flags and job files give them, with the prices of what they add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, index
from penstock.core.op import HOST, Kind
from penstock.core.plan import Plan
from penstock.cost import whole_bytes
from penstock.engine.fit_memory import recompute_to_fit
from penstock.engine.options import read
from penstock.lower import (
    merge_backward,
    offload,
    recompute,
    recompute_costs,
    reduce_gradients,
    shard,
    split_backward,
    two_bp,
)

Passed = tuple[Plan, Costs]
"""A plan, and what its ops cost."""
SELECTIVE = (20 / 34, 0.05)
"""Of selective recompute, where nothing else is known: the share of what a forward saves that it keeps, by the bytes of
a GPT layer without its norms, activation and dropout (Wan et al. 2025, arXiv:2503.01328), and the time of ``R`` over
that of ``F``."""
ON_A_LINK = 0.5
"""Time of what runs on a link (a copy to the host or back, a gather, a sum), over that of the stage's forward, where
nothing else is known."""


def with_recompute(
    plan: Plan,
    costs: Costs,
    what: Literal["full", "selective"] = "full",
    stages: tuple[int, ...] | None = None,
    keep: int | None = None,
    memory: float | None = None,
    kept: float | None = None,
    time: float | None = None,
) -> Passed:
    """Activations made again just before the backward.

    Args:
        plan: without recompute; one that has some stays as it is.
        costs: what it costs. What they know of recompute (a ``kept_share``) holds where the two last arguments are not
            given.
        what: full keeps the input of a stage, selective what matrix products and attention gave.
        stages: which stages; default all.
        keep: leave alone those whose backward comes before so many more forwards of their rank; default 0.
        memory: as few micro-batches as keep every rank within this fraction of 1F1B's peak.
        kept: share of the activations that stays in between; default the input (full) or 0.59 (selective).
        time: time of a recompute over that of the forward; default 1 (full) or 0.05 (selective).
    """
    if memory is not None and (stages is not None or keep is not None):
        raise ValueError("memory chooses what is made again by itself; leave out stages and keep")
    if kept is not None or time is not None or not costs.kept_share.any():
        share, lasts = (None, 1.0) if what == "full" else SELECTIVE
        share, lasts = share if kept is None else kept, lasts if time is None else time
        costs = recompute_costs(costs, plan.placement, share, lasts)
    if memory is None:
        return recompute(plan, stages, keep=keep or 0), costs
    if not memory > 0:
        raise ValueError(f"memory={memory:g}; give a positive fraction of 1F1B's peak")
    return recompute_to_fit(plan, costs, memory * plan.slices * whole_bytes(plan.placement, costs)), costs


def with_offload(
    plan: Plan,
    costs: Costs,
    share: float = 1.0,
    stages: tuple[int, ...] | None = None,
    trips: float = 2.0,
    time: float | None = None,
) -> Passed:
    """Activations copied to the host while they wait, as far as no op ends later for it.

    Args:
        plan: legal.
        costs: what it costs. Times of copies that they know hold unless ``time`` is given.
        share: share of a micro-batch's activations that moves, above 0 and at most 1.
        stages: whose activations; default all.
        trips: leave alone what waits less than so many times the way there and back.
        time: time of copying all activations of a stage one way over that of its forward; default 0.5.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share:g} of the activations; give more than 0, at most 1")
    costs = replace(costs, host_share=np.full(plan.placement.stages, share))
    if time is not None or not costs.seconds[list(HOST)].any():
        costs = _timed(costs, HOST, time, share * _left(plan, costs))
    return offload(plan, costs, stages, trips), costs


def with_shards(plan: Plan, costs: Costs, window: int = 3, time: float | None = None) -> Passed:
    """Weights sharded over copies of the pipeline: gathered ahead of their use, and let go.

    Args:
        plan: legal.
        costs: what it costs.
        window: most stages gathered at once on a rank.
        time: time of a gather over that of the stage's forward; default 0.5.
    """
    return shard(plan, window), _timed(costs, (Kind.UNSHARD,), time)


def with_sums(plan: Plan, costs: Costs, eager: bool = True, every: bool = False, time: float | None = None) -> Passed:
    """Gradients summed over the replicas of a stage.

    Args:
        plan: legal.
        costs: what it costs.
        eager: each sum begins when its stage has its last gradient; else all behind the work.
        every: also stages without replicas, which have some in copies of the whole pipeline.
        time: time of a sum over that of the stage's forward; default 0.5.
    """
    return reduce_gradients(plan, eager, every), _timed(costs, (Kind.REDUCE_GRAD,), time)


def with_split(plan: Plan, costs: Costs) -> Passed:
    """Whole backwards as I and W, one after the other."""
    return split_backward(plan), costs


def with_merge(plan: Plan, costs: Costs) -> Passed:
    """Every I that its own W follows as one backward."""
    return merge_backward(plan), costs


def with_two_bp(plan: Plan, costs: Costs, fill: bool = True) -> Passed:
    """All backwards split, the gradients of weights late (2BP: Rae et al. 2024, arXiv:2405.18047).

    Args:
        plan: legal, without sends.
        costs: what it costs.
        fill: W where a rank would wait; else all at the end.
    """
    return two_bp(plan, fill), costs


PASSES: dict[str, Callable[..., Passed]] = {
    "recompute": with_recompute,
    "offload": with_offload,
    "shard": with_shards,
    "reduce": with_sums,
    "split": with_split,
    "merge": with_merge,
    "2bp": with_two_bp,
}
"""From a plan, its costs and the options that the function's further parameters name, to both."""


def apply_passes(plan: Plan, costs: Costs, texts: Sequence[str]) -> Passed:
    """The plan after passes, in order, and what it costs then.

    Args:
        plan: legal.
        costs: of its stages and slices.
        texts: each a name of ``PASSES`` and what ``engine.options.read`` makes of the rest, for example ``"recompute"``
            or ``"offload=0.5,stages=0+1"``.

    Raises:
        ValueError: an unknown pass or option, or one that the plan cannot have; names the pass.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("gpipe", ranks=1, micros=2)
        >>> print(apply_passes(plan, Costs.uniform(plan.placement), ["recompute", "split"])[0].lanes[0])
        0F0 0F1 0R0 0I0 0W0 0R1 0I1 0W1
    """
    for text in texts:
        function, options = read(text, PASSES)
        try:
            plan, costs = function(plan, costs, **options)
        except ValueError as error:
            raise ValueError(f"{text.partition('=')[0]}: {error}") from None
    return plan, costs


def _timed(costs: Costs, kinds: Sequence[Kind], time: float | None, share: Any = 1.0) -> Costs:
    """The costs with times of ops on a link; those that they know stay if none is given."""
    if time is None and costs.seconds[list(kinds)].any():
        return costs
    if time is not None and not 0 <= time < np.inf:
        raise ValueError(f"time={time:g}; give a finite number, not negative")
    seconds = costs.seconds.copy()
    seconds[list(kinds)] = (ON_A_LINK if time is None else time) * share * seconds[Kind.F]
    return replace(costs, seconds=seconds)


def _left(plan: Plan, costs: Costs) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of what a forward saves that there is to move: the kept share where a stage makes all the rest again."""
    ids = index(plan)
    again = ((ids[Kind.R] != NOTHING) | (ids[Kind.F] == NOTHING)).all(axis=1)
    return np.where(again, costs.kept_share, 1.0)
