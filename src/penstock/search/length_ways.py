"""Ways to put sequences of many lengths on ranks: padded, packed, packed evenly, in flexible and in free groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from math import ceil

import numpy as np

from penstock.core.lengths import Ints
from penstock.predict.paces import Pace, Paces
from penstock.search.free_groups import running
from penstock.search.groups import group, least_s
from penstock.search.packing import balanced, best_fit, spread

MORE = 2
"""Micro-batches beyond the fewest that are tried, and more where none of these has room."""
CLOSE = 1.01
"""Of the bound: equal groups that are so fast need no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """How one batch lies on the ranks.

    Args:
        seconds: of the step.
        padding: share of the tokens that are computed and no sequence's.
        busy: share of the time in which a rank computes, on average, of that of the longest.
        micros: micro-batches of a rank.
        degrees: context ranks of a group, and the share of tokens in such groups.
    """

    seconds: float
    padding: float
    busy: float
    micros: float
    degrees: dict[int, float] = field(default_factory=dict)


def bound_s(paces: Paces, lengths: Ints) -> float:
    """Return what no way is faster than."""
    return least_s(lengths.tolist(), paces.ranks, [*paces.by_degree.values()]) + paces.after_s


def padded(paces: Paces, lengths: Ints, width: int) -> Laid | None:
    """Return every sequence padded to the longest of its batch, as many at a time as are fastest; ``None`` where they
    do not fit."""
    longest, found = int(lengths.max()), []
    for pace, groups in _uniform(paces, longest):
        for many in (2**n for n in range(12)):
            if many * longest > pace.most_tokens:
                break
            micros = ceil(len(lengths) / (groups * many))
            seconds = micros * pace.seconds([longest] * many) + paces.after_s
            waste = 1 - float(lengths.sum()) / (len(lengths) * longest)
            busy = len(lengths) / (micros * groups * many)
            found.append(Laid(seconds=seconds, padding=waste, busy=busy, micros=micros, degrees={pace.degree: 1.0}))
    return _best(found)


def packed(paces: Paces, lengths: Ints, width: int) -> Laid | None:
    """Return sequences packed into rows of ``width`` tokens, which are padded to it and dealt as they come, as many at
    a time as are fastest."""
    bins, found = best_fit(lengths.tolist(), width), []
    for pace, groups in _uniform(paces, width):
        for many in (2**n for n in range(12)):
            if many * width > pace.most_tokens or (many > 1 and (many - 1) * groups >= len(bins)):
                break
            joined = [[*chain(*bins[at : at + many])] for at in range(0, len(bins), many)]
            times = [pace.seconds(each, many * width - sum(each)) for each in joined]
            rank_of = np.arange(len(joined)) % groups
            found.append(_uniformly(paces, pace, times, rank_of, len(joined) * many * width, lengths))
    return _best(found)


def packed_evenly(paces: Paces, lengths: Ints, width: int) -> Laid | None:
    """Return sequences packed into micro-batches of equal predicted time without padding, and these dealt to ranks so
    that all are done at about the same time."""
    longest, found = int(lengths.max()), []
    for pace, groups in _uniform(paces, longest):
        fewest = ceil(float(lengths.sum()) / (groups * pace.most_tokens))
        for micros in count(fewest):  # ends at the latest with a bin for each sequence
            bins = balanced(lengths.tolist(), groups * micros, pace.most_tokens, pace.work_s)
            if bins is not None:
                times = [pace.seconds(each) for each in bins if each]
                rank_of = spread(times, groups)
                found.append(_uniformly(paces, pace, times, rank_of, int(lengths.sum()), lengths))
                if micros >= fewest + MORE:
                    break
    return _best(found)


def flexible(paces: Paces, lengths: Ints, width: int) -> Laid | None:
    """Return sequences in groups made anew in each micro-batch; where equal groups are as fast, or within 1 % of the
    bound, these."""
    even = packed_evenly(paces, lengths, width)
    if even is not None and even.seconds <= CLOSE * bound_s(paces, lengths):
        return even
    all_paces = [*paces.by_degree.values()]
    most = paces.ranks * max(pace.most_tokens / pace.degree for pace in all_paces)
    fewest = ceil(float(lengths.sum()) / most)
    found = [even]
    for micros in range(fewest, fewest + MORE + 1):
        found += [_grouped(paces, all_paces, parts, lengths) for parts in _parts(lengths, micros, all_paces)]
    return _best([one for one in found if one is not None])


def free(paces: Paces, lengths: Ints, width: int) -> Laid | None:
    """Return sequences in groups that wait for nobody else; ``None`` where all wait for each other anyway."""
    if paces.together:
        return None
    all_paces, total = [*paces.by_degree.values()], float(lengths.sum())
    least = bound_s(paces, lengths) - paces.after_s
    found = running(lengths.tolist(), paces.ranks, all_paces, least)
    if found is None:
        return None
    degrees = dict.fromkeys(paces.by_degree, 0.0)
    for degree, members in zip(found.degrees, found.lengths, strict=True):
        degrees[degree] += sum(members) / total
    return Laid(
        seconds=found.seconds + paces.after_s,
        padding=0.0,
        busy=found.work_s / (paces.ranks * found.seconds),
        micros=sum(found.degrees) / paces.ranks,
        degrees={degree: share for degree, share in degrees.items() if share},
    )


WAYS: dict[str, Callable[[Paces, Ints, int], Laid | None]] = {
    "padded": padded,
    "packed": packed,
    "packed evenly": packed_evenly,
    "flexible groups": flexible,
    "free groups": free,
}
"""Ways by name, in the order of their freedom; rules find them, which need not use all of it."""


def _uniform(paces: Paces, least_tokens: int) -> Iterator[tuple[Pace, int]]:
    """Degrees whose groups have room for so many tokens, and how many groups there are."""
    for degree, pace in paces.by_degree.items():
        if pace.most_tokens >= least_tokens:
            yield pace, paces.ranks // degree


def _best(found: list[Laid]) -> Laid | None:
    return min(found, key=lambda one: one.seconds, default=None)


def _uniformly(paces: Paces, pace: Pace, times: list[float], rank_of: Ints, computed: int, lengths: Ints) -> Laid:
    """Micro-batches on equal groups; each waits for all others where ZeRO-3 gathers weights, else at the step's end."""
    groups = paces.ranks // pace.degree
    own = [np.array(times)[rank_of == g] for g in range(groups)]
    rounds = max(len(each) for each in own)
    if paces.together:
        table = np.zeros((groups, rounds))
        for g, each in enumerate(own):
            table[g, : len(each)] = np.sort(each)[::-1]
        longest_s = float(table.max(axis=0).sum())
    else:
        longest_s = max(float(each.sum()) for each in own)
    busy = sum(times) / (groups * longest_s)
    waste = 1 - float(lengths.sum()) / computed
    degrees = {pace.degree: 1.0}
    return Laid(seconds=longest_s + paces.after_s, padding=waste, busy=busy, micros=rounds, degrees=degrees)


def _parts(lengths: Ints, micros: int, all_paces: list[Pace]) -> Iterator[list[list[int]]]:
    """Sequences of each micro-batch: of like lengths, and of all lengths; about equal work in each."""
    order = np.sort(lengths)[::-1]
    work = all_paces[0].work_s(order)
    until = np.cumsum(work)
    like = np.minimum((until - until[0] / 2) / until[-1] * micros, micros - 1).astype(int)
    for place in (like, spread(work, micros)) if micros > 1 else (like,):
        yield [part for n in range(micros) if (part := order[place == n].tolist())]


def _grouped(paces: Paces, all_paces: list[Pace], parts: list[list[int]], lengths: Ints) -> Laid | None:
    """One micro-batch after the other, each on groups of its own."""
    total_s, work_s, degrees = 0.0, 0.0, dict.fromkeys(paces.by_degree, 0)
    for part in parts:
        found = group(part, paces.ranks, all_paces)
        if found is None:
            return None
        total_s += found.seconds
        for degree, members in zip(found.degrees, found.lengths, strict=True):
            degrees[degree] += sum(members)
            work_s += degree * paces.by_degree[degree].seconds(members) if members else 0.0
    shares = {degree: tokens / float(lengths.sum()) for degree, tokens in degrees.items() if tokens}
    busy = work_s / (paces.ranks * total_s)
    return Laid(seconds=total_s + paces.after_s, padding=0.0, busy=busy, micros=len(parts), degrees=shares)
