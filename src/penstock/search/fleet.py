"""The noun ``Fleet``: a training on any of several numbers of nodes, and which of them is best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import inf, nextafter

import numpy as np

from penstock.core.catalogue import find
from penstock.core.cluster import Cluster
from penstock.predict import scores
from penstock.predict.floor import work_s
from penstock.search.choice import Choice
from penstock.search.finals import finals, most_bytes, scored
from penstock.search.margins import OVER_ELSE, at_least_s
from penstock.search.planner import check_wanted
from penstock.search.space import Space, Split

AT_ONCE = 8
"""Strategies that are predicted before it is looked whether others may be better: fewer than where many are listed."""
MOST_ROWS = 400_000
"""Strategies that are scored at once, about; bounds the memory."""
MOST_SCREENED = 32
"""Numbers of nodes that are scored at once."""
FEW_SCREENED = 8
"""The same, where the first that is left ends the search."""
MOST_NODES = 1024
"""Tried of a node whose number is not given."""
Limit = Callable[[int], float]
"""Seconds that a step may take, by the number of nodes."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A number of nodes.

    ``choice``: its fastest strategy, ``None`` if none fits, or none within what was asked. ``least_s``: no strategy
    takes fewer seconds a step. ``proven``: whether no other is faster than the choice, as in ``Planned``.
    """

    nodes: int
    devices: int
    choice: Choice | None
    least_s: float
    proven: bool = True

    @property
    def seconds(self) -> float:
        """Of a step; infinite without a strategy."""
        return self.choice.seconds if self.choice else inf


@dataclass(frozen=True, eq=False)
class Fleet:
    """A training on any of several numbers of equal nodes.

    Args:
        space: its strategies, on the most nodes.
        counts: numbers of nodes, ascending.
        headroom: share of a device's memory that stays free.
        tell: is called with each number that is looked at.
    """

    space: Space
    counts: tuple[int, ...]
    headroom: float
    tell: Callable[[int], None] = lambda nodes: None
    _known: dict[int, Sized] = field(default_factory=dict, init=False, repr=False)

    def of(self, nodes: int) -> Space:
        """The strategies on so many of the nodes."""
        return replace(self.space, used=nodes * self.space.cluster.groups[0][0].devices)

    @cached_property
    def splits(self) -> dict[int, list[Split]]:
        """Splits by numbers of nodes, of those that have any."""
        found = {nodes: self.of(nodes).splits() for nodes in self.counts}
        return {nodes: splits for nodes, splits in found.items() if splits}

    @cached_property
    def work_s(self) -> dict[tuple[int, int], float]:
        """Device-seconds that a step takes at least, by tp and cp; infinite where they do not divide the model."""
        kinds = {(tp, cp, dp): (tp, cp, pp, dp) for splits in self.splits.values() for tp, cp, pp, dp in splits}
        space, found = self.space, dict[tuple[int, int], float]()
        for tp, cp in {split[:2] for split in kinds}:
            grid = space.grid(split for split in kinds.values() if split[:2] == (tp, cp))
            each = work_s(space.model, space.cluster, grid, space.stack)
            found[tp, cp] = float(each.min(initial=inf))
        return found

    def floor_s(self, nodes: int) -> float:
        """Seconds that a step takes at least, by the work of its devices alone; infinite if nothing divides them."""
        least = min((self.work_s[split[:2]] for split in self.splits.get(nodes, ())), default=inf)
        return least / self.of(nodes).devices

    def known(self, nodes: int) -> Sized:
        """What is known of so many nodes: at least a floor."""
        return self._known.get(nodes) or Sized(nodes, self.of(nodes).devices, None, self.floor_s(nodes))

    def best(self, nodes: int, most_s: float = inf) -> Sized:
        """Return the fastest strategy on so many nodes, if it takes no more than ``most_s``."""
        known = self.known(nodes)
        if known.choice is None and known.least_s <= most_s and known.least_s < inf:
            known = self._known[nodes] = self._found(nodes, most_s)
        return replace(known, choice=None) if known.choice and known.seconds > most_s else known

    def screen(self, counts: Iterable[int], limit: Limit) -> int:
        """Rule out those of some numbers of nodes by scores on which no step is within a limit: all at once, which
        takes much less time than one by one; return how many strategies were scored."""
        seeks = {nodes: limit(nodes) for nodes in counts if self.known(nodes).choice is None}
        seeks = {nodes: most_s for nodes, most_s in seeks.items() if self.known(nodes).least_s <= most_s < inf}
        space, size = self.space, self.of(1).devices
        grid = space.grid(split for n, s in seeks.items() for split in self._soon(n, s, self.splits[n]))
        if not len(grid):
            return 0
        row_nodes = grid.devices // size
        most_s = np.array([(1 + OVER_ELSE) * seeks[n] for n in row_nodes.tolist()])
        room = most_bytes(space, grid, self.headroom)
        found = scores(space.model, space.cluster, grid, space.stack, room, most_s)
        low_s = at_least_s(grid, found.seconds)
        for nodes, most in seeks.items():
            self.tell(nodes)
            if low_s[row_nodes == nodes].min(initial=inf) > most:
                self._known[nodes] = Sized(nodes, nodes * size, None, nextafter(most, inf))
        return len(grid)

    def _soon(self, nodes: int, most_s: float, splits: Iterable[Split]) -> list[Split]:
        """Splits whose devices could do their work in so many seconds."""
        return [split for split in splits if self.work_s[split[:2]] <= most_s * self.of(nodes).devices]

    def _found(self, nodes: int, most_s: float) -> Sized:
        """Look for the fastest strategy on so many nodes, if it takes no more than ``most_s``."""
        self.tell(nodes)
        space = self.of(nodes)
        soon = (self._soon(nodes, most_s, share) for share in space.shares())
        shares = [scored(space, share, self.headroom, most_s=most_s) for share in soon]
        low_s = min(float(at_least_s(share.grid, share.seconds).min(initial=inf)) for share in shares)
        above = Sized(nodes, space.devices, None, nextafter(most_s, inf))
        if low_s > most_s:
            return above
        choices, _, proven = finals(space, shares, 1, self.headroom, AT_ONCE)
        if choices and choices[0].seconds <= most_s:
            return Sized(nodes, space.devices, choices[0], choices[0].seconds if proven else low_s, proven)
        return above if proven else Sized(nodes, space.devices, None, low_s, proven)

    def rows(self) -> list[Sized]:
        """What is known of every number of nodes that has a strategy which divides the model."""
        return [self.known(nodes) for nodes in self.splits if self.floor_s(nodes) < inf]

    @property
    def searched(self) -> int:
        """How many numbers of nodes were looked at."""
        return len(self._known)


def fleet_of(
    space_on: Callable[[Cluster], Space],
    cluster: Cluster,
    nodes: str = "",
    *,
    headroom: float,
    tell: Callable[[int], None] = lambda nodes: None,
) -> Fleet:
    """Return the numbers of nodes of a cluster that are asked for.

    Args:
        space_on: gives the strategies on a cluster.
        cluster: whose nodes they are. A name without a number, ``dgx-h100``, has up to ``MOST_NODES``.
        nodes: numbers as ``counted`` reads them; left out, all up to those of the cluster.
        headroom, tell: as in ``Fleet``.

    Raises:
        ValueError: nodes of several kinds, no strategy on any of the numbers, or no share of a whole as headroom.
    """
    check_wanted(1, headroom)
    bare = find(cluster.name) is not None and cluster.measured is None
    counts = tuple(counted(nodes) if nodes else range(1, (MOST_NODES if bare else cluster.nodes) + 1))
    fleet = Fleet(space_on(grown(cluster, counts[-1])), counts, headroom, tell)
    if not fleet.splits:
        fleet.space.check()
        raise ValueError(f"no split of {nodes or counts[-1]} nodes of {cluster.name} is left; ask for other numbers")
    return fleet


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


def grown(cluster: Cluster, nodes: int) -> Cluster:
    """Return a cluster of so many of its nodes.

    Raises:
        ValueError: its nodes differ, or links were measured of fewer nodes.

    >>> grown(Cluster.read("dgx-h100:4"), 16).devices
    128
    """
    if not cluster.uniform:
        raise ValueError(f"cluster={cluster.name} has nodes of several kinds; name one kind to ask how many")
    if cluster.measured is not None and nodes > cluster.nodes:
        raise ValueError(f"links of {cluster.name} were measured of {cluster.nodes} nodes; ask for no more than these")
    measured, node = cluster.measured, cluster.groups[0][0]
    if measured is not None:
        rows = nodes if len(measured) == cluster.nodes else nodes * node.devices
        measured = tuple(row[:rows] for row in measured[:rows])
    return replace(cluster, groups=((node, nodes),), measured=measured)


def counted(text: str) -> list[int]:
    """Return numbers that text gives: ``8..64``, ``8/16/32``, or both.

    Raises:
        ValueError: something else.

    >>> counted("8/16..18")
    [8, 16, 17, 18]
    """
    found: set[int] = set()
    for word in text.split("/"):
        low, dots, high = word.partition("..")
        ends = (low, high if dots else low)
        if not all(end.strip().isdecimal() and int(end) > 0 for end in ends) or int(ends[0]) > int(ends[1]):
            raise ValueError(f"{word!r} is no number of nodes; write 64, 8..64 or 8/16/32")
        found |= {*range(int(ends[0]), int(ends[1]) + 1)}
    return sorted(found)
