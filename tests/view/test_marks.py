import numpy as np
import pytest

from penstock.core.op import Kind
from penstock.view.marks import COLOURS, PHRASES, holds_rank, local_chunks, messages, ticks


def test_every_kind_has_a_colour_and_a_phrase() -> None:
    assert set(COLOURS) == set(PHRASES) == set(Kind)


@pytest.mark.parametrize(("high", "about"), [(33.0, 4), (0.00123, 7), (1e6, 10), (1.0, 1)])
def test_ticks_are_round_and_about_as_many_as_asked(high: float, about: int) -> None:
    found = ticks(0.0, high, about)
    assert found[0] == 0
    assert found[-1] <= high * (1 + 1e-9)
    assert about / 2 <= len(found) <= 2 * about + 1
    if len(found) > 1:
        leading = f"{found[1] - found[0]:.6e}"[:1]
        assert leading in "125"


def test_without_sends_messages_run_from_maker_to_user(make) -> None:
    timeline = make(ranks=3, micros=2, link_s=0.5)
    found = messages(timeline)
    assert len(found) == 2 * 2 * 2  # two links, two micro-batches, forth and back
    plan = timeline.plan
    pairs = {(str(plan.op(a)), str(plan.op(b))) for a, b in zip(found.made_by, found.used_by, strict=True)}
    assert ("0F0", "1F0") in pairs
    assert ("2B1", "1B1") in pairs
    assert (np.diff(found.begin_s) >= 0).all()
    assert (found.end_s - found.begin_s >= 0.5).all()


@pytest.mark.parametrize("blocking", [False, True])
def test_messages_of_one_link_do_not_overlap(make, blocking: bool) -> None:
    timeline = make(ranks=4, micros=8, sends=True, blocking=blocking, link_s=1.5)
    found = messages(timeline)
    rank = timeline.plan.rank_of_op
    assert len(found) == 3 * 8 * 2
    np.testing.assert_allclose(found.end_s - found.begin_s, 1.5)
    link = rank[found.send] * 4 + rank[found.recv]
    for each in np.unique(link):
        mine = np.flatnonzero(link == each)
        assert (found.begin_s[mine][1:] >= found.end_s[mine][:-1]).all()
    made, used = timeline.plan.op(int(found.made_by[0])), timeline.plan.op(int(found.used_by[0]))
    assert (str(made), str(used)) == ("0F0", "1F0")


def test_chunks_count_from_zero_on_each_rank(make) -> None:
    assert local_chunks(make("interleaved", ranks=2, micros=2, chunks=2).plan).tolist() == [0, 0, 1, 1]


def test_only_blocking_messages_hold_their_rank(make) -> None:
    assert holds_rank(make(blocking=True).plan).all()
    plan = make(sends=True).plan
    assert holds_rank(plan).sum() == 2 * 3 * 2 < len(plan)
