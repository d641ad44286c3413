"""Schedules from a building block: the passes of one micro-batch, repeated (Qi et al. 2024, arXiv:2405.15362).

A block says when each stage does its passes on one micro-batch. Shifted by a period for each further micro-batch, it is
a schedule, whose peak memory is known in closed form from how long activations live. Ranks then use what waits are
left: at the costs of the task, warm-up and cool-down are drawn together and waits filled, never above that peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.schedules.reorder import PLAYS, best
from penstock.schedules.task import Task
from penstock.schedules.work import Work

MOST_PLAYED = 800_000
"""Ops that are played in all where plans are so large that less is tried."""
EPSILON = 1e-9
"""Of a period: what rounding may make overlap."""


@dataclass(frozen=True, eq=False)
class Block:
    """When every stage does its passes on one micro-batch, on a clock of the block's own.

    Args:
        period: from one micro-batch to the next.
        forward: start of F on each stage, shape (stages,); integers or continuous.
        backward: start of I, or of whole backwards if ``weights`` is ``None``.
        weights: start of W.
        seconds: durations of F, I and W (or of F and B), numbers or arrays of shape (stages,).

    Example:
        1F1B on two ranks, with backwards of two slots:

        >>> block = Block(3, forward=[0, 1], backward=[4, 2], seconds=(1, 2))
        >>> place = Placement.loop(2)
        >>> block.check(place)
        >>> block.peaks(place, Costs.uniform(place)).tolist()
        [2.0, 1.0]
    """

    period: float
    forward: ArrayLike
    backward: ArrayLike
    weights: ArrayLike | None = None
    seconds: Sequence[ArrayLike] = (1, 1, 1)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of the passes."""
        return (Kind.F, Kind.B) if self.weights is None else (Kind.F, Kind.I, Kind.W)

    @property
    def starts(self) -> NDArray[np.float64]:
        """Start of every pass, shape (kinds, stages)."""
        rows = [self.forward, self.backward] + ([] if self.weights is None else [self.weights])
        return np.array(rows, dtype=np.float64)

    @property
    def ends(self) -> NDArray[np.float64]:
        """End of every pass, shape (kinds, stages)."""
        starts = self.starts
        return np.array([row + np.asarray(long) for row, long in zip(starts, self.seconds, strict=False)])

    def check(self, placement: Placement) -> None:
        """Raise unless the passes can run as they stand.

        Raises:
            ValueError: several chains, a wrong number of stages, a pass that takes no time, begins before what it needs
                is there, or meets another of its rank; the message names them.
        """
        starts, ends = self.starts, self.ends
        if not (self.period > 0 and (ends > starts).all()):
            raise ValueError(f"period={self.period:g} and seconds={self.seconds}; all are above 0")
        if placement.chains > 1 or starts.shape[1] != placement.stages:
            raise ValueError(
                f"a block of {starts.shape[1]} stages does not fit {placement.stages} stages in {placement.chains} "
                f"chains; give every stage of one chain its starts"
            )
        work = Work.of(Task(placement, 1, Costs.uniform(placement)), self.kinds, np.inf)
        flat, names = ends.ravel(), [f"{s}{Kind(k).name}" for k, s, _ in work.codes.tolist()]
        for o, slot in np.argwhere(work.needed >= 0).tolist():
            d = work.needed[o, slot]
            if starts.ravel()[o] < flat[d] - EPSILON * self.period:
                raise ValueError(
                    f"{names[o]} starts at {starts.ravel()[o]:g}, before {names[d]} ends at {flat[d]:g}; start it then"
                )
        for rank in range(placement.ranks):
            self._check_room(placement.on(rank), rank)

    def _check_room(self, stages: tuple[int, ...], rank: int) -> None:
        starts, ends = (times[:, list(stages)].ravel() for times in (self.starts, self.ends))
        names = [f"{s}{kind.name}" for kind in self.kinds for s in stages]
        phase = starts % self.period
        by_phase = np.argsort(phase)
        for a, b in zip(by_phase, np.r_[by_phase[1:], by_phase[:1]], strict=True):
            wait = (phase[b] - phase[a]) % self.period if a != b else self.period
            if wait < ends[a] - starts[a] - EPSILON * self.period:
                raise ValueError(
                    f"{names[a]} and {names[b]} meet on rank {rank}: in the period of {self.period:g} they start at "
                    f"{phase[a]:g} and {phase[b]:g}"
                )

    def with_weights(self, placement: Placement, seconds: float = 1) -> Block:
        """The same block, its backward taken as I, with every W in the first hole behind it that holds ``seconds``.

        Raises:
            ValueError: a rank has no hole left.
        """
        starts, ends = self.starts, self.ends
        weights = np.zeros(placement.stages)
        for rank in range(placement.ranks):
            mine = list(placement.on(rank))
            phases, longs = starts[:, mine].ravel() % self.period, (ends - starts)[:, mine].ravel()
            taken: list[tuple[float, float]] = [*zip(phases.tolist(), longs.tolist(), strict=True)]
            for stage in sorted(mine, key=lambda s: ends[1, s]):
                weights[stage] = self._hole(taken, ends[1, stage], seconds, f"{stage}W on rank {rank}")
                taken.append((weights[stage] % self.period, seconds))
        return replace(self, weights=weights, seconds=(*self.seconds[:2], seconds))

    def _hole(self, taken: list[tuple[float, float]], ready: float, seconds: float, name: str) -> float:
        """First time from ``ready`` on at which a pass hits none of those taken, (phase, seconds) each."""
        period, slack = self.period, EPSILON * self.period
        waits = [0.0, *(float(phase + long - ready) % period for phase, long in taken)]
        for wait in sorted(waits):
            gaps = [((phase - ready - wait + slack) % period, long) for phase, long in taken]
            if all(gap >= seconds and gap + long <= period + 2 * slack for gap, long in gaps):
                return ready + wait
        raise ValueError(f"no hole of {seconds:g} is left for {name} in the period of {period:g}; lengthen the period")

    def peaks(self, placement: Placement, costs: Costs) -> NDArray[np.float64]:
        """Most bytes that each rank holds once micro-batches follow each other, shape (ranks,).

        A rank's peak stands at the start of a forward. There, of a stage whose F starts at f and whose backward ends at
        e, floor((t-f)/period) - floor((t-e)/period) micro-batches are alive.
        """
        starts, ends = self.starts, self.ends
        frees = np.ones((1, placement.stages)) if self.weights is None else np.array([1 - costs.w_share, costs.w_share])
        held = np.zeros(placement.ranks)
        for rank in range(placement.ranks):
            mine = list(placement.on(rank))
            t = starts[0, mine][:, None]
            begun = np.floor((t - starts[0, mine]) / self.period + EPSILON)
            done = np.floor((t - ends[1:, None, mine]) / self.period + EPSILON)
            alive = begun - (frees[:, None, mine] * done).sum(axis=0)
            held[rank] = (alive * costs.saved_bytes[mine]).sum(axis=1).max()
        return held

    def order(self, work: Work) -> NDArray[np.int64]:
        """The block once per micro-batch, as an order of the work."""
        kind, stage, micro = work.codes.T
        row = np.searchsorted(np.array(self.kinds), kind)
        return work.by_time(self.starts[row, stage] + self.period * micro)


def repeat(task: Task, *blocks: Block) -> list[NDArray[np.int64]]:
    """The lanes of a task from the best of some blocks: repeated, improved at the task's costs within its own peak.

    Args:
        task: of any placement with one chain.
        blocks: for this placement, all with the same kinds of passes.

    Returns:
        Rows of (kind, stage, micro-batch) for each rank.

    Raises:
        ValueError: a block cannot run, or all hold more than ``task.memory_limit``.
    """
    for block in blocks:
        block.check(task.placement)
    most = min(float(block.peaks(task.placement, task.costs).max()) for block in blocks)
    work = Work.of(task, blocks[0].kinds, min(most, task.limit))
    orders = [block.order(work) for block in blocks]
    fitting = [order for order in orders if work.fits(order)]
    if not fitting:
        needs = min(float(work.peaks(order).max()) for order in orders)
        raise ValueError(
            f"the block peaks at {needs:.6g}, more than memory_limit={task.limit:.6g}; v-auto keeps any limit"
        )
    plays = max(1, min(PLAYS * len(fitting), MOST_PLAYED // len(work.codes)))
    return work.lanes(best(work, fitting, task.objective, plays).order)
