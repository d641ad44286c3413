"""Lower bounds: what no order of the ops on a placement can beat, within a limit of memory.

For each rank five arguments, each true for any order, with whole or split backwards:

- *work*: the rank runs all its forwards and backwards, one after the other.
- *warm-up*: before its first gradient the rank can run only forwards, as many as fit its memory, while the first
  micro-batch goes on to the end of the chain and back (Qi et al. 2023, arXiv:2401.10241, appendix B).
- *cool-down*: after its last forward it holds no more work than fits its memory, while the last micro-batch goes to
  the end of the chain and back; and after its last gradient only ``W`` are left while the chain before it goes on.
- *lifespan*: every activation lives at least as long as its micro-batch travels, and bytes times seconds cannot exceed
  the limit times the span (Qi et al. 2024, arXiv:2405.15362).
- *filling* and *draining*: idle time that stands before some moment after the start and after some moment before the
  end, because all ranks together cannot bring the rank enough micro-batches within their memory (``flow``).

The makespan adds the *head*: the time until the first forward can reach the rank (filling includes it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.engine.flow import Flow, from_end, from_start, idle_at_both_ends
from penstock.engine.paths import Paths, chains_of

MOST_SUMS = 10_000
"""Sums of sizes that are looked at for what a rank can hold."""
Item = tuple[float, float]
"""Seconds of work and the bytes it holds until it is done."""


@dataclass(frozen=True)
class Bound:
    """A time no order can beat, and why."""

    seconds: float
    kind: str
    """The arguments that add up to it, for example ``head + work + warm-up``."""
    rank: int
    """The rank that cannot be faster."""


@dataclass(frozen=True)
class Bounds:
    """Lower bounds of a placement: of the span (steps may overlap) and of the makespan (they may not)."""

    span: Bound
    makespan: Bound


def bounds(
    placement: Placement, micros: int, costs: Costs, memory_limit: float = math.inf, split: bool = True
) -> Bounds:
    """What no order of forwards and backwards can beat.

    Plans that recompute or move activations to host memory hold less than the bounds believe: for them only those
    without a limit hold. Plans that overlap fused blocks take less, and may beat all.

    Args:
        placement: where the stages live; every stage runs every micro-batch of its chain forward and backward, and
            chains share the micro-batches evenly.
        micros: micro-batches per step; of a plan with slices the number of all slices, which the bounds take to be
            independent of each other.
        costs: of this placement; times of messages count on every hop between ranks. Of unequal slices the quickest
            counts.
        memory_limit: bytes of activations that any rank may hold.
        split: whether backwards may be split into ``I`` and ``W``; a bound for orders that only hold ``B`` is higher.

    Raises:
        ValueError: not even one micro-batch fits ``memory_limit``.

    Example:
        >>> place = Placement.loop(4)
        >>> found = bounds(place, 8, Costs.uniform(place), memory_limit=4.0)
        >>> found.span.seconds, found.span.kind, found.makespan.seconds
        (27.0, 'work + warm-up', 27.0)
        >>> bounds(place, 8, Costs.uniform(place), 4.0, split=False).makespan.seconds  # what 1F1B takes
        33.0
    """
    if costs.slice_factor:
        costs = replace(costs, seconds=costs.seconds * min(costs.slice_factor), slice_factor=())
    paths = Paths(placement, costs, split)
    _check_limit(placement, costs, memory_limit)
    memory_limit = most_held(placement, costs, memory_limit)
    ranks, each = range(placement.ranks), micros // placement.chains
    span = [_span(paths, r, each, memory_limit) for r in ranks]
    makespan = [_makespan(paths, r, each, memory_limit) for r in ranks]
    span_by_flow, makespan_by_flow = _by_flow(paths, micros, memory_limit, span, makespan)
    return Bounds(_largest(span + span_by_flow), _largest(makespan + makespan_by_flow))


def period_bound(placement: Placement, costs: Costs, memory_limit: float = math.inf) -> Bound:
    """Seconds from one micro-batch to the next that no order beats however many micro-batches follow each other.

    The busiest rank's *work* for one, or its *lifespan*: bytes times seconds of one, over the limit.

    Raises:
        ValueError: not even one micro-batch fits ``memory_limit``.

    Example:
        >>> place = Placement.vee(4)
        >>> period_bound(place, Costs.uniform(place)).seconds
        3.0
        >>> found = period_bound(place, Costs.uniform(place), memory_limit=1.6)
        >>> round(found.seconds, 3), found.kind
        (3.333, 'lifespan')
    """
    _check_limit(placement, costs, memory_limit)
    memory_limit = most_held(placement, costs, memory_limit)
    paths = Paths(placement, costs, split=True)
    chains, found = len(paths.whole), []
    for rank in range(placement.ranks):
        work, lifespan = _work(paths, rank, 1), _lifespan(paths, rank, 1, memory_limit)
        found.append(_best(rank, [{"work": work / chains}, {"lifespan": lifespan / chains}]))
    return _largest(found)


def _largest(found: list[Bound]) -> Bound:
    """The first that no later one exceeds by more than rounding."""
    most = max(bound.seconds for bound in found)
    return next(bound for bound in found if bound.seconds >= most * (1 - 1e-12))


def least_bytes(placement: Placement, costs: Costs) -> float:
    """Activations of one micro-batch on the rank that holds most of them: no order needs less."""
    held = np.zeros((placement.ranks, placement.stages))
    chain = {stage: chain[0] for chain in chains_of(placement) for stage in chain}
    for stage, rank in enumerate(placement.rank_of):
        held[rank, chain[stage]] += costs.saved_bytes[stage]
    return float(held.max())


def most_held(placement: Placement, costs: Costs, limit: float) -> float:
    """The most bytes within a limit that some rank can hold: activations are whole ones, or what ``W`` needs of one.

    Example:
        >>> place = Placement.vee(4)
        >>> most_held(place, Costs.uniform(place), 2.4)  # chunks of a micro-batch, half of it each
        2.0
    """
    held = [(size, size * share) for size, share in zip(costs.saved_bytes, costs.w_share, strict=True)]
    parts = {tuple(sorted({float(size) for s in placement.on(r) for size in held[s] if size > 0}, reverse=True))
             for r in range(placement.ranks)}  # fmt: skip
    return max(min(limit, _fullest(sizes, limit)) for sizes in parts)


def _fullest(sizes: tuple[float, ...], limit: float) -> float:
    """The largest sum of any number of each size within a limit; the limit where that is much to try, or sizes are so
    small that it makes no difference."""
    room = limit * (1 + 1e-9)
    if not sizes or room > MOST_SUMS * sizes[-1] or math.prod(room / size + 1 for size in sizes[:-1]) > MOST_SUMS:
        return limit
    sums = np.zeros(1)
    for size in sizes[:-1]:
        sums = np.add.outer(sums, size * np.arange(math.floor(room / size) + 1)).ravel()
        sums = sums[sums <= room]
    return float((sums + np.floor((room - sums) / sizes[-1]) * sizes[-1]).max())


def _check_limit(placement: Placement, costs: Costs, limit: float) -> None:
    least = least_bytes(placement, costs)
    if not limit >= least * (1 - 1e-9):
        raise ValueError(f"memory_limit={limit:.6g} does not hold one micro-batch; it needs at least {least:.6g}")


def _most_work(items: Iterable[Item], each: int, limit: float) -> float:
    """Most seconds of work that a limit of bytes can hold, with at most ``each`` of every item (an upper bound)."""
    items = [(float(seconds), float(size)) for seconds, size in items]
    left, total = float(limit), 0.0
    for seconds, size in sorted(items, key=lambda item: -math.inf if item[1] == 0 else -item[0] / item[1]):
        count = each if size * each <= left else left / size
        total += count * seconds
        left -= count * size
    least = min(size for _, size in items)
    if limit < math.inf and least > limit * 1e-9:
        whole = math.floor(limit / least * (1 + 1e-9))
        total = min(total, whole * max(seconds for seconds, _ in items))
    return total


def _gaps(paths: Paths, rank: int, micros: int, limit: float, everywhere: bool) -> tuple[float, float]:
    """Idle time that must stand in a rank's warm-up, and in its cool-down (until its own end or everyone's)."""
    stages, costs = paths.stages(rank), paths.costs
    saved = costs.saved_bytes
    forwards = _most_work(((paths.f[s], saved[s]) for s in stages), micros, limit)
    warm = max(0.0, paths.until_gradient(rank) - forwards)
    held = [(paths.most_backward[s], saved[s]) for s in stages]
    late = [(paths.w[s], saved[s] * costs.w_share[s]) for s in stages] if paths.split else []
    cool = max(0.0, paths.after_forward(rank, everywhere) - _most_work(held + late, micros, limit))
    tail = 0.0
    if everywhere:
        left = _most_work(late, micros, limit) if late else 0.0
        tail = max(0.0, min(float(paths.home[s]) for s in stages) - left)
    all_fit = micros * float(saved[stages].sum()) <= limit * (1 + 1e-9)
    apart = warm + max(cool, tail)
    together = max(warm + tail, cool)
    if all_fit and together < apart:
        return (warm, tail) if warm + tail >= cool else (0.0, cool)
    return warm, max(cool, tail)


def _work(paths: Paths, rank: int, micros: int) -> float:
    stages = paths.stages(rank)
    return micros * float((paths.f[stages] + paths.backward[stages]).sum())


def _lifespan(paths: Paths, rank: int, micros: int, limit: float) -> float:
    stages, costs = paths.stages(rank), paths.costs
    full = costs.seconds[Kind.B]
    last = np.minimum(full, paths.i + costs.w_share * paths.w) if paths.split else full
    lives = paths.turn[stages] + paths.back[stages] + last[stages]
    return micros * float((costs.saved_bytes[stages] * lives).sum()) / limit


def _best(rank: int, ways: Iterable[dict[str, float]]) -> Bound:
    """The largest sum of named parts."""
    parts = max(ways, key=lambda way: sum(way.values()))
    kind = " + ".join(name for name, seconds in parts.items() if seconds > 1e-12 * sum(parts.values()))
    return Bound(float(sum(parts.values())), kind or "work", rank)


def _span(paths: Paths, rank: int, micros: int, limit: float) -> Bound:
    warm, cool = _gaps(paths, rank, micros, limit, everywhere=False)
    by_work = {"work": _work(paths, rank, micros), "warm-up": warm, "cool-down": cool}
    return _best(rank, [by_work, {"lifespan": _lifespan(paths, rank, micros, limit)}])


def _makespan(paths: Paths, rank: int, micros: int, limit: float) -> Bound:
    head = min(float(paths.start[mine[0]]) for mine in paths.chains[rank] if mine)
    warm, cool = _gaps(paths, rank, micros, limit, everywhere=True)
    by_work = {"head": head, "work": _work(paths, rank, micros), "warm-up": warm, "cool-down": cool}
    return _best(rank, [by_work, {"head": head, "lifespan": _lifespan(paths, rank, micros, limit)}])


def _by_flow(
    paths: Paths, micros: int, limit: float, span: list[Bound], makespan: list[Bound]
) -> tuple[list[Bound], list[Bound]]:
    """Bounds by filling and draining, from the bounds of each rank by the other arguments.

    For the span each rank needs flows of its own; only those at the head of a chain, which bind, get them.
    """
    each, most = micros // len(paths.whole), -(-micros // len(paths.whole))
    start, end = from_start(paths), from_end(paths)

    def bound(rank: int, known: Bound, begin: Flow, close: Flow) -> Bound:
        work = _work(paths, rank, each)
        fill, drain = idle_at_both_ends(begin.idle(rank), close.idle(rank), known.seconds, work)
        return _best(rank, [{"work": work, "filling": fill, "draining": drain}])

    begin, close = Flow(start, paths, most, limit), Flow(end, paths, most, limit)
    makespans = [bound(rank, known, begin, close) for rank, known in enumerate(makespan)]
    spans, firsts = [], [chain[0] for chain in paths.whole]
    for rank in (r for r, mine in enumerate(paths.chains) if any(f in m for f, m in zip(firsts, mine, strict=True))):
        leads_all = all(first in stages for first, stages in zip(firsts, paths.chains[rank], strict=True))
        opening = begin if leads_all else Flow(start, paths, most, limit, rank)
        spans.append(bound(rank, span[rank], opening, Flow(end, paths, most, limit, rank)))
    return spans, makespans
