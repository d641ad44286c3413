"""Orders in which micro-batches enter evenly spaced: each runs as if it were alone, at a distance from the one before.

Forwards and input gradients move from rank to rank at one speed, so what meets on one rank meets on all or on few.
Weights' gradients come as late as memory allows. Played by a habit (``schedules.reorder``) such orders are good ones
for any placement, costs and limit, and take a small part of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.compiled import native
from penstock.core.op import Kind
from penstock.schedules.problem import KINDS
from penstock.schedules.task import Task
from penstock.schedules.work import Work, in_turn
from penstock.search.kernel import alone

DISTANCES = (*np.linspace(0.95, 1.25, 13).tolist(), *np.geomspace(1.3, 16.0, 18).tolist())
"""Seconds from one micro-batch to the next that are tried, in times of the busiest rank's work for one."""
TAKEN = 13
"""Orders that keep the limit, the shortest distances first; more are not looked for."""


def spaced(task: Task, work: Work) -> Iterator[NDArray[np.int64]]:
    """Orders that keep the limit, of the shortest distances that have one."""
    kind, stage, micro = work.codes.T
    seconds = task.costs.seconds.copy()
    seconds[[Kind.F, Kind.I]] = seconds[[Kind.F, Kind.I]].max(axis=0)
    start_s = alone(replace(task, costs=replace(task.costs, seconds=seconds)))
    number = micro % (task.micros // task.placement.chains)
    busiest = float(np.bincount(work.rank, work.seconds).max()) * task.placement.chains / task.micros
    row, weights_of = np.searchsorted(KINDS, kind), _weights_of(work)
    taken = 0
    for distance in DISTANCES:
        order = in_turn(task, work, start_s[row, stage] + distance * busiest * number)
        if native(_postpone)(order, work.begin, weights_of, work.takes, work.frees, work.most):
            taken += 1
            yield order
        if taken == TAKEN:
            break


def _weights_of(work: Work) -> NDArray[np.int64]:
    """The gradient of weights of each input gradient's stage and micro-batch; -1 of other ops, -2 of itself."""
    kind = work.codes[:, 0]
    found = np.where(kind == Kind.W, -2, -1)
    found[kind == Kind.I] = np.flatnonzero(kind == Kind.W)
    return found


def _postpone(order: Any, begin: Any, weights_of: Any, takes: Any, frees: Any, most: Any) -> Any:
    """Put gradients of weights where memory first needs them, the oldest first; whether the order keeps the limit."""
    due, lane = order.copy(), order.copy()
    for r in range(len(begin) - 1):
        held = 0.0
        first = last = 0
        at = begin[r]
        for k in range(begin[r], begin[r + 1]):
            o = lane[k]
            if weights_of[o] == -2:
                continue
            while held + takes[o] > most:
                if first == last:
                    return False
                order[at] = due[first]
                held -= frees[due[first]]
                first += 1
                at += 1
            order[at] = o
            at += 1
            held += takes[o] - frees[o]
            if weights_of[o] >= 0:
                due[last] = weights_of[o]
                last += 1
        for k in range(first, last):
            order[at + k - first] = due[k]
    return True
