"""Random legal plans and costs, for property tests."""

import numpy as np
from hypothesis import strategies as st

from penstock.core.costs import Costs
from penstock.core.op import Kind, Op
from penstock.core.placement import NO_STAGE, Placement
from penstock.core.plan import Lane, Plan


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
def costs_of(draw, placement):
    """Uneven times, links and bytes."""
    rng = draw(st.randoms(use_true_random=False))
    costs = Costs.uniform(placement)
    seconds, hop_s = costs.seconds.copy(), costs.hop_s.copy()
    for kind in (Kind.F, Kind.I, Kind.W):
        seconds[kind] = [rng.choice([0.0, 0.5, 1.0, 2.0, rng.random()]) for _ in range(placement.stages)]
    seconds[Kind.B] = seconds[Kind.I] + seconds[Kind.W]
    for a in range(placement.ranks):
        for b in range(placement.ranks):
            hop_s[a, b] = 0.0 if a == b else rng.choice([0.0, 0.25, rng.random()])
    share = [rng.choice([0.0, 0.5, 1.0]) for _ in range(placement.stages)]
    saved = [1.0 + rng.randrange(3) for _ in range(placement.stages)]
    size = [float(rng.randrange(3)) for _ in range(placement.stages)]
    return Costs(seconds, hop_s, *(np.array(row, dtype=np.float64) for row in (saved, share, size)))
