"""Packing and grouping against all that is possible, on small cases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from penstock.predict.paces import Pace
from penstock.search.free_groups import running
from penstock.search.groups import group, least_s
from penstock.search.packing import balanced, best_fit, spread

RANKS = 4


def paces(rng: np.random.Generator) -> list[Pace]:
    """Groups of more ranks are faster, but less than as many times."""
    token_s, square_s, lost = 1e-3, rng.uniform(0, 1e-5), rng.uniform(1.05, 1.4)
    return [
        Pace(d, 0.02 * lost**n, token_s / d * lost**n, square_s / d * lost**n, 0.05, 300 * d, 0.0)
        for n, d in enumerate((1, 2, 4))
    ]


def splits(left: int, most: int = RANKS) -> Iterator[tuple[int, ...]]:
    """All ways to split ranks in groups of powers of two, ranks that idle included."""
    yield ()
    for degree in (1, 2, 4):
        if degree <= min(left, most):
            yield from ((degree, *rest) for rest in splits(left - degree, degree))


def shortest_s(lengths: list[int], each: list[Pace]) -> float:
    """Of all groups and all ways to deal the sequences to them."""
    pace_of, best = {pace.degree: pace for pace in each}, np.inf
    for degrees in splits(RANKS):
        for where in product(range(len(degrees)), repeat=len(lengths)) if degrees else ():
            longest = 0.0
            for g, degree in enumerate(degrees):
                mine = [length for length, at in zip(lengths, where, strict=True) if at == g]
                fits = sum(mine) <= pace_of[degree].most_tokens
                longest = max(longest, (pace_of[degree].seconds(mine) if mine else 0.0) if fits else np.inf)
            best = min(best, longest)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_close_to_the_best_that_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    each = paces(rng)
    lengths = np.minimum(1200, np.exp(rng.normal(4.5, 1.0, 5)).astype(int) + 1).tolist()
    best, found = shortest_s(lengths, each), group(lengths, RANKS, each)
    if not np.isfinite(best):
        assert found is None
        return
    assert found is not None
    assert sum(found.degrees) <= RANKS
    assert sorted(length for some in found.lengths for length in some) == sorted(lengths)
    for degree, mine in zip(found.degrees, found.lengths, strict=True):
        assert sum(mine) <= 300 * degree
    times = [each[d.bit_length() - 1].seconds(m) for d, m in zip(found.degrees, found.lengths, strict=True) if m]
    assert found.seconds == pytest.approx(max(times))
    assert best - 1e-12 <= found.seconds <= 1.12 * best
    assert least_s(lengths, RANKS, each) <= best + 1e-12


def test_most_groups_are_the_best_there_are() -> None:
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(100 + seed)
        each, lengths = paces(rng), rng.integers(10, 280, 4).tolist()
        found = group(lengths, RANKS, each)
        assert found is not None
        ratios.append(found.seconds / shortest_s(lengths, each))
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_free_groups_come_near_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    each, ranks = paces(rng), 16
    lengths = np.minimum(1100, np.exp(rng.normal(4.5, 1.0, 150)).astype(int) + 1).tolist()
    least = least_s(lengths, ranks, each)
    found = running(lengths, ranks, each, least)
    assert found is not None
    assert sorted(length for some in found.lengths for length in some) == sorted(lengths)
    assert all(sum(mine) <= 300 * degree for degree, mine in zip(found.degrees, found.lengths, strict=True))
    busy = sum(
        degree * each[degree.bit_length() - 1].seconds(mine)
        for degree, mine in zip(found.degrees, found.lengths, strict=True)
    )
    assert found.work_s == pytest.approx(busy)
    assert max(least, busy / ranks) <= found.seconds < 1.3 * least
    assert running([1300], ranks, each, 1.0) is None


def test_sequences_that_do_not_fit_have_no_groups() -> None:
    assert group([1300], RANKS, paces(np.random.default_rng(0))) is None
    assert group([1000, 1000], RANKS, paces(np.random.default_rng(0))) is None


def fewest(lengths: list[int], most: int) -> int:
    return min(
        len(set(where))
        for where in product(range(len(lengths)), repeat=len(lengths))
        if all(sum(s for s, at in zip(lengths, where, strict=True) if at == b) <= most for b in set(where))
    )


@pytest.mark.parametrize("seed", range(8))
def test_best_fit_needs_few_bins(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 100, 6).tolist()
    bins = best_fit(lengths, 100)
    assert sorted(length for each in bins for length in each) == sorted(lengths)
    assert max(map(sum, bins)) <= 100
    assert len(bins) <= 11 / 9 * fewest(lengths, 100) + 6 / 9


def test_best_fit_takes_the_fullest_bin_that_has_room() -> None:
    assert best_fit([6, 5, 4, 3, 2], 10) == [[6, 4], [5, 3, 2]]
    with pytest.raises(ValueError, match="a sequence of 11 tokens is longer than a bin of 10"):
        best_fit([11], 10)


def test_even_bins_are_even_and_keep_to_their_room() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 300).tolist()
    bins = balanced(lengths, 16, 12_000, lambda length: length**2)
    assert bins is not None
    costs = [sum(length**2 for length in each) for each in bins]
    assert max(costs) < 1.01 * np.mean(costs)
    assert balanced([6, 6, 6], 2, 11, float) is None
    pieces = np.random.default_rng(1).exponential(1.0, 50).tolist()
    rank_of = spread(pieces, 4)
    most = max(sum(piece for piece, at in zip(pieces, rank_of.tolist(), strict=True) if at == r) for r in range(4))
    assert most <= 4 / 3 * max(sum(pieces) / 4, max(pieces))
