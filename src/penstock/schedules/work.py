"""All ops of a task as arrays, for orders that are made by playing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.needs import dependencies
from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.schedules.task import Task

SLACK = 1e-9
"""Share of a limit that rounding may add."""


@dataclass(frozen=True, eq=False)
class Work:
    """All ops of a task, as arrays over op ids; an order is one array of ids, rank after rank.

    Ids count micro-batches first: ops of one kind and stage stand together and run in this order.

    Args:
        codes: kind, stage and micro-batch of each op, shape (ops, 3).
        rank: of each op; ``begin``: where the lane of each rank starts in an order, and the number of ops last.
        stream: number of each op's kind and stage.
        needed, lag: ids of what each op needs (-1: nothing) and how long its result travels, shape (ops, 2).
        wakes, delay: the same seen from the maker, shape (ops, 2).
        seconds: duration of each op.
        takes, frees: bytes at the start and at the end of each op.
        most: bytes that any rank may hold.
    """

    codes: NDArray[np.int64]
    rank: NDArray[np.int64]
    begin: NDArray[np.int64]
    stream: NDArray[np.int64]
    needed: NDArray[np.int64]
    lag: NDArray[np.float64]
    wakes: NDArray[np.int64]
    delay: NDArray[np.float64]
    seconds: NDArray[np.float64]
    takes: NDArray[np.float64]
    frees: NDArray[np.float64]
    most: float

    @classmethod
    def of(cls, task: Task, kinds: tuple[Kind, ...], most: float) -> Work:
        """The ops of these kinds for every stage and micro-batch of a task, and what every rank may hold."""
        place, costs, m = task.placement, task.costs, task.micros
        codes = np.indices((len(kinds), place.stages, m)).reshape(3, -1).T
        codes = codes[codes[:, 2] * place.chains // m == np.array(place.chain_of)[codes[:, 1]]]
        codes[:, 0] = np.array(kinds)[codes[:, 0]]
        rank = np.array(place.rank_of)[codes[:, 1]]
        lanes = tuple(Lane.of(codes[rank == r]) for r in range(place.ranks))
        needed = _by_id(Plan("", place, m, lanes), np.argsort(rank, kind="stable"))
        lag = np.where(needed >= 0, costs.hop_s[rank[needed], rank[:, None]], 0.0)
        wakes, delay = _turned(needed, lag)
        kind, stage, _ = codes.T
        saved, share = costs.saved_bytes[stage], costs.w_share[stage]
        again = np.isin(stage, [*task.again])
        early = saved * np.where(again, costs.kept_share[stage], 1.0)
        late = (kind == Kind.I) & again
        frees = np.select([kind == Kind.B, kind == Kind.I, kind == Kind.W], [saved, saved * (1 - share), saved * share])
        begin = np.r_[0, np.cumsum(np.bincount(rank, minlength=place.ranks))]
        return cls(
            *(codes, rank, begin, _streams(codes), needed, lag, wakes, delay),
            costs.seconds[kind, stage] + np.where(late, costs.seconds[Kind.R, stage], 0.0),
            *(np.where(kind == Kind.F, early, np.where(late, saved - early, 0.0)), frees, most * (1 + SLACK)),
        )

    @cached_property
    def backwards(self) -> Work:
        """The same work seen backwards in time: the op of id o has the id ops-1-o, and orders turn round."""
        last = len(self.codes) - 1
        needed, wakes = (np.where(ids >= 0, last - ids, -1)[::-1].copy() for ids in (self.wakes, self.needed))
        flip = [values[::-1].copy() for values in (self.delay, self.lag, self.seconds, self.frees, self.takes)]
        lag, delay, seconds, takes, frees = flip
        stream = self.stream[-1] - self.stream[::-1]
        return Work(
            *(self.codes[::-1].copy(), self.rank[::-1].copy(), self.begin, stream, needed, lag, wakes, delay),
            *(seconds, takes, frees, self.most),
        )

    @cached_property
    def wave(self) -> NDArray[np.int64]:
        """Number of each op's kind and chunk: how many stages of its rank stand before its own."""
        kind, stage, _ = self.codes.T
        rank_of = np.zeros(stage.max() + 1, dtype=np.int64)
        rank_of[stage] = self.rank
        chunk = np.array([(rank_of[:s] == rank).sum() for s, rank in enumerate(rank_of)])
        return np.asarray(np.unique(kind, return_inverse=True)[1] * (chunk.max() + 1) + chunk[stage])

    @cached_property
    def streams(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first op of each stream, and how many streams each rank has."""
        first = np.flatnonzero(np.diff(self.stream, prepend=-1))
        return first, np.bincount(self.rank[first], minlength=len(self.begin) - 1)

    @cached_property
    def flat(self) -> tuple[Any, ...]:
        """What a loop that plays orders reads: arrays in one row each, and ``most``."""
        links = (self.rank, self.stream, self.needed, self.lag, self.wakes, self.delay)
        return *(np.ravel(values) for values in (*links, self.seconds, self.takes, self.frees)), self.most

    @cached_property
    def listed(self) -> tuple[Any, ...]:
        """The same as lists, which plain Python reads faster."""
        return *(values.tolist() for values in self.flat[:-1]), self.most

    def turn(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """An order as ``backwards`` has it, and back."""
        lanes = np.split(len(order) - 1 - order, self.begin[1:-1])
        return np.concatenate([lane[::-1] for lane in lanes])

    def of_rows(self, lanes: Iterable[NDArray[np.integer[Any]]]) -> NDArray[np.int64]:
        """The order of lanes of (kind, stage, micro-batch)."""
        ids = np.zeros(self.codes.max(axis=0) + 1, dtype=np.int64)
        ids[tuple(self.codes.T)] = np.arange(len(self.codes))
        kind, stage, micro = np.concatenate([*lanes]).T
        return np.asarray(ids[kind, stage, micro])

    def by_time(self, time: NDArray[np.float64]) -> NDArray[np.int64]:
        """The order in which every rank does its ops at the given times, shape (ops,)."""
        return np.lexsort((time, self.rank))

    def lanes(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows of kind, stage, micro-batch of every rank."""
        return np.split(self.codes[order], self.begin[1:-1])

    def peaks(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Most bytes that each rank holds, shape (ranks,)."""
        change = np.column_stack([self.takes[order], -self.frees[order]])
        lanes = np.split(change, self.begin[1:-1])
        return np.array([np.cumsum(lane.ravel()).max(initial=0.0) for lane in lanes])

    def fits(self, order: NDArray[np.int64]) -> bool:
        """Whether no rank ever holds more than ``most``."""
        return bool((self.peaks(order) <= self.most).all())


def in_turn(task: Task, work: Work, *times: NDArray[Any]) -> NDArray[np.int64]:
    """The order by times, each shape (ops,), the last of them first; among equal ones along the chain and back, where
    passes that take no time need each other."""
    kind, stage, _ = work.codes.T
    depth = np.array(task.placement.depth_of)[stage]
    way = np.where(kind == Kind.F, depth, 2 * task.placement.stages - depth)
    return np.lexsort((kind, way, *times, work.rank))


def _streams(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each op's kind and stage, which stand together."""
    return np.cumsum((np.diff(codes[:, :2], axis=0, prepend=codes[:1, :2]) != 0).any(axis=1))


def _by_id(plan: Plan, ids: NDArray[np.intp]) -> NDArray[np.int64]:
    """What every op needs, where the op in row k of the plan has the id ``ids[k]``."""
    rows = dependencies(plan)
    needed = np.full(rows.shape, -1, dtype=np.int64)
    needed[ids] = np.where(rows >= 0, ids[rows], -1)
    return needed


def _turned(needed: NDArray[np.int64], lag: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """From what ops need to what needs them: a forward is needed by a forward and a backward, a gradient by two."""
    users, slots = np.nonzero(needed >= 0)
    makers = needed[users, slots]
    by_maker = np.argsort(makers, kind="stable")
    users, slots, makers = users[by_maker], slots[by_maker], makers[by_maker]
    place = np.arange(len(makers)) - np.searchsorted(makers, makers)
    wakes, delay = np.full((len(needed), 2), -1, dtype=np.int64), np.zeros((len(needed), 2))
    wakes[makers, place], delay[makers, place] = users, lag[users, slots]
    return wakes, delay
