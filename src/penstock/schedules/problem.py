"""A task for searches: what its stages cost, in the order of the chain, and loops that run compiled where it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native, warmed
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE
from penstock.schedules.task import Task

COMPILE_FROM_FORWARDS = 150
"""Tasks of at least so many forwards are worth loading the compiled loops for, smaller ones where they are loaded."""
KINDS = (Kind.F, Kind.I, Kind.W)
"""Kinds as the loops number them: op code = 4 x position in the chain + 0, 1 or 2."""

Order = Any
"""Op codes of ``F`` and ``I``, or of all three kinds, lane after lane: a list, or an int array for compiled loops."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A task as arrays, stages in the order of its only chain.

    Args:
        task: its placement must have one chain, and as many stages on each rank.
        limit: bytes of each rank, shape (ranks,).
    """

    task: Task
    limit: NDArray[np.float64]

    def __post_init__(self) -> None:
        place, least = self.task.placement, self.rank_bytes
        counts = {place.rank_of.count(rank) for rank in range(place.ranks)}
        if place.chains > 1 or len(counts) > 1:
            raise ValueError(f"{place.chains} chains with {counts} stages per rank; give one chain, even on all ranks")
        if not (self.limit >= least * (1 - 1e-9)).all():
            need, has = float(least.max()), float(self.limit.min())
            raise ValueError(f"memory_limit={has:.6g} does not hold one micro-batch; it needs at least {need:.6g}")

    @cached_property
    def chain(self) -> NDArray[np.int64]:
        """Stages from the first to the last."""
        place = self.task.placement
        chain = [place.prev.index(NO_STAGE)]
        while place.next[chain[-1]] != NO_STAGE:
            chain.append(place.next[chain[-1]])
        return np.array(chain)

    @cached_property
    def rank_of(self) -> NDArray[np.int64]:
        """Rank of each position in the chain."""
        return np.array(self.task.placement.rank_of)[self.chain]

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Times of F, I and W, shape (3, stages)."""
        return self.task.costs.seconds[list(KINDS)][:, self.chain]

    @cached_property
    def hops(self) -> NDArray[np.float64]:
        """Times of messages to the next and to the previous stage, shape (2, stages); zero at the ends."""
        hop, rank = self.task.costs.hop_s, self.rank_of
        return np.array([[*hop[rank[:-1], rank[1:]], 0.0], [0.0, *hop[rank[1:], rank[:-1]]]])

    @cached_property
    def size(self) -> NDArray[np.float64]:
        """Bytes that F keeps, and those of them that W needs, shape (2, stages)."""
        saved, share = self.task.costs.saved_bytes[self.chain], self.task.costs.w_share[self.chain]
        return np.array([saved, saved * share])

    @property
    def rank_bytes(self) -> NDArray[np.float64]:
        """Bytes of one micro-batch on each rank."""
        return np.bincount(self.rank_of, self.size[0]).astype(np.float64)

    @cached_property
    def work_s(self) -> NDArray[np.float64]:
        """Seconds of compute of each rank."""
        return self.task.micros * np.bincount(self.rank_of, self.seconds.sum(axis=0)).astype(np.float64)

    @cached_property
    def first_f_s(self) -> NDArray[np.float64]:
        """When the first forward can start on each stage."""
        return np.array([0.0, *np.cumsum((self.seconds[0] + self.hops[0])[:-1])])

    @cached_property
    def first_i_s(self) -> NDArray[np.float64]:
        """When the first gradient can arrive at each stage."""
        back = np.cumsum((self.seconds[1] + self.hops[1])[:0:-1])[::-1]
        turn = float(self.first_f_s[-1] + self.seconds[0, -1])
        return np.array([turn + float(seconds) for seconds in (*back, 0.0)])

    @cached_property
    def bound_s(self) -> float:
        """A time no order can beat: the work, the head and the warm-up, in which only forwards that fit can run."""
        ranks = range(self.task.placement.ranks)
        return max(self._bound(np.flatnonzero(self.rank_of == rank), rank) for rank in ranks)

    def _bound(self, mine: NDArray[np.int64], rank: int) -> float:
        begin, gradient = self.first_f_s[mine].min(), self.first_i_s[mine].min()
        fits = len(mine) * self.task.micros
        if self.size[0, mine].min() > 0:
            fits = math.floor(min(fits, self.limit[rank] / self.size[0, mine].min() * (1 + 1e-9)))
        wait = max(0.0, gradient - begin - fits * self.seconds[0, mine].max())
        return float(self.work_s[rank] + wait + (begin if self.task.objective == "sync" else 0.0))

    @property
    def forwards(self) -> int:
        """Forwards of all stages."""
        return len(self.chain) * self.task.micros

    @property
    def large(self) -> bool:
        """Whether compiled loops are worth loading."""
        return self.forwards >= COMPILE_FROM_FORWARDS

    @cached_property
    def compiled(self) -> bool:
        """Whether the loops run compiled; their results are the same."""
        return self.large or native.cache_info().currsize > 0

    def woven(self, rows: Iterable[NDArray[Any]]) -> Order:
        """An order with its ``W``, from rows of kind, position in the chain and micro-batch per rank."""
        return self.array([4 * row[:, 1] + np.searchsorted(KINDS, row[:, 0]) for row in rows])

    def loop(self, plain: Callable[..., Any], *arguments: Any) -> Any:
        """Call a loop on all ops, compiled or with lists for arrays, whichever is faster; the first calls of all are
        not compiled, as they may find what no order can beat."""
        return (warmed(plain, len(KINDS) * self.forwards) if self.compiled else plain)(*arguments)

    def array(self, values: Any) -> Any:
        """Values as the loops take them, in one row."""
        flat = np.ravel(values)
        return flat if self.compiled else flat.tolist()

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """Ranks, stages, micro-batches, and length of a lane of an order."""
        ranks, stages = self.task.placement.ranks, len(self.chain)
        return ranks, stages, self.task.micros, 2 * stages // ranks * self.task.micros

    @cached_property
    def prices(self) -> tuple[Any, ...]:
        """Rank, times of F, I, W, of messages to the next and previous, bytes kept by F and for W: one each."""
        return tuple(map(self.array, (self.rank_of, *self.seconds, *self.hops, *self.size)))

    @cached_property
    def slack_s(self) -> float:
        """Differences of time that count as none."""
        return 1e-10 * float(self.work_s.max() + self.first_i_s.max())
