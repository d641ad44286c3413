"""The noun ``Fleet``: a training on any of several numbers of nodes, and which of them is best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, lcm, nextafter

import numpy as np

from penstock.core.catalogue import find
from penstock.core.cluster import Cluster
from penstock.core.mesh import ORDER
from penstock.core.parts import Experts
from penstock.core.side_by_side import cores, side_by_side
from penstock.predict import Grid, scores
from penstock.predict.floor import work_s
from penstock.predict.grid import joined
from penstock.predict.score import ranks_of
from penstock.predict.widened import as_asked
from penstock.search.batches import Batches
from penstock.search.choice import Choice
from penstock.search.finals import Going, finals, grids, most_bytes, scored, told
from penstock.search.margins import OVER_ELSE, at_least_s
from penstock.search.nodes import counted, grown
from penstock.search.planner import check_wanted
from penstock.search.space import MOST_TOKENS, Space, Split
from penstock.search.wishes import Wishes

AT_ONCE = 8
"""Strategies that are predicted before it is looked whether others may be better: fewer than where many are listed."""
MANY = 8
"""Numbers of nodes from which on they are screened side by side."""
MOST_NODES = 1024
"""Tried of a node whose number is not given."""
Limit = Callable[[int], float]
"""Seconds that a step may take, by the number of nodes; where batches differ, a step of the fleet's own batch."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A number of nodes.

    ``choice``: its fastest strategy, ``None`` if none fits, or none within what was asked. ``least_s``: no strategy
    takes fewer seconds a step. ``proven``: whether no other is faster than the choice, as in ``Planned``. ``scale``:
    sequences of the steps that seconds are of, over those of the choice's.
    """

    nodes: int
    devices: int
    choice: Choice | None
    least_s: float
    proven: bool = True
    scale: float = 1.0

    @property
    def seconds(self) -> float:
        """Of a step; infinite without a strategy."""
        return self.choice.seconds * self.scale if self.choice else inf


@dataclass(frozen=True, eq=False)
class Fleet:
    """A training on any of several numbers of equal nodes, or on all of different ones.

    Args:
        space: its strategies, on the most nodes.
        counts: numbers of nodes, ascending.
        headroom: share of a device's memory that stays free.
        tell: is called with each number that is looked at; the search ends when it says ``False``.
        batches: those that may be chosen for each number; left out, that of the space.

    Where batches differ, all seconds are of as many sequences as a step of the space has.
    """

    space: Space
    counts: tuple[int, ...]
    headroom: float
    tell: Callable[[int], bool] = lambda nodes: True
    batches: Batches | None = None
    _ended: list[int] = field(default_factory=list, init=False, repr=False)
    _known: dict[int, Sized] = field(default_factory=dict, init=False, repr=False)

    def of(self, nodes: int, batch: int = 0) -> Space:
        """The strategies on so many of the nodes, with a batch of its own."""
        base = replace(self.space.base, batch=batch) if batch else self.space.base
        used = nodes * self.space.cluster.devices // self.space.cluster.nodes
        return replace(self.space, used=used, base=base)

    def tried(self, nodes: int) -> tuple[int, ...]:
        """Batches that are tried on so many nodes."""
        return (self.space.base.batch,) if self.batches is None else self.batches.on(self.of(nodes).devices)

    @cached_property
    def splits(self) -> dict[int, dict[int, list[Split]]]:
        """Splits by numbers of nodes, of those that have any, and by batches."""
        found = {
            nodes: {batch: some for batch in self.tried(nodes) if (some := self.of(nodes, batch).splits())}
            for nodes in self.counts
        }
        return {nodes: each for nodes, each in found.items() if each}

    @cached_property
    def work_s(self) -> dict[tuple[int, int], float]:
        """Device-seconds that a step takes at least, by tp and cp, whatever else is free; infinite where they do not
        divide the model."""
        kinds = {split[:2]: split[2] for each in self.splits.values() for some in each.values() for split in some}
        space, found = self._whole, dict[tuple[int, int], float]()
        for (tp, cp), pp in kinds.items():
            grid = space.grid([(tp, cp, 1, self._replicas)])
            grid = grid if len(grid) else space.grid([(tp, cp, pp, self._replicas)])
            model = as_asked(space.model, grid.base)
            each = work_s(grid, *ranks_of(model, space.cluster, grid, space.stack, once=True))
            found[tp, cp] = float(each.min(initial=inf)) * self.space.base.batch / space.base.batch
        return found

    @property
    def _replicas(self) -> int:
        """So many that experts can be split among them in all ways."""
        most = (block.mlp.experts for block in self.space.model.kinds() if isinstance(block.mlp, Experts))
        return lcm(max(most, default=1), *self.space.fixed.get("ep", ()))

    @property
    def _whole(self) -> Space:
        """The space without recompute, which adds work, with groups as near as can be, and with a batch that all its
        micro-batches divide."""
        sizes = [size for size in self.space.fixed.get("micro", ()) if size > 0]
        base = replace(self.space.base, batch=self._replicas * lcm(MOST_TOKENS, *sizes))
        least: Wishes = {"recompute": ("none",), "order": (ORDER,)}
        excluded = {name: values for name, values in self.space.excluded.items() if name not in least}
        return replace(self.space, base=base, fixed=self.space.fixed | least, excluded=excluded)

    def floor_s(self, nodes: int) -> float:
        """Seconds that a step takes at least, by the work of its devices alone; infinite if nothing divides them."""
        return self._floors_s.get(nodes, inf)

    @cached_property
    def _floors_s(self) -> dict[int, float]:
        kinds = {nodes: {split[:2] for some in each.values() for split in some} for nodes, each in self.splits.items()}
        least = {nodes: min(self.work_s[kind] for kind in some) for nodes, some in kinds.items()}
        return {nodes: work_s / self.of(nodes).devices for nodes, work_s in least.items()}

    @property
    def stopped(self) -> bool:
        """Whether the search ended early: what is known by then is all."""
        return bool(self._ended)

    def going(self, nodes: int) -> bool:
        """Tell of a number of nodes; return whether to look on."""
        if not self.stopped and not self.tell(nodes):
            self._ended.append(nodes)
        return not self.stopped

    def known(self, nodes: int) -> Sized:
        """What is known of so many nodes: at least a floor."""
        return self._known.get(nodes) or Sized(nodes, self.of(nodes).devices, None, self.floor_s(nodes))

    def best(self, nodes: int, most_s: float = inf) -> Sized:
        """Return the fastest strategy on so many nodes, if it takes no more than ``most_s``."""
        known = self.known(nodes)
        if known.choice is None and known.least_s <= most_s and known.least_s < inf and not self.stopped:
            known = self._known[nodes] = self._found(nodes, most_s)
        return replace(known, choice=None) if known.choice and known.seconds > most_s else known

    def screen(self, counts: Iterable[int], limit: Limit) -> int:
        """Rule out those of some numbers of nodes by scores on which no step is within a limit: all at once, which
        takes much less time than one by one; return how many strategies were scored."""
        seeks = {nodes: limit(nodes) for nodes in counts if self.known(nodes).choice is None}
        seeks = {nodes: most_s for nodes, most_s in seeks.items() if self.known(nodes).least_s <= most_s < inf}
        if not all(map(self.going, seeks)):
            return 0
        self.work_s  # noqa: B018 (found before processes part)
        sides = cores() if len(seeks) >= MANY else 1
        by_work = sorted(seeks, key=lambda nodes: sum(map(len, self.splits[nodes].values())))
        shares = [{nodes: seeks[nodes] for nodes in by_work[first::sides]} for first in range(sides)]
        found = side_by_side(self._least_s, shares)
        low_s = {nodes: least_s for _, each in found for nodes, least_s in each.items()}
        rows = sum(count for count, _ in found)
        for nodes, most_s in seeks.items() if rows else ():
            if low_s.get(nodes, inf) > most_s:
                self._known[nodes] = Sized(nodes, self.of(nodes).devices, None, nextafter(most_s, inf))
        return rows

    def _least_s(self, seeks: dict[int, float]) -> tuple[int, dict[int, float]]:
        """How many strategies there are on some numbers of nodes, each with seconds that a step may take; and what a
        step takes at least on each, by the scores of those that may be within them."""
        space, whole, grid = self.space, self.space.cluster, self._grid(seeks)
        if not len(grid):
            return 0, {}
        row_nodes, scale = grid.devices * whole.nodes // whole.devices, space.base.batch / grid.batch
        most_s = np.array([(1 + OVER_ELSE) * seeks[n] for n in row_nodes.tolist()])
        room = most_bytes(space, grid, self.headroom)
        found = scores(space.model, space.cluster, grid, space.stack, room, most_s / scale)
        low_s = at_least_s(grid, found.seconds) * scale
        return len(grid), {nodes: float(low_s[row_nodes == nodes].min(initial=inf)) for nodes in seeks}

    def _grid(self, seeks: dict[int, float]) -> Grid:
        """Strategies of numbers of nodes that could do their work in so many seconds, each with its batch."""
        parts: dict[int, list[Split]] = {}
        for nodes, most_s in seeks.items():
            for batch, splits in self.splits[nodes].items():
                parts.setdefault(batch, []).extend(self._soon(nodes, most_s, splits))
        grids = [(batch, self.of(1, batch).grid(splits)) for batch, splits in parts.items()]
        return joined(grids) if grids else self.space.grid([])

    def _soon(self, nodes: int, most_s: float, splits: Iterable[Split]) -> list[Split]:
        """Splits whose devices could do their work in so many seconds."""
        return [split for split in splits if self.work_s[split[:2]] <= most_s * self.of(nodes).devices]

    def _found(self, nodes: int, most_s: float) -> Sized:
        """Look for the fastest strategy on so many nodes, if it takes no more than ``most_s``."""
        best = Sized(nodes, self.of(nodes).devices, None, inf)
        for batch in self.splits[nodes]:
            if not self.going(nodes):
                return replace(best, least_s=self.floor_s(nodes), proven=False)
            one = self._with(nodes, batch, min(most_s, best.seconds))
            known = min((best, one), key=lambda sized: sized.seconds)
            best = replace(known, least_s=min(best.least_s, one.least_s), proven=best.proven and one.proven)
        return best

    def _with(self, nodes: int, batch: int, most_s: float) -> Sized:
        """The fastest strategy with one batch."""
        space, scale = self.of(nodes, batch), self.space.base.batch / batch
        going = Going(told(self.going, nodes))
        soon = (self._soon(nodes, most_s, share) for share in space.shares() if going(0))
        shares = [
            one for grid in grids(space, soon) for one in scored(space, grid, self.headroom, most_s=most_s / scale)
        ]
        each_s = (float(at_least_s(share.grid, share.seconds).min(initial=inf)) for share in shares)
        low_s = scale * min(each_s, default=inf)
        above = Sized(nodes, space.devices, None, nextafter(most_s, inf), scale=scale)
        if low_s > most_s and not self.stopped:
            return above
        choices, _, proven, _ = finals(space, shares, 1, self.headroom, AT_ONCE, going=going)
        if self.stopped:
            return replace(above, choice=choices[0] if choices else None, least_s=self.floor_s(nodes), proven=False)
        if choices and choices[0].seconds * scale <= most_s:
            least_s = choices[0].seconds * scale if proven else low_s
            return Sized(nodes, space.devices, choices[0], least_s, proven, scale)
        return above if proven else replace(above, least_s=low_s, proven=False)

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
    tell: Callable[[int], bool] = lambda nodes: True,
    batches: Batches | None = None,
) -> Fleet:
    """Return the numbers of nodes of a cluster that are asked for.

    Args:
        space_on: gives the strategies on a cluster.
        cluster: whose nodes they are. A name without a number, ``dgx-h100``, has up to ``MOST_NODES``.
        nodes: numbers as ``counted`` reads them; left out, all up to those of the cluster.
        headroom, tell, batches: as in ``Fleet``.

    Raises:
        ValueError: a part of nodes of several kinds, no strategy on any of the numbers, or no share of a whole as
            headroom.
    """
    check_wanted(1, headroom)
    bare = find(cluster.name) is not None and cluster.measured is None
    first = 1 if cluster.uniform else cluster.nodes
    counts = tuple(counted(nodes) if nodes else range(first, (MOST_NODES if bare else cluster.nodes) + 1))
    fleet = Fleet(space_on(grown(cluster, counts[-1])), counts, headroom, tell, batches)
    if not fleet.splits:
        fleet.space.check()
        raise ValueError(f"no split of {nodes or counts[-1]} nodes of {cluster.name} is left; ask for other numbers")
    return fleet
