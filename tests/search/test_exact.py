"""What the constraint solver shows is true of all orders."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine.bounds import bounds, least_bytes
from penstock.schedules.problem import KINDS
from penstock.schedules.reorder import play
from penstock.schedules.task import Task
from penstock.schedules.work import Work
from penstock.search.exact import exact
from penstock.search.kernel import one_by_one

pytest.importorskip("ortools")


def shortest(task, work):
    """The least time over all orders, by trying them op after op, but for those that cannot be shorter."""
    ranks, ops = len(work.begin) - 1, len(work.codes)
    best, end, span = np.inf, [np.inf] * ops, task.objective == "span"
    needs = [
        [(int(d), lag) for d, lag in zip(*both, strict=True) if d >= 0]
        for both in zip(work.needed, work.lag, strict=True)
    ]
    for o in np.flatnonzero(np.diff(work.stream, prepend=-1) == 0):
        needs[o].append((int(o) - 1, 0.0))
    rank, seconds, takes, frees = (values.tolist() for values in (work.rank, work.seconds, work.takes, work.frees))

    def go(done, free, first, held, left):
        nonlocal best
        if max(free[r] + left[r] - (min(first[r], free[r]) if span else 0.0) for r in range(ranks)) >= best:
            return
        if done == ops:
            best = max(free[r] - (first[r] if span else 0.0) for r in range(ranks))
            return
        for o in range(ops):
            r = rank[o]
            if end[o] < np.inf or held[r] + takes[o] > work.most or any(end[d] == np.inf for d, _ in needs[o]):
                continue
            if r < before[-1] and last[-1] not in [d for d, _ in needs[o]]:
                continue  # the same lanes come up with the op of the lower rank first
            start = max([free[r], *(end[d] + lag for d, lag in needs[o])])
            kept = free[r], first[r], held[r], left[r]
            end[o] = free[r] = start + seconds[o]
            first[r], held[r], left[r] = min(first[r], start), held[r] + takes[o] - frees[o], left[r] - seconds[o]
            before.append(r)
            last.append(o)
            go(done + 1, free, first, held, left)
            before.pop()
            last.pop()
            free[r], first[r], held[r], left[r] = kept
            end[o] = np.inf

    before, last = [0], [-1]
    go(0, [0.0] * ranks, [np.inf] * ranks, [0.0] * ranks, np.bincount(work.rank, work.seconds).tolist())
    return best


TINY = {
    "line": (Placement.loop(2), 3),
    "loop": (Placement.loop(2, 2), 2),
    "v": (Placement.vee(2), 2),
    "three": (Placement.loop(3), 2),
    "uneven": (Placement((0, 1, 1)), 2),
    "both": (Placement.both_ways(2), 2),
}


def uneven(place, rng, whole=True):
    """Times, links and bytes that differ; halves of backwards take as long as the whole."""
    costs = Costs.uniform(place, link_s=1.0, w_share=0.5)
    draw = (lambda low, high, shape: rng.integers(low, high, shape)) if whole else rng.uniform
    seconds = costs.seconds.copy()
    for kind in KINDS:
        seconds[kind] = draw(0 if kind == Kind.W else 1, 5, place.stages)
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]
    hop_s = np.triu(draw(0, 3, costs.hop_s.shape), 1)
    return replace(costs, seconds=seconds, hop_s=(hop_s + hop_s.T).astype(float))


def tight(place, costs, rng):
    """A limit that binds, or none."""
    return least_bytes(place, costs) * float(rng.choice([1.0, 1.5, 2.0])) if rng.random() < 0.8 else None


def begun(task):
    limit = np.inf if task.memory_limit is None else task.memory_limit
    work = Work.of(task, KINDS, limit)
    found = bounds(task.placement, task.micros, task.costs, limit)
    bound = found.makespan if task.objective == "sync" else found.span
    return work, bound.seconds, play(work, one_by_one(task, work))


@pytest.mark.parametrize("objective", ["sync", "span"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TINY)
def test_tiny_tasks_are_solved_as_by_trying_all_orders(name, seed, objective):
    place, micros = TINY[name]
    rng = np.random.default_rng(seed)
    costs = uneven(place, rng, whole=seed < 2)
    task = Task(place, micros, costs, tight(place, costs, rng), objective)
    work, bound_s, run = begun(task)
    best = shortest(task, work)
    proof = exact(task, work, bound_s, run.score(objective)[0] + 1.0, 4.0)
    assert proof.bound_s <= best * (1 + 1e-9)
    if objective == "sync" or (place.chains == 1 and name != "uneven"):
        assert proof.bound_s == pytest.approx(best, rel=1e-9)
        assert proof.run is not None
        assert proof.run.score(objective)[0] == pytest.approx(best, rel=1e-9)
