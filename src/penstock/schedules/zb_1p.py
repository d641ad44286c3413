"""ZB-1p: forwards, gradients and W ordered by what they cost, in 1F1B's memory (Qi et al. 2023, arXiv:2401.10241).

The paper's section 3 gives the idea: as many forwards as fit before the first gradient, then one of each in turn, W
where a rank would wait or its memory is full. The search over orders is ours; the costs may differ by stage.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.lane import Lane
from penstock.core.op import Kind
from penstock.schedules import one_f_one_b, zb_h1, zb_h2
from penstock.schedules.adapt import adapt
from penstock.schedules.phases import expand
from penstock.schedules.problem import Order, Problem
from penstock.schedules.task import Task


def lanes(task: Task) -> list[NDArray[Any]]:
    """All lanes, by the costs, the objective and the limit of the task; by default p micro-batches on every rank.

    Example:
        >>> from penstock.schedules import build
        >>> [str(lane) for lane in build("zb-1p", ranks=2, micros=2).lanes]
        ['0F0 0F1 0I0 0W0 0I1 0W1', '1F0 1I0 1F1 1I1 1W0 1W1']
    """
    return on_a_line(task, float(task.placement.ranks))


def on_a_line(task: Task, micros_held: float) -> list[NDArray[Any]]:
    """Lanes of a line of ranks, which by default hold the activations of so many micro-batches each.

    Raises:
        ValueError: the placement is no line, or the limit holds no micro-batch.
    """
    place = task.placement
    if place.chains > 1 or place.stages > place.ranks:
        raise ValueError(f"{place.stages} stages in {place.chains} chains on {place.ranks} ranks; give one line")
    return [*_lanes(task, tuple(limits(task, micros_held).tolist()))]


@lru_cache(maxsize=1)
def _lanes(task: Task, most: tuple[float, ...]) -> tuple[NDArray[Any], ...]:
    """Lanes within the limit of each rank; the last ones are kept, since within one limit ``zb-2p`` is ``zb-1p``."""
    problem = Problem(task, np.array(most))
    return tuple(adapt(problem, _orders(problem), _named(problem), _whole(problem)))


def limits(task: Task, micros_held: float) -> NDArray[np.float64]:
    """Bytes of each rank: the task's limit, else what so many of its micro-batches keep."""
    ranks = task.placement.ranks
    if task.memory_limit is not None:
        return np.full(ranks, float(task.memory_limit))
    held = np.bincount(task.placement.rank_of, task.costs.saved_bytes, ranks)
    return micros_held * held.astype(np.float64)


def _orders(problem: Problem) -> Iterator[Order]:
    """Warm-ups of many lengths, then a gradient and a forward in turn."""
    p, _, m, _ = problem.sizes
    seen = set()
    for longest in _warm_ups(problem):
        warm = np.minimum(_falling(problem, longest), m)
        if tuple(warm) not in seen:
            seen.add(tuple(warm))
            places, steady = np.arange(2 * m), 2 * m - warm[:, None]
            gradient = (places >= steady) | (places >= warm[:, None]) & ((places - warm[:, None]) % 2 == 0)
            yield problem.array((4 * np.arange(p)[:, None] + gradient)[np.argsort(problem.rank_of)])


def _warm_ups(problem: Problem) -> Iterator[NDArray[np.float64]]:
    """1F1B's, and about as many forwards as a rank can run until its first gradient can be there."""
    yield np.arange(problem.sizes[0], 0.0, -1.0)
    wait = problem.first_i_s - problem.first_f_s
    fit = wait / np.maximum(problem.seconds[0], 1e-12 * max(float(wait.max()), 1e-300))
    for part in (1.0, 0.625, 0.75, 0.875, 0.5, 1.125, 1.25):
        for more in (0.0, 0.5, 0.99, 1.5, 2.0):
            yield np.floor(part * fit + more + 1e-6)


def _falling(problem: Problem, longest: NDArray[np.float64]) -> NDArray[np.int64]:
    """Forwards before the first gradient: as many as memory holds, and fewer on each rank than on the one before."""
    saved, m = problem.size[0], problem.sizes[2]
    holds = np.floor(problem.limit[problem.rank_of] / np.maximum(saved, 1e-300) * (1 + 1e-9))
    most = np.minimum(longest, np.where(holds < m, holds, np.inf))
    warm = np.minimum.accumulate(most + np.arange(len(most))) - np.arange(len(most))
    return np.clip(warm, 1, 2 * m + len(most)).astype(np.int64)


def _named(problem: Problem) -> Iterator[Order]:
    """Fixed orders that a line may have; 1F1B with each backward split in two."""
    p, _, m, _ = problem.sizes
    for schedule in (one_f_one_b, zb_h1, zb_h2):
        rows = [expand(schedule.lane(int(s), p, m, 1), (int(s),)).codes for s in np.argsort(problem.rank_of)]
        yield problem.woven(map(_split, rows))


def _split(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    whole = codes[:, 0] == Kind.B
    codes = np.repeat(codes, 1 + whole, axis=0)
    backward = np.flatnonzero(codes[:, 0] == Kind.B)
    codes[backward[::2], 0], codes[backward[1::2], 0] = Kind.I, Kind.W
    return codes


def _whole(problem: Problem) -> Iterator[list[Lane]]:
    """1F1B as it is, where a whole backward is quicker than its halves."""
    p, _, m, _ = problem.sizes
    seconds = problem.task.costs.seconds
    if (seconds[Kind.B] < seconds[Kind.I] + seconds[Kind.W] - problem.slack_s).any():
        place = np.argsort(problem.rank_of)
        yield [expand(one_f_one_b.lane(int(s), p, m, 1), (int(problem.chain[s]),)) for s in place]


def idle(p: int, m: int, v: int, f: float, i: float, w: float) -> float:
    """Idle time per step on the busiest rank, of the makespan and of the span alike: that of ZB-H1."""
    return zb_h1.idle(p, m, v, f, i, w)


def holds(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[bool, bool]:
    """Proved for F = I = W, where it meets the warm-up bound; other times are what the search is for."""
    return (f == i == w,) * 2


def peak_micros(r: int, p: int, m: int, v: int) -> float:
    """Micro-batches whose activations rank r may hold, at most."""
    return min(p, m)
