"""How many nodes a training takes for a deadline or a budget, and what it can be had for at best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from penstock.search.fleet import Fleet, Sized, fewest, least
from penstock.search.misses import nearest, refusal, too_much
from penstock.units import DAY_S, HOUR_S


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
    if found is None:
        raise ValueError(_refusal(fleet, limits))
    return found


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
        return f"{where} the training ends{cheap} after {_days(one, limits)} at the earliest"
    if (one := cheapest(fleet)) is not None:
        usd = rent_of(fleet) * one.nodes * one.seconds * limits.steps / HOUR_S
        return f"{where} the training costs $ {usd:,.0f} at least, after {_days(one, limits)}"
    space = fleet.of(last)
    near = nearest(space)
    said = (
        refusal(space)
        if near is None
        else f"{near.split} needs least on {_nodes(last)}, {too_much(near, fleet.headroom)}"
    )
    return f"no strategy fits {where}; {said}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count:,} nodes"


def _days(one: Sized, limits: Limits) -> str:
    return f"{one.seconds * limits.steps / DAY_S:,.4g} days, on {one.nodes:,}"
