"""Trade-offs of plans: time against memory of a device, against devices and against money, each where no other strategy
is better in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import FRAMEWORK, Setup
from penstock.cost.stack import Stack
from penstock.predict import scores
from penstock.search.choice import Choice, Planned
from penstock.search.finals import Tell, most_bytes, on, predicted_of, told
from penstock.search.margins import at_least_s
from penstock.search.planner import HEADROOM, best_of
from penstock.search.space import Space, space_of
from penstock.search.switches import choices, off
from penstock.search.wishes import Wished
from penstock.units import HOUR_S

NODES = tuple(map(Fraction, ("1/4", "1/2", "2", "4")))
"""Shares of the nodes that are tried beside all of them."""
STEP = 0.05
"""Next to each other on the front of memory differ by so much of it, at least."""
MOST = 48
"""Strategies that are predicted for the front of memory, beside those of the plan."""
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A strategy on so many nodes and devices, and the rent of a step, ``None`` where it is not known."""

    choice: Choice
    nodes: int
    devices: int
    usd_per_step: float | None

    @classmethod
    def of(cls, choice: Choice, cluster: Cluster) -> Point:
        """A strategy that takes all of a cluster."""
        rent = cluster.usd_per_hour
        usd = None if rent is None else rent * choice.seconds / HOUR_S
        return cls(choice=choice, nodes=cluster.nodes, devices=cluster.devices, usd_per_step=usd)

    @property
    def device_hours(self) -> float:
        """Of a step."""
        return self.devices * self.choice.seconds / HOUR_S

    @property
    def cost(self) -> float:
        """Of a step: its rent, or else its device-hours."""
        return self.device_hours if self.usd_per_step is None else self.usd_per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """What there is to choose between.

    Args:
        memory: strategies on all devices, those of the plan and others that need less memory, fastest first.
        devices: the fastest that fits of each number of nodes, fewest first.
        refused: numbers of devices with which nothing is, and why.
    """

    memory: tuple[Point, ...]
    devices: tuple[Point, ...]
    refused: tuple[tuple[int, str], ...] = ()

    @property
    def memory_front(self) -> list[bool]:
        """Which of ``memory`` no other beats in time and memory of a device."""
        return undominated([(one.choice.seconds, one.choice.needed_bytes) for one in self.memory])

    @property
    def devices_front(self) -> list[bool]:
        """Which of ``devices`` no other beats in time and number of devices."""
        return undominated([(one.choice.seconds, one.devices) for one in self.devices])

    @property
    def cost_front(self) -> list[bool]:
        """Which of ``devices`` no other beats in time and cost."""
        return undominated([(one.choice.seconds, one.cost) for one in self.devices])


def undominated(pairs: Sequence[Pair]) -> list[bool]:
    """Return of each pair whether no other is as small in both and smaller in one.

    >>> undominated([(1, 9), (2, 5), (3, 5), (4, 1), (2, 5)])
    [True, True, False, True, True]
    """
    kept, least = set(), np.inf
    for x, y in sorted(set(pairs)):
        if y < least:
            kept.add((x, y))
            least = y
    return [pair in kept for pair in pairs]


def pareto(
    model: str | Path | Architecture,
    cluster: str | Path | Cluster,
    framework: str | Stack = FRAMEWORK,
    *,
    seq: int,
    batch: int,
    fix: Wished = None,
    exclude: Wished = None,
    top: int = 20,
    headroom: float = HEADROOM,
) -> Pareto:
    """Return what there is to choose between for a training: step time against memory of a device, number of devices,
    and cost. Arguments and errors are those of ``plan``.

    Example:
        >>> found = pareto("llama-3-8b", "dgx-h100:1", seq=4096, batch=64, fix="zero=1,cp=1,sp=1", top=1)
        >>> [point.devices for point in found.devices], found.devices_front
        ([8, 16, 32], [True, True, True])
        >>> fastest, *_, lightest = found.memory
        >>> fastest.choice.needed_bytes > 2 * lightest.choice.needed_bytes
        True
    """
    space = space_of(model, cluster, framework, seq=seq, batch=batch, fix=fix, exclude=exclude)
    return around(space, best_of(space, top=top, headroom=headroom))


def around(space: Space, found: Planned, tell: Tell = on) -> Pareto:
    """Return the trade-offs around a plan.

    The front of memory is that of the strategies whose scores are on it, predicted with their timelines: as near to the
    front of all as scores are to predictions. Other numbers of nodes are planned as the plan itself was.

    Args:
        space: what the plan chose from.
        found: the plan.
        tell: is told what is looked at next; what follows is left out when it says ``False``.
    """
    own = [Point.of(found.best, space.cluster)] if found.choices else []
    refused = [] if found.choices else [(space.devices, "nothing fits")]
    others = [*_others(space.cluster)]
    for cluster in others:
        looking = f"looking at {cluster.devices:,} devices"
        if not tell(looking):
            refused.append((cluster.devices, "stopped before it was looked at"))
            continue
        try:
            there, watch = _on(space, cluster, others[-1]), told(tell, looking)
            other = best_of(there, top=1, headroom=found.headroom, watch=watch)
        except ValueError as error:
            refused.append((cluster.devices, str(error)))
            continue
        if other.choices:
            own.append(Point.of(other.best, cluster))
        else:
            refused.append((cluster.devices, "stopped early" if other.stopped else "nothing fits"))
    return Pareto(
        memory=tuple(Point.of(one, space.cluster) for one in _of_memory(space, found, tell)),
        devices=tuple(sorted(own, key=lambda point: point.devices)),
        refused=tuple(sorted(refused)),
    )


def _on(space: Space, cluster: Cluster, largest: Cluster) -> Space:
    """The space on a cluster; of equal nodes on the first ones of the largest, which shares what it finds of ranks."""
    if not cluster.uniform:
        return replace(space, cluster=cluster)
    return replace(space, cluster=largest, used=cluster.devices)


def _others(cluster: Cluster) -> Iterator[Cluster]:
    """The same cluster with fewer and more nodes; those of several groups stay as they are to each other."""
    own = [count for _, count in cluster.groups]
    tried = [own]
    for share in NODES:
        counts = [share * count for count in own]
        if len(own) == 1:
            counts = [Fraction(ceil(counts[0]))]
        if counts in tried or any(count.denominator > 1 for count in counts):
            continue
        tried.append([int(count) for count in counts])
        groups = tuple((node, int(count)) for (node, _), count in zip(cluster.groups, counts, strict=True))
        yield replace(cluster, name=f"{share} of {cluster.name}", groups=groups, measured=None)


def _of_memory(space: Space, found: Planned, tell: Tell) -> list[Choice]:
    """The plan's choices, and others that need less memory, each as fast as any that needs no more."""
    known, looking = {choice.setup: choice for choice in found.choices}, "looking at strategies that need less memory"
    for setup, score_s in _light(space, found.headroom) if tell(looking) else ():
        made = None if setup in known or not tell(looking) else predicted_of(space, setup, score_s)
        if made is not None and made.headroom >= found.headroom:
            known[setup] = made
    some = sorted(known.values(), key=lambda choice: (choice.seconds, choice.needed_bytes))
    front = undominated([(one.seconds, one.needed_bytes) for one in some])
    best = {one.setup for one in _apart([one for one, on in zip(some, front, strict=True) if on])}
    listed = {choice.setup for choice in found.choices}
    return [one for one in some if one.setup in best | listed]


def _apart(front: Sequence[Choice]) -> Iterator[Choice]:
    """Those of a front, fastest first, that need noticeably less than the one before, and the last."""
    last = np.inf
    for one in front:
        if one.needed_bytes <= (1 - STEP) * last or one is front[-1]:
            last = one.needed_bytes
            yield one


def _light(space: Space, headroom: float) -> list[tuple[Setup, float]]:
    """Setups whose scores are on the front of time and memory, or would be if they were as fast as they may be."""
    found: list[tuple[float, float, float, Setup]] = []
    both = (space, off(space)) if any("on" in values for values in choices(space).values()) else (space,)
    for grid in (one.grid(share) for one in both for share in one.shares()):
        scored = scores(space.model, space.cluster, grid, space.stack, most_bytes(space, grid, headroom))
        rows = np.flatnonzero(np.isfinite(scored.seconds))
        seconds, needed = scored.seconds[rows], scored.needed_bytes[rows]
        early = at_least_s(grid.rows(rows), seconds)
        for at in sorted({*_front(seconds, needed), *_front(early, needed)}):
            found.append((float(seconds[at]), float(early[at]), float(needed[at]), grid.setup(int(rows[at]))))
    chosen: dict[Setup, float] = {}
    for column in (0, 1):
        values = np.array([(one[column], one[2]) for one in found]).reshape(-1, 2).T
        front = [*_front(*values)]
        for at in front[:: -(-2 * len(front) // MOST) or 1]:
            chosen[found[at][3]] = found[at][0]
    return [*chosen.items()]


def _front(seconds: NDArray[np.float64], needed: NDArray[np.float64]) -> Iterator[int]:
    """Places of the front, the fastest first."""
    least = np.inf
    for at in np.lexsort((needed, seconds)).tolist():
        if needed[at] < least:
            least = needed[at]
            yield at
