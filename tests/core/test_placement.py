from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.op import Hop
from penstock.core.placement import NO_STAGE, Placement

SIZES = (st.integers(1, 12), st.integers(1, 5))


@given(*SIZES)
def test_loop_deals_stages_in_turn(ranks, chunks):
    place = Placement.loop(ranks, chunks)
    assert place.rank_of == tuple(range(ranks)) * chunks
    assert place.ranks == ranks
    assert all(place.on(r) == tuple(range(r, ranks * chunks, ranks)) for r in range(ranks))


@given(*SIZES)
def test_vee_turns_without_changing_rank(ranks, chunks):
    place = Placement.vee(ranks, chunks)
    hops = np.abs(np.diff(place.rank_of))
    turns = np.arange(1, ranks * chunks) % ranks == 0
    assert (hops[turns] == 0).all()
    assert (hops[~turns] == 1).all()
    assert all(len(place.on(r)) == chunks for r in range(ranks))


@given(st.data())
def test_next_is_the_inverse_of_prev(data):
    stages = data.draw(st.integers(1, 12))
    order = data.draw(st.permutations(range(stages)))
    cuts = data.draw(st.sets(st.integers(1, stages)))
    prev = [NO_STAGE] * stages
    for at, (before, stage) in enumerate(pairwise(order), start=1):
        prev[stage] = NO_STAGE if at in cuts else before
    place = Placement((0,) * stages, tuple(prev))
    for stage in range(stages):
        assert place.prev[stage] == NO_STAGE or place.next[place.prev[stage]] == stage
    assert place.hops[:3].tolist() == [list(range(stages)), prev, list(place.next)]


def test_vocabulary_parts_go_by_the_first_stage_of_each_rank():
    """V on two ranks: stages 0 and 3 on rank 0, whose part is 0; stages 1 and 2 on rank 1, whose part is 1."""
    hops = Placement.vee(2).hops
    none = NO_STAGE
    assert hops[Hop.FIRST_HERE].tolist() == [0, none, none, none]
    assert hops[Hop.LAST_HERE].tolist() == [3, none, none, none]
    assert hops[Hop.PART_OF_FIRST].tolist() == [0, none, none, none]
    assert hops[Hop.PART_OF_LAST].tolist() == [none, none, none, 0]
    assert Placement.loop(2).hops[Hop.LAST_HERE].tolist() == [none, 1]


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (((),), "at least one stage"),
        (((0, 2),), "rank 1 holds no stage"),
        (((0, 10**15),), "rank 1 holds no stage"),
        (((-1, 0),), "names rank -1"),
        (((0, 1), (-1,)), "prev has 1 entries for 2 stages"),
        (((0, 1), (-1, 5)), "prev names stage 5, but stages are 0..1"),
        (((0, 1, 2), (-1, 0, 0)), "stage 0 is followed by two"),
        (((0, 1), (1, 0)), "ring"),
        (((0, 1), (-1, 0), (0,)), "part_of has 1 entries"),
    ],
)
def test_what_is_not_a_placement_is_named(given_, says):
    with pytest.raises(ValueError, match=says):
        Placement(*given_)


def test_replicas_sort_by_part():
    both_ways = Placement((0, 1, 1, 0), (-1, 0, -1, 2), (0, 1, 0, 1))
    assert both_ways.on(1) == (2, 1)
    assert both_ways.next == (1, NO_STAGE, 3, NO_STAGE)


def test_two_directions_of_several_chunks_are_mirror_images_over_the_same_parts():
    place = Placement.both_ways(3, 2)
    assert place.rank_of == (0, 1, 2, 2, 1, 0, 2, 1, 0, 0, 1, 2)
    assert place.part_of == (*range(6), *range(6))
    assert (place.chains, place.on(0)) == (2, (0, 8, 9, 5))


@pytest.mark.parametrize("rank", [-1, 3])
def test_ranks_that_are_not_there_hold_nothing(rank):
    assert Placement.loop(3, 2).on(rank) == ()
