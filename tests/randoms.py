"""Random legal plans and costs, for property tests; how many examples each has is said in ``conftest.py``."""

from dataclasses import replace

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.lane import Lane
from penstock.core.op import COLLECTIVES, HOST, WORK, Kind, Op
from penstock.core.placement import NO_STAGE, Placement
from penstock.core.plan import Plan
from penstock.lower.place import place

UNSHRUNK = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])
"""Of tests whose examples are slow to shrink."""


@st.composite
def placements(draw, most_ranks=4, most_chunks=3):
    """A loop, a vee, or stages dealt at random; sometimes two chains."""
    ranks = draw(st.integers(1, most_ranks))
    shape = draw(st.sampled_from(["loop", "vee", "any", "two chains"]))
    chunks = draw(st.integers(1, most_chunks))
    if shape == "loop":
        return Placement.loop(ranks, chunks)
    if shape == "vee":
        return Placement.vee(ranks, chunks)
    stages = ranks * chunks
    spare = draw(st.lists(st.integers(0, ranks - 1), min_size=stages - ranks, max_size=stages - ranks))
    rank_of = draw(st.permutations([*range(ranks), *spare]))
    cut = draw(st.integers(1, stages)) if shape == "two chains" else stages
    prev = [NO_STAGE if s in (0, cut) else s - 1 for s in range(stages)]
    return Placement(tuple(rank_of), tuple(prev))


@st.composite
def plans(draw, most_micros=5, **sizes):
    """A legal plan without sends: ops taken at random from those whose needs are met, backwards split or not."""
    place = draw(placements(**sizes))
    micros = draw(st.integers(place.chains, most_micros))
    rng = draw(st.randoms(use_true_random=False))
    pairs = [(s, i) for s in range(place.stages) for i in range(micros) if i % place.chains == place.chain_of[s]]
    split = dict.fromkeys(pairs, False) if draw(st.booleans()) else {pair: rng.random() < 0.7 for pair in pairs}
    lanes: list[list[Op]] = [[] for _ in range(place.ranks)]
    ready = {Op(Kind.F, s, i) for s, i in pairs if place.prev[s] == NO_STAGE}
    forward, back = set(), set()
    while ready:
        op = rng.choice(sorted(ready))
        ready.remove(op)
        lanes[place.rank_of[op.stage]].append(op)
        kind, s, i = op
        after, before = place.next[s], place.prev[s]
        if kind == Kind.F:
            forward.add((s, i))
            if after != NO_STAGE:
                ready.add(Op(Kind.F, after, i))
        elif kind in (Kind.B, Kind.I):
            back.add((s, i))
            if kind == Kind.I:
                ready.add(Op(Kind.W, s, i))
        for stage in (s, before):
            last = stage != NO_STAGE and (place.next[stage] == NO_STAGE or (place.next[stage], i) in back)
            if last and kind != Kind.W and (stage, i) in forward and (stage, i) not in back:
                ready.add(Op(Kind.I if split[stage, i] else Kind.B, stage, i))
    return Plan("random", place, micros, tuple(map(Lane.of, lanes)))


@st.composite
def dressed(draw, **sizes):
    """A random plan with recompute, copies to the host, gathered weights, sums of gradients, vocabulary passes, blocks
    of two, and sometimes slices. Most can run; with slices or an op too few some cannot."""
    plan = draw(plans(**sizes))
    rng = draw(st.randoms(use_true_random=False))
    if rng.random() < 0.2 and plan.micros % 2 == 0 and plan.placement.chains == 1:
        plan = replace(plan, slices=2)
    plan = replace(plan, barrier=rng.random() < 0.7)
    if rng.random() < 0.3:
        plan = plan.with_lanes(_fused(lane, rng) for lane in plan.lanes)
    new = [*_of_micros(plan, rng), *_of_stages(plan, rng), *(_of_vocabulary(plan, rng) if rng.random() < 0.3 else [])]
    ops, ranks, places = zip(*new, strict=True) if new else ((), (), ())
    return place(plan, np.array(ops).reshape(-1, 3), np.array(ranks, dtype=int), np.array(places, dtype=int))


def _of_micros(plan, rng):
    """Recompute, offload and fetch between the forward and the backward of one stage and micro-batch."""
    row = {plan.op(k): k for k in range(len(plan))}
    for op, f in row.items():
        back = next((row[other] for kind in (Kind.B, Kind.I) if (other := op._replace(kind=kind)) in row), None)
        if op.kind == Kind.F and back is not None:
            rank = int(plan.rank_of_op[f])
            away, again = sorted(rng.randint(f + 1, back) for _ in range(2))
            if rng.random() < 0.3:
                yield (Kind.OFFLOAD, *op[1:]), rank, 4 * away
                yield (Kind.FETCH, *op[1:]), rank, 4 * again
            if rng.random() < 0.3:
                yield (Kind.R, *op[1:]), rank, 4 * back


def _of_stages(plan, rng):
    for stage, rank in enumerate(plan.placement.rank_of):
        first, end = int(plan.first[rank]), int(plan.first[rank + 1])
        if rng.random() < 0.3:
            yield (Kind.UNSHARD, stage, -1), rank, 4 * first
            yield (Kind.UNSHARD, stage, -1), rank, 4 * rng.randint(first, end)
            yield (Kind.RESHARD, stage, -1), rank, 4 * (end if rng.random() < 0.95 else rng.randint(first, end))
        if rng.random() < 0.5:
            yield (Kind.REDUCE_GRAD, stage, -1), rank, 4 * (end if rng.random() < 0.95 else rng.randint(first, end))


def _of_vocabulary(plan, rng):
    """Some of the passes over the vocabulary, behind all else."""
    kinds = (Kind.BCAST_H, Kind.S, Kind.REDUCE_S, Kind.T, Kind.REDUCE_T, Kind.IF, Kind.BCAST_E, Kind.IB)
    kinds = kinds[: rng.randrange(3)] or kinds[5:6]
    for kind in kinds:
        for i in range(plan.micros):
            for rank in range(plan.placement.ranks):
                if rng.random() < 0.995:
                    yield (kind, plan.placement.on(rank)[0], i), rank, 4 * int(plan.first[rank + 1])


def _fused(lane, rng):
    codes = lane.codes
    pairs = (codes[:-1, 0] == Kind.F) & np.isin(codes[1:, 0], (Kind.B, Kind.I)) & (codes[:-1, 2] != codes[1:, 2])
    return Lane(codes, np.r_[[pair and rng.random() < 0.5 for pair in pairs], False])


def some(rng):
    """A share of few digits: sums of them are equal, or differ by more than rounding."""
    return round(rng.random(), 6)


@st.composite
def costs_of(draw, placement):
    """Uneven times, links and bytes; times differ by much more than rounding, or not at all."""
    rng = draw(st.randoms(use_true_random=False))
    costs = Costs.uniform(placement)
    seconds, hop_s = costs.seconds.copy(), costs.hop_s.copy()
    for kind in (Kind.F, Kind.I, Kind.W):
        seconds[kind] = [rng.choice([0.0, 0.5, 1.0, 2.0, some(rng)]) for _ in range(placement.stages)]
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]
    for a in range(placement.ranks):
        for b in range(placement.ranks):
            hop_s[a, b] = 0.0 if a == b else rng.choice([0.0, 0.25, some(rng)])
    share = [rng.choice([0.0, 0.5, 1.0]) for _ in range(placement.stages)]
    saved = [1.0 + rng.randrange(3) for _ in range(placement.stages)]
    size = [float(rng.randrange(3)) for _ in range(placement.stages)]
    for kind in set(WORK + HOST + COLLECTIVES) - {Kind.F, Kind.B, Kind.I, Kind.W}:
        seconds[kind] = [rng.choice([0.0, 0.5, some(rng)]) for _ in range(placement.stages)]
    rows = (saved, share, size, *([rng.choice([0.0, 0.25, 1.0]) for _ in saved] for _ in range(3)))
    host_of = np.array([rng.randrange(placement.ranks) for _ in range(placement.ranks)])
    arrays = (np.array(row, dtype=np.float64) for row in rows)
    return Costs(seconds, hop_s, *arrays, host_of, rng.choice([0.0, 0.5]))
