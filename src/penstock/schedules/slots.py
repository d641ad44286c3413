"""Orders found by playing: every rank does in each slot what is ready, backwards first (how wave papers draw them)."""

from __future__ import annotations

from functools import lru_cache
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement

Queue = list[tuple[int, int, int]]
"""Ready ops of a rank, a heap: micro-batch counted in its chain, steps left to the end of the chain, stage."""


@lru_cache(maxsize=1)
def in_slots(placement: Placement, micros: int, in_flight: int) -> tuple[NDArray[np.int32], ...]:
    """Rows of every lane when forwards and backwards take one slot each.

    A rank prefers backwards, then the oldest micro-batch of its chain, then the stage nearest the end of the chain.
    A chain lets in a micro-batch when fewer than ``in_flight`` of its own are under way, so nothing can deadlock.

    Args:
        placement: its chains share the micro-batches evenly, in order.
        micros: micro-batches of all chains.
        in_flight: micro-batches of one chain between their first forward and their last backward.

    Example:
        >>> in_slots(Placement.loop(1), 1, 1)[0].tolist()
        [[0, 0, 0], [1, 0, 0]]
    """
    table = _Table(placement, micros, in_flight)
    while table.play_slot():
        pass
    return tuple(np.array(rows, dtype=np.int32).reshape(-1, 3) for rows in table.rows)


class _Table:
    """The slots so far, and what is ready."""

    def __init__(self, placement: Placement, micros: int, in_flight: int) -> None:
        chains = placement.chains
        self.place, self.left = placement, _left(placement)
        self.rows: list[list[tuple[int, int, int]]] = [[] for _ in range(placement.ranks)]
        self.forward: list[Queue] = [[] for _ in range(placement.ranks)]
        self.backward: list[Queue] = [[] for _ in range(placement.ranks)]
        self.begin = [chain * micros // chains for chain in range(chains + 1)]
        self.outside = self.begin[:-1]
        """The next micro-batch of each chain that has not been let in."""
        for chain, stage in enumerate(s for s, before in enumerate(placement.prev) if before == NO_STAGE):
            for _ in range(in_flight):
                self._let_in(chain, stage)

    def _let_in(self, chain: int, stage: int) -> None:
        if self.outside[chain] < self.begin[chain + 1]:
            self._push(self.forward, stage, self.outside[chain])
            self.outside[chain] += 1

    def _push(self, queues: list[Queue], stage: int, micro: int) -> None:
        number = micro - self.begin[self.place.chain_of[stage]]
        heappush(queues[self.place.rank_of[stage]], (number, self.left[stage], stage))

    def play_slot(self) -> bool:
        """Do one slot on every rank; False if nothing was left to do."""
        done = []
        for rank, rows in enumerate(self.rows):
            kind, queue = (Kind.B, self.backward[rank]) if self.backward[rank] else (Kind.F, self.forward[rank])
            if queue:
                number, _, stage = heappop(queue)
                micro = number + self.begin[self.place.chain_of[stage]]
                rows.append((kind, stage, micro))
                done.append((kind, stage, micro))
        for kind, stage, micro in done:
            self._go_on(kind, stage, micro)
        return bool(done)

    def _go_on(self, kind: Kind, stage: int, micro: int) -> None:
        after, before = self.place.next[stage], self.place.prev[stage]
        if kind == Kind.F and after != NO_STAGE:
            self._push(self.forward, after, micro)
        elif kind == Kind.F:
            self._push(self.backward, stage, micro)
        elif before != NO_STAGE:
            self._push(self.backward, before, micro)
        else:
            self._let_in(self.place.chain_of[stage], stage)


def _left(placement: Placement) -> list[int]:
    """Stages that follow each stage in its chain."""
    left = [0] * placement.stages
    for last in (s for s, after in enumerate(placement.next) if after == NO_STAGE):
        stage, count = last, 0
        while stage != NO_STAGE:
            left[stage] = count
            stage, count = placement.prev[stage], count + 1
    return left
