"""How many nodes a training takes for a deadline or a budget, and what it can be had for at best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf

from penstock.search.fleet import Fleet, Limit, Sized
from penstock.search.misses import fits, nearest, refusal, too_much
from penstock.units import DAY_S, HOUR_S

MOST_ROWS = 400_000
"""Strategies that are scored at once, about; bounds the memory."""
MOST_SCREENED = 32
"""Numbers of nodes that are scored at once."""
FEW_SCREENED = 8
"""The same, where the first that is left ends the search."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a training may take, and how many steps it has; infinite where nothing is said."""

    steps: float
    most_s: float = inf
    most_usd: float = inf

    def step_s(self, fleet: Fleet) -> Callable[[int], float]:
        """Seconds that a step may take, by the number of nodes.

        Raises:
            ValueError: the rent of nodes is not known, and there is a budget.
        """
        if self.most_usd == inf:
            return lambda nodes: self.most_s / self.steps
        rent = rent_of(fleet)
        return lambda nodes: min(self.most_s, self.most_usd / (rent * nodes) * HOUR_S) / self.steps


def rent_of(fleet: Fleet) -> float:
    """Return US dollars per hour of one node, the mean where nodes differ.

    Raises:
        ValueError: they are not known.
    """
    cluster = fleet.space.cluster
    if cluster.usd_per_hour is None:
        names = " and ".join(node.name for node, _ in cluster.groups if node.usd_per_hour is None)
        raise ValueError(f"no rent of {names} is known; --usd-per-hour gives that of one node")
    return cluster.usd_per_hour / cluster.nodes


def sized(fleet: Fleet, limits: Limits) -> Sized:
    """Return the number of nodes that answers: the fewest in time, or, without a deadline, the fastest in the budget.

    Raises:
        ValueError: none is within the limits; it says the earliest end, or the least cost.
    """
    within = limits.step_s(fleet)
    found = fewest(fleet, within) if limits.most_s < inf else least(fleet, lambda nodes: 1.0, within)
    if found is not None:
        return found
    said = "" if fleet.stopped else _refusal(fleet, limits)
    if fleet.stopped:  # before, or while the reason was looked for
        some = f"{fleet.searched:,} of {len(fleet.splits):,} numbers of nodes were looked at"
        said = f"stopped before any number of nodes was found within the limits; {some}"
    raise ValueError(said)


def cheapest(fleet: Fleet) -> Sized | None:
    """Return the number of nodes on which a training costs least; ``None`` if nothing fits."""
    return least(fleet, float)


def _refusal(fleet: Fleet, limits: Limits) -> str:
    """What is possible, where the limits are not."""
    first, last = fleet.counts[0], fleet.counts[-1]
    where = f"on {_nodes(last)}" if first == last else f"on {first:,} to {_nodes(last)}"
    budget = Limits(limits.steps, most_usd=limits.most_usd)
    if (one := least(fleet, lambda nodes: 1.0, budget.step_s(fleet))) is not None:
        cheap = f" within $ {limits.most_usd:,.0f}" if limits.most_usd < inf else ""
        more = one.nodes * one.seconds * limits.steps / limits.most_s if limits.most_usd == inf else 0.0
        hint = f"; --nodes {last}..{ceil(1.5 * more)} looks further" if more > last else ""
        return f"{where} the training ends{cheap} after {_days(one, limits)} at the earliest{hint}"
    if (one := cheapest(fleet)) is not None:
        usd = rent_of(fleet) * one.nodes * one.seconds * limits.steps / HOUR_S
        return f"{where} the training costs $ {usd:,.0f} at least, after {_days(one, limits)}"
    space = fleet.of(last)
    if (small := nearest(space)) is None:
        return f"no strategy fits {where}; {refusal(space)}"
    if fits(small, fleet.headroom):
        days = _days(Sized(last, space.devices, small, small.seconds), limits)
        return f"{where} no strategy was found within the limits; {small.split} fits, and ends after {days}"
    return f"no strategy fits {where}; {small.split} needs least on {_nodes(last)}, {too_much(small, fleet.headroom)}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count:,} nodes"


def _days(one: Sized, limits: Limits) -> str:
    return f"{one.seconds * limits.steps / DAY_S:,.4g} days, on {one.nodes:,}"


def fewest(fleet: Fleet, limit: Limit) -> Sized | None:
    """Return the fewest nodes with a step within a limit.

    Numbers are tried from the fewest on, each unless its floor or its scores are above the limit: times need not fall
    with more nodes.
    """
    left = _open(fleet, fleet.counts, limit, FEW_SCREENED)
    return next((one for nodes in left if (one := fleet.best(nodes, limit(nodes))).choice), None)


def least(fleet: Fleet, weight: Callable[[int], float], limit: Limit = lambda nodes: inf) -> Sized | None:
    """Return the number of nodes whose step has the least seconds times weight, of those within a limit.

    All numbers are tried, each unless its floor or its scores are above the limit or the best known.
    """
    best: Sized | None = None

    def within(nodes: int) -> float:
        return limit(nodes) if best is None else min(limit(nodes), best.seconds * weight(best.nodes) / weight(nodes))

    for nodes in _open(fleet, sorted(fleet.splits, key=lambda n: (fleet.floor_s(n) * weight(n), n)), within):
        one = fleet.best(nodes, within(nodes))
        if one.choice and one.seconds <= within(nodes):
            best = one
    return best


def _open(fleet: Fleet, counts: Iterable[int], limit: Limit, most: int = MOST_SCREENED) -> Iterator[int]:
    """Give numbers in their order; before, some more of them each time are screened by what the limit is then."""
    left, some = iter(counts), 1
    while chunk := [*islice(left, some)]:
        rows = fleet.screen(chunk, limit)
        yield from chunk
        some = min(2 * some, most, max(1, MOST_ROWS * some // max(1, rows)))


def near(fleet: Fleet, nodes: int, each: int = 2) -> list[Sized]:
    """Return a number of nodes with those next to it that have a strategy, ``each`` below and above, and with half and
    twice as many."""
    known = [*fleet.splits]
    place = known.index(nodes)
    wanted = {*known[max(0, place - each) : place + each + 1], *(n for n in (nodes // 2, 2 * nodes) if n in known)}
    return [fleet.best(one) for one in sorted(wanted)]
