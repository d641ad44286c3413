"""A task in whole numbers: what a constraint solver is asked, so that what it shows to be impossible is impossible.

Times and bytes are whole multiples of a unit where they can be; else each is rounded down. Starts of an order that are
rounded down keep every rule then, so each order has its like in whole numbers that takes no longer and holds no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.engine.flow import Array, Flow, from_end, from_start
from penstock.engine.paths import Paths
from penstock.schedules.problem import KINDS
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.whole import Scale, scale_of

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Integral:
    """All ops of a task in whole units, shape (ops,) if not said otherwise.

    Args:
        work: the ops.
        time: what a unit of time is.
        seconds, lag: units that ops, and what they need, take: shapes (ops,) and (ops, 2).
        takes, frees, room: whole bytes of any size: what ops take, what they free, and what a rank may hold.
        earliest: no order starts an op earlier.
        left: units from the end of an op to the end of its rank's last op (``span``) or of all (``sync``), at least.
        head: when each rank starts its first op, shape (ranks,); -1 where that depends on the order.
        longest: no order takes longer, if its ranks never wait for nothing.
    """

    work: Work
    time: Scale
    seconds: Whole
    lag: Whole
    takes: Whole
    frees: Whole
    room: int
    earliest: Whole
    left: Whole
    head: Whole
    longest: int

    @classmethod
    def of(cls, task: Task, work: Work) -> Integral:
        """The ops of a task: forwards, gradients of inputs and of weights.

        Where whole backwards are quicker than their halves, the halves are as quick as they are together.
        """
        paths = Paths(task.placement, task.costs, split=True)
        kind, stage, _ = work.codes.T
        least = np.array([paths.f, paths.gradient, paths.backward - paths.gradient])
        seconds_s = least[np.searchsorted(KINDS, kind), stage]
        longest_s = float(seconds_s.sum() + work.lag.sum())
        time = scale_of([*seconds_s, *work.lag.flat], longest_s)
        seconds, lag = time.down(seconds_s), time.down(work.lag)
        head_s = _heads(paths, len(work.begin) - 1)
        earliest_s, left_s = _windows(task, work, paths)
        return cls(
            *(work, time, seconds, lag, *_bytes(work), time.down(earliest_s), time.down(left_s)),
            np.where(np.isfinite(head_s), time.down(np.where(np.isfinite(head_s), head_s, 0.0)), -1),
            int(seconds.sum() + lag.sum()),
        )

    @property
    def loss(self) -> int:
        """Units by which the like of an order may be shorter than it: each op and each message of a path."""
        return 0 if self.time.exact else 4 * 2 * len(self.seconds)


def _bytes(work: Work) -> tuple[Whole, Whole, int]:
    """What ops take and free, and what a rank may hold; what a forward takes is what its backwards free."""
    if not math.isfinite(work.most):
        none = np.zeros(len(work.codes), dtype=np.int64)
        return none, none, 0
    size = scale_of(work.frees, float(work.takes.sum()))
    if not size.exact:
        size = Scale(work.most / 2**16, False)
    frees = size.down(work.frees)
    kind, stage, micro = work.codes.T
    pair = stage * (micro.max() + 1) + micro
    takes = np.where(kind == Kind.F, np.bincount(pair, frees).astype(np.int64)[pair], 0)
    return takes, frees, math.floor(work.most / size.unit)


def _heads(paths: Paths, ranks: int) -> Array:
    """When each rank starts its first op, shape (ranks,): all orders agree where the first stages of the ranks lead
    the only chain; infinite elsewhere."""
    found = np.full(ranks, np.inf)
    if len(paths.whole) > 1:
        return found
    firsts = {stages[0][0]: rank for rank, stages in enumerate(paths.chains)}
    for stage in paths.whole[0]:
        if stage not in firsts:
            break
        found[firsts[stage]] = paths.start[stage]
    return found


def _windows(task: Task, work: Work, paths: Paths) -> tuple[Array, Array]:
    """Earliest start of each op, and time that must be left after its end (``engine.flow``)."""
    place, limit = task.placement, task.limit
    most = -(-task.micros // place.chains)
    kind, stage, _ = work.codes.T
    first, _ = work.streams
    count = np.diff(np.append(first, len(kind)))
    number = np.arange(len(kind)) - first[work.stream]
    until_last = count[work.stream] - 1 - number
    opening = Flow(from_start(paths), paths, most, limit)
    earliest, left = np.zeros(len(kind)), np.zeros(len(kind))
    _raise(earliest, opening, (Kind.F, Kind.I), kind, stage, number)
    if task.objective == "sync":
        _raise(left, Flow(from_end(paths), paths, most, limit), (Kind.I, Kind.F), kind, stage, until_last)
        return earliest, left
    for rank in range(place.ranks):
        closing = Flow(from_end(paths), paths, most, limit, rank)
        _raise(left, closing, (Kind.I, Kind.F), np.where(work.rank == rank, kind, -1), stage, until_last)
    return earliest, left


def _raise(times: Array, flow: Flow, kinds: tuple[Kind, Kind], kind: Whole, stage: Whole, number: Whole) -> None:
    """Raise times of ops, the ``number``-th of their stage, to those of the kind that goes up and of that which comes
    down."""
    for each, known in zip(kinds, (flow.up, flow.down), strict=True):
        rows = np.flatnonzero((kind == each) & (number < flow.known))
        times[rows] = np.maximum(times[rows], known[stage[rows], number[rows]])
