"""Ways that a placement leaves open: cuts of layers, forwards that run again, copies to the host, vocabulary passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.cost import with_parts
from penstock.engine.fit_memory import recompute_to_fit
from penstock.engine.passes import Passed, with_offload
from penstock.lower import recompute_costs, split_vocabulary
from penstock.search.ways import Way

LOOSE = (1.25, 1.5, 2.0, 3.0)
"""Times the limit that orders may hold before some of it runs again or is copied away."""
PARTS = 4
"""Beginnings of the chain that may run again: so many, and the last is all of it."""
CUTS = 4
"""Cuts of one placement that are worth a search, the best by the busiest rank first."""


def cuts(
    placement: Placement, layers: int, load_s: Callable[[Sequence[int]], Sequence[float] | NDArray[np.float64]]
) -> list[tuple[int, ...]]:
    """Layers of each model part, for cuts whose busiest rank has least to do; the best first.

    From an even cut, single layers go from one part to another as long as the busiest rank, or then the sum of squares
    over ranks, becomes less; what one more move away is almost as good follows.

    Args:
        placement: of stages.
        layers: to be shared out; every part gets one at least.
        load_s: seconds of work per micro-batch of each rank, by cut.

    Raises:
        ValueError: more parts than layers.

    Example:
        >>> head = [0, 0, 3]
        >>> cuts(Placement.loop(3), 12, lambda cut: [a + b for a, b in zip(cut, head)])[0]
        (5, 5, 2)
    """
    cut = _even(placement, layers)
    parts = len(cut)

    def score(cut: tuple[int, ...]) -> tuple[float, float]:
        loads = np.array(load_s(cut))
        return round(float(loads.max()), 9), round(float((loads**2).sum()), 9)

    def near(cut: tuple[int, ...]) -> list[tuple[int, ...]]:
        moves = [(a, b) for a in range(parts) if cut[a] > 1 for b in range(parts) if a != b]
        return [tuple(n - (s == a) + (s == b) for s, n in enumerate(cut)) for a, b in moves]

    while True:
        others = sorted(near(cut), key=score)
        if not others or score(others[0]) >= score(cut):
            return [cut, *others[: CUTS - 1]]
        cut = others[0]


def _even(placement: Placement, layers: int) -> tuple[int, ...]:
    parts = max(placement.part_of) + 1
    if layers < parts:
        raise ValueError(f"{layers} layers do not fill {parts} stages; take fewer chunks")
    return tuple(layers // parts + (s >= parts - layers % parts) for s in range(parts))


def with_cuts(placement: Placement, layers: int, on: Callable[[Placement, Sequence[int]], Costs]) -> dict[str, Way]:
    """The placement with the best cuts of its layers.

    Args:
        placement: of stages.
        layers: of the model.
        on: costs of a placement and a cut.
    """
    even = _even(placement, layers)
    ranks = range(placement.ranks)
    turned = [Placement(tuple((layer + turn) % placement.ranks for layer in range(layers))) for turn in ranks]
    each_s = np.mean([_work_s(on(single, (1,) * layers)) for single in turned], axis=0)
    until_s, part_of = np.concatenate([[0.0], np.cumsum(each_s)]), np.array(placement.part_of)

    def stage_s(cut: Sequence[int]) -> NDArray[np.float64]:
        """A part has the sum of its layers; what the ends of the model do on top is in the first and the last."""
        return np.asarray(np.diff(until_s[np.cumsum([0, *cut])])[part_of])

    slower = _work_s(on(placement, even)) / np.maximum(stage_s(even), 1e-300)

    def load_s(cut: Sequence[int]) -> NDArray[np.float64]:
        """Ranks may be of different speed: the same layers take each so many times as long as the average of ranks."""
        return np.bincount(placement.rank_of, slower * stage_s(cut)).astype(np.float64)

    found = cuts(placement, layers, load_s)
    return {f"cut {'+'.join(map(str, cut))}": Way(placement, on(placement, cut)) for cut in found}


def _work_s(costs: Costs) -> NDArray[np.float64]:
    """Of each stage, per micro-batch."""
    return np.asarray(costs.seconds[[Kind.F, Kind.I, Kind.W]].sum(axis=0))


def with_recompute(way: Way, kept: float | None, time: float) -> dict[str, Way]:
    """The way with forwards that run again: of beginnings of the chain, whose activations live longest, for all
    micro-batches, or of as few micro-batches as the limit asks for.

    Args:
        way: plain.
        kept: share of a forward's activations that stays in between; ``None``: its input.
        time: of running again, over that of the forward.
    """
    place = way.placement
    costs, deep = recompute_costs(way.costs, place, kept, time), max(place.depth_of) + 1
    found: dict[str, Way] = {}
    for part in range(1, PARTS + 1):
        again = frozenset(s for s, depth in enumerate(place.depth_of) if depth * PARTS < part * deep)
        found[f"again {len(again)} of {place.stages} stages"] = Way(place, costs, again)
    return found


def to_fit(way: Way, kept: float | None, time: float, limit: float) -> dict[str, Way]:
    """The way with orders that hold more than the limit, until some micro-batches run again."""
    costs = recompute_costs(way.costs, way.placement, kept, time)
    finish = partial(_fitted, costs, limit)
    return {f"again where needed x{loose:g}": Way(way.placement, costs, finish=finish, loose=loose) for loose in LOOSE}


def _fitted(costs: Costs, limit: float, plan: Plan) -> Passed:
    return recompute_to_fit(plan, costs, limit), costs


def with_copies(way: Way, time: float | None = None) -> dict[str, Way]:
    """The way with orders that hold more than the limit, until copies to the host are made.

    Args:
        way: plain.
        time: of copying all of them one way over that of the forward; ``None``: what the costs know, else 0.5.
    """
    finish = partial(with_offload, costs=way.costs, time=time)
    return {f"offload x{loose:g}": replace(way, finish=finish, loose=loose) for loose in LOOSE}


def with_vocabulary(bare: Way, head_s: float, embed_s: float) -> dict[str, Way]:
    """The way with head and embedding on all ranks, by either algorithm (Yeung et al. 2024, arXiv:2411.05288).

    Args:
        bare: plain, with costs of the layers alone.
        head_s, embed_s: forward of the whole head and embedding (see ``cost.with_parts``).
    """
    found: dict[str, Way] = {}
    place = bare.placement
    for algorithm in (1, 2):
        costs = with_parts(bare.costs, place, algorithm, head_s, embed_s)
        each = np.bincount(place.rank_of)[list(place.rank_of)]
        seconds = costs.seconds.copy()
        seconds[Kind.F] += (seconds[Kind.S] + seconds[Kind.IF]) / each
        seconds[[Kind.B, Kind.I]] += (seconds[Kind.T] + seconds[Kind.IB]) / each
        for ahead in (None, 0):
            name = f"vocabulary {algorithm}" + (" none ahead" if ahead == 0 else "")
            finish = partial(_split, costs, algorithm, ahead)
            found[name] = Way(place, replace(costs, seconds=seconds), finish=finish, least=bare.costs)
    return found


def _split(costs: Costs, algorithm: int, ahead: int | None, plan: Plan) -> Passed:
    return split_vocabulary(plan, 1 if algorithm == 1 else 2, costs=costs, ahead=ahead), costs
