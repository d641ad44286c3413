"""The verb: from costs, placements and a limit of memory to the best order that a search finds in its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from penstock.core.costs import Costs
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.search.rounds import Search
from penstock.search.solution import DEFAULTS, Aim, Found, Options, Solution
from penstock.search.steady import Steady
from penstock.search.ways import Way, ways_of
from penstock.search.workers import pool, processes_of


def solve(
    costs: Costs | Callable[[Placement], Costs],
    placements: Mapping[str, Placement | Way] | Sequence[Placement] | Placement,
    micros: int,
    memory_limit: float | None = None,
    objective: Aim = "sync",
    options: Options = DEFAULTS,
    start: Plan | None = None,
    watch: Callable[[Found, float], bool] = lambda found, bound_s: True,
) -> Solution:
    """The best order of forwards, input gradients and weight gradients that is found in the time.

    All named schedules that live on one of the placements and keep the limit are where the search begins, so the answer
    is never worse than the best of them. Then whole orders are varied and played again (``schedules.vary``) and single
    ops moved (``search.anneal``), most of the time on the placements that do best; those whose bound is above the best
    order are left alone. Ctrl-C ends the search with what it has.

    For ``period`` the search is for an order that repeats (``search.steady``): of all that keep the limit however many
    micro-batches follow each other, the one with the fewest seconds from one to the next, in the long run. The plan
    is this order for ``micros`` of them, with what its first and last turns lack left out. A constraint solver, if it
    is installed, shows what none that repeats beats (``search.turns``); the bound holds for all orders.

    Args:
        costs: of each placement, or as a function of it.
        placements: where stages may live, by names of your own; or ways, which bring costs of their own.
        micros: micro-batches per step.
        memory_limit: bytes of activations that any rank may hold; ``None`` for any.
        objective: ``sync`` for the makespan, ``span`` for the longest time of one rank, ``period`` for the seconds from
            one micro-batch to the next where very many follow each other.
        options: how long and how.
        start: a plan on one of the placements, for example of an earlier search, to go on from.
        watch: told of each better order and of the bound; the search ends when it says ``False``.

    Raises:
        ValueError: no placement, one that cannot hold the limit, or ``start`` lives on none of them.

    Example:
        >>> found = solve(Costs.uniform, Placement.vee(2), 4, memory_limit=2.0, options=Options(2.0, processes=1))
        >>> found.seconds, found.proven, found.named
        (12.5, True, ('zb-v', 12.5))
    """
    begun = time.perf_counter()
    ways = ways_of(_by_name(placements), costs if callable(costs) else lambda placement: costs)
    if objective == "period":
        if start is not None:
            raise ValueError(
                f"start={start.name!r}: a search for the period begins with orders that repeat; leave it out"
            )
        if options.noise is not None:
            raise ValueError("noise: a search for the period does not judge under it; leave it out")
        with pool(processes_of(options)) as workers:
            return Steady(ways, micros, memory_limit, options, watch).run(workers, processes_of(options))
    search = Search(ways, micros, memory_limit, objective, options, begun, watch)
    search.begin(start)
    with pool(search.processes) as workers:
        while search.goes_on():
            try:
                search.round(workers)
            except KeyboardInterrupt:
                search.stopped = True
        if options.noise is None:
            return search.solution()
        from penstock.search.robust import harden

        return harden(search, options.noise, workers)


def _by_name(
    placements: Mapping[str, Placement | Way] | Sequence[Placement] | Placement,
) -> Mapping[str, Placement | Way]:
    if isinstance(placements, Placement):
        placements = [placements]
    if not isinstance(placements, Mapping):
        placements = {f"rank_of={','.join(map(str, place.rank_of))}": place for place in placements}
    if not placements:
        raise ValueError("no placement to search; give one, for example Placement.vee(4)")
    return placements
