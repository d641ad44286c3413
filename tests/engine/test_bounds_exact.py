"""Bounds against the best of all orders, found by trying them all on small pipelines."""

import math

import numpy as np
import pytest

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement
from penstock.engine import bounds
from penstock.engine.bounds import least_bytes

NOTHING, FORWARD, GRADIENT, ALL = range(4)


class Orders:
    """All orders of a small pipeline: a state says how far each micro-batch is on each stage, a front how soon.

    A front is what the future can see: per rank when it is free and when it began, per stage and micro-batch when
    the value that others still need was made. Of two fronts of one state the later one in everything is left out.
    """

    def __init__(self, placement, micros, costs, limit, split):
        self.place, self.micros, self.costs, self.limit, self.split = placement, micros, costs, limit, split
        self.pairs = [(s, i) for s in range(placement.stages) for i in range(micros) if self.runs(s, i)]
        self.at = {pair: n for n, pair in enumerate(self.pairs)}

    def runs(self, s, i):
        return i % self.place.chains == self.place.chain_of[s]

    def best(self, of_span):
        """The shortest span or makespan."""
        ranks, began = self.place.ranks, math.inf if of_span else 0.0
        layer = {(NOTHING,) * len(self.pairs): {((0.0,) * ranks, (began,) * ranks, (0.0,) * len(self.pairs))}}
        found = math.inf
        while layer:
            after = {}
            for state, fronts in layer.items():
                if set(state) == {ALL}:
                    found = min(max(map(float.__sub__, free, began)) for free, began, _ in fronts)
                for kind, n in self.moves(state):
                    for front in fronts:
                        state_after, front_after = self.run(state, front, kind, n)
                        after.setdefault(state_after, set()).add(front_after)
            layer = {state: self.earliest(fronts) for state, fronts in after.items()}
        return found

    def moves(self, state):
        """Ops that may run next; micro-batches of a chain enter it in order, as they are alike."""
        held = [0.0] * self.place.ranks
        for (s, _), done in zip(self.pairs, state, strict=True):
            share = {FORWARD: 1.0, GRADIENT: self.costs.w_share[s]}.get(done, 0.0)
            held[self.place.rank_of[s]] += share * self.costs.saved_bytes[s]
        for n, (s, i) in enumerate(self.pairs):
            before, after = self.place.prev[s], self.place.next[s]
            if state[n] == NOTHING:
                earlier = self.at.get((s, i - self.place.chains)) if before == NO_STAGE else self.at[before, i]
                room = held[self.place.rank_of[s]] + self.costs.saved_bytes[s] <= self.limit * (1 + 1e-9)
                if room and (earlier is None or state[earlier] >= FORWARD):
                    yield Kind.F, n
            elif state[n] == FORWARD and (after == NO_STAGE or state[self.at[after, i]] >= GRADIENT):
                yield from [(Kind.B, n), (Kind.I, n)] if self.split else [(Kind.B, n)]
            elif state[n] == GRADIENT:
                yield Kind.W, n

    def run(self, state, front, kind, n):
        (s, i), (free, began, made) = self.pairs[n], front
        rank, start = self.place.rank_of[s], free[self.place.rank_of[s]]
        source = {Kind.F: self.place.prev[s], Kind.B: self.place.next[s], Kind.I: self.place.next[s]}.get(kind, s)
        if kind in (Kind.B, Kind.I) and source == NO_STAGE:
            source = s
        if source != NO_STAGE and kind != Kind.W:
            start = max(start, made[self.at[source, i]] + self.costs.hop_s[self.place.rank_of[source], rank])
        end = float(start + self.costs.seconds[kind, s])
        state = _with(state, n, {Kind.F: FORWARD, Kind.I: GRADIENT}.get(kind, ALL))
        began = _with(began, rank, float(start)) if math.isinf(began[rank]) else began
        made = made if kind == Kind.W else _with(made, n, end)
        needed = tuple(t if self.needed(state, m) else 0.0 for m, t in enumerate(made))
        return state, (_with(free, rank, end), began, needed)

    def needed(self, state, n):
        (s, i), done = self.pairs[n], state[n]
        user = self.place.next[s] if done == FORWARD else self.place.prev[s]
        if user == NO_STAGE:
            return done == FORWARD
        return state[self.at[user, i]] < (FORWARD if done == FORWARD else GRADIENT)

    @staticmethod
    def earliest(fronts):
        kept = []
        for row, front in sorted(((*front[0], *(-b for b in front[1]), *front[2]), front) for front in fronts):
            if not any(all(a <= b for a, b in zip(other, row, strict=True)) for other, _ in kept):
                kept.append((row, front))
        return {front for _, front in kept}


def _with(values, at, value):
    return (*values[:at], value, *values[at + 1 :])


PLACES = {
    "line 2": (Placement.loop(2), 3),
    "line 3": (Placement.loop(3), 2),
    "loop": (Placement.loop(2, 2), 2),
    "vee": (Placement.vee(2), 2),
    "uneven": (Placement((0, 1, 0)), 2),
    "both ways": (Placement.both_ways(2), 2),
}
MET = ("line 2", "line 3", "loop", "uneven")
"""Places on which the bounds are no lower than the best order at equal times."""


def costs_of(placement, seed):
    """Equal times first, then random ones; few values, so that fronts meet."""
    if seed == 0:
        return Costs.uniform(placement)
    rng = np.random.default_rng(seed)
    stages, ranks = placement.stages, placement.ranks
    seconds = np.zeros((len(Kind), stages))
    for kind in (Kind.F, Kind.I, Kind.W):
        seconds[kind] = rng.choice([0.0, 0.5, 1.0, 2.0], stages, p=[0.1, 0.2, 0.4, 0.3])
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W] + rng.choice([-0.25, 0.0, 0.0, 0.5], stages)
    seconds[Kind.B] = np.maximum(seconds[Kind.B], 0.0)
    hop_s = rng.choice([0.0, 0.5], (ranks, ranks)) * (1 - np.eye(ranks))
    saved, share = rng.choice([1.0, 2.0], stages), rng.choice([0.0, 0.5, 1.0], stages)
    return Costs(seconds, hop_s, saved, share, np.zeros(stages))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        *(pytest.param(name, 0) for name in PLACES if name not in MET),
        *(pytest.param(name, seed, marks=pytest.mark.slow) for name in PLACES for seed in (1, 2, 3)),
    ],
)
def test_no_order_at_all_is_below_the_bounds(name, seed, split):
    place, micros = PLACES[name]
    costs = costs_of(place, seed)
    least = least_bytes(place, costs)
    for limit in (least, 1.5 * least, math.inf):
        orders = Orders(place, micros, costs, limit, split)
        found = bounds(place, micros, costs, limit, split)
        assert found.makespan.seconds <= orders.best(of_span=False) * (1 + 1e-9), (limit, found.makespan)
        assert found.span.seconds <= orders.best(of_span=True) * (1 + 1e-9), (limit, found.span)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        pytest.param(name, split, marks=pytest.mark.slow if (name, split) == ("loop", True) else ())
        for name in MET
        for split in (True, False)
    ],
)
def test_bounds_are_met_at_equal_times(name, split):
    place, micros = PLACES[name]
    costs = Costs.uniform(place)
    for limit in (1.0, 1.5, 2.0, math.inf):
        orders, found = Orders(place, micros, costs, limit, split), bounds(place, micros, costs, limit, split)
        assert found.makespan.seconds == pytest.approx(orders.best(of_span=False)), limit
        assert found.span.seconds == pytest.approx(orders.best(of_span=True)), limit
