"""Activations copied to the host while they wait, and back in time for their backward."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, index
from penstock.core.op import HOST, Kind
from penstock.core.plan import Plan
from penstock.core.play import Played, play
from penstock.lower.place import place
from penstock.lower.recompute import lives, refuse_unknown

MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""How much earlier than needed a fetch is asked for, in fetches, in the order they are tried."""
TRIES = 8
"""How often the least wait that is worth a copy is doubled before the plan stays without."""


class Wait(NamedTuple):
    """Activations of one stage and micro-batch between their forward and what uses them again."""

    link: int
    made_s: float
    used_s: float
    made: int
    """Id of the forward."""
    used: int
    """Id of the ``R``, ``B`` or ``I``."""
    stage: int
    micro: int
    gone_s: float = np.inf
    """When they are on the host, if they move."""


def offload(plan: Plan, costs: Costs, stages: Collection[int] | None = None, trips: float = 2.0) -> Plan:
    """The plan with ``OFFLOAD`` behind forwards and ``FETCH`` ahead of their backwards (PipeOffload: Wan et al. 2025,
    arXiv:2503.01328): at these costs no op ends later than without.

    Host links are planned from the times at which the plan runs. Going out, a link takes what was made first, and
    leaves alone what it could not bring back in time; coming back, each fetch begins as late as the link and the moment
    of its use allow, and is asked for by the last op of its rank that ends before. Ranks that share a link
    (``Costs.host_of``) so take turns. If an op then ends later, fetches are asked for earlier, and at last fewer
    activations are moved. How much of them moves says ``Costs.host_share``.

    Args:
        plan: legal. What it moves already stays as it is.
        costs: what it will run with.
        stages: whose activations; default all. Those of the first half of the chunks live longest: where each chunk's
            take the same memory at any time (``uniform``), the others are (v+2)/(8v) of 1F1B's, the paper's PO-H.
        trips: leave alone what waits less than so many times the way there and back.

    Raises:
        ValueError: the plan cannot run to its end, a stage is not there, or ``trips`` is below 1.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("gpipe", ranks=1, micros=3)
        >>> costs = Costs.uniform(plan.placement, other_s={Kind.OFFLOAD: 0.5, Kind.FETCH: 0.5})
        >>> print(offload(plan, costs).lanes[0])
        0F0 0OFFLOAD0 0F1 0OFFLOAD1 0FETCH0 0F2 0OFFLOAD2 0FETCH1 0B0 0FETCH2 0B1 0B2
    """
    if trips < 1:
        raise ValueError(f"trips={trips}; what waits less than one way there and back cannot be moved; give 1 or more")
    refuse_unknown(stages, plan.placement)
    if not plan.trains:
        return plan
    seconds = costs.of(plan)
    played = play(plan, seconds, costs.hop_s, costs.host_of)
    if np.isnan(played.end_s).any():
        raise ValueError(f"plan {plan.name!r} cannot run to its end; engine.check says why")
    waits = [one for one in _waits(plan, costs, played.start_s, played.end_s) if stages is None or one.stage in stages]
    latest_s = played.end_s + 1e-9 * played.end_s.max(initial=0.0)
    for _ in range(TRIES):
        moved = _outward(waits, costs, trips)
        for margin in MARGINS:
            new = _placed(plan, _inward(moved, costs, margin), played.end_s)
            if _delays_nothing(plan, new, latest_s, play(new, costs.of(new), costs.hop_s, costs.host_of)):
                return new
        trips *= 2
    return plan


def _delays_nothing(plan: Plan, new: Plan, latest_s: NDArray[np.float64], played: Played) -> bool:
    """Whether the ops of the plan end as early with the copies, and none comes back before it has gone."""
    kind, stage, micro = new.ops.T
    own = ~np.isin(kind, HOST) | (index(plan)[kind, stage, micro] != NOTHING)
    fetch = np.flatnonzero(kind == Kind.FETCH)
    gone_s = played.end_s[index(new)[Kind.OFFLOAD, stage[fetch], micro[fetch]]]
    return bool((played.end_s[own] <= latest_s).all() and (played.start_s[fetch] >= gone_s).all())


def _waits(plan: Plan, costs: Costs, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> Iterator[Wait]:
    forward, back = lives(plan)
    ids = index(plan)
    again = ids[Kind.R].astype(np.int64)
    used = np.where(again == NOTHING, back, again)
    for s, i in np.argwhere((forward != NOTHING) & (back != NOTHING) & (ids[Kind.OFFLOAD] == NOTHING)).tolist():
        f, b = int(forward[s, i]), int(used[s, i])
        yield Wait(int(costs.host_of[plan.rank_of_op[f]]), float(end_s[f]), float(start_s[b]), f, b, s, i)


def _outward(waits: list[Wait], costs: Costs, trips: float) -> list[Wait]:
    """What moves: in the order it was made, each only if its link brings it out in time to come back."""
    out_s, back_s = costs.seconds[Kind.OFFLOAD], costs.seconds[Kind.FETCH]
    free: dict[int, float] = {}
    moved = []
    for one in sorted(waits, key=lambda one: (one.made_s, one.made)):
        gone_s = max(one.made_s, free.get(one.link, 0.0)) + out_s[one.stage]
        trip_s = out_s[one.stage] + back_s[one.stage]
        life_s = one.used_s - one.made_s
        if life_s >= trips * trip_s and life_s > 0 and gone_s + (trips - 1) * trip_s + back_s[one.stage] <= one.used_s:
            free[one.link] = gone_s
            moved.append(one._replace(gone_s=float(gone_s)))
    return moved


def _inward(moved: list[Wait], costs: Costs, margin: float) -> Iterator[tuple[Wait, float]]:
    """When each fetch is asked for, last use first: as late as its link allows, and ``margin`` fetches earlier."""
    begins: dict[int, float] = {}
    for one in sorted(moved, key=lambda one: (-one.used_s, -one.used)):
        takes_s = costs.seconds[Kind.FETCH, one.stage]
        begins[one.link] = min(one.used_s, begins.get(one.link, np.inf)) - takes_s
        yield one, begins[one.link] - margin * takes_s


def _placed(plan: Plan, fetches: Iterator[tuple[Wait, float]], end_s: NDArray[np.float64]) -> Plan:
    """The plan with the copies: a fetch behind the last op of its rank that ends before it is asked for."""
    clock = [np.maximum.accumulate(end_s[a:b]) for a, b in zip(plan.first[:-1], plan.first[1:], strict=True)]
    ops, ranks, places = [], [], []
    for one, ask_s in sorted(fetches, key=lambda fetch: fetch[1]):
        rank = int(plan.rank_of_op[one.made])
        first = int(plan.first[rank])
        ahead = first + int(np.searchsorted(clock[rank], ask_s * (1 + 1e-12), side="right"))
        back_from = first + int(np.searchsorted(clock[rank], one.gone_s)) + 1
        if back_from > one.used:
            continue
        ops += [(Kind.OFFLOAD, one.stage, one.micro), (Kind.FETCH, one.stage, one.micro)]
        ranks += [rank, rank]
        behind = one.made + (2 if plan.fused[one.made] else 1)
        places += [4 * one.made + 2, 4 * min(max(ahead, behind, back_from), one.used)]
    return place(plan, np.array(ops).reshape(-1, 3), np.array(ranks, dtype=np.int64), np.array(places))
