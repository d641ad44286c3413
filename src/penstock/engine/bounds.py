"""Lower bounds: what no order of the ops on a placement can beat, within a limit of memory.

For each rank four arguments, each true for any order, with whole or split backwards:

- *work*: the rank runs all its forwards and backwards, one after the other.
- *warm-up*: before its first gradient the rank can run only forwards, as many as fit its memory, while the first
  micro-batch goes on to the end of the chain and back (Qi et al. 2023, arXiv:2401.10241, appendix B).
- *cool-down*: after its last forward it holds no more work than fits its memory, while the last micro-batch goes to
  the end of the chain and back; and after its last gradient only ``W`` are left while the chain before it goes on.
- *lifespan*: every activation lives at least as long as its micro-batch travels, and bytes times seconds cannot exceed
  the limit times the span (Qi et al. 2024, arXiv:2405.15362).

The makespan adds the *head*: the time until the first forward can reach the rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement

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
    """What no order can beat.

    Args:
        placement: where the stages live; every stage runs every micro-batch of its chain forward and backward, and
            chains share the micro-batches evenly.
        micros: micro-batches per step.
        costs: of this placement; times of messages count on every hop between ranks.
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
    paths = _Paths(placement, costs, split)
    _check_limit(placement, costs, memory_limit)
    ranks, micros = range(placement.ranks), micros // placement.chains
    span = [_span(paths, r, micros, memory_limit) for r in ranks]
    makespan = [_makespan(paths, r, micros, memory_limit) for r in ranks]
    return Bounds(max(span, key=lambda bound: bound.seconds), max(makespan, key=lambda bound: bound.seconds))


def least_bytes(placement: Placement, costs: Costs) -> float:
    """Activations of one micro-batch on the rank that holds most of them: no order needs less."""
    held = np.zeros((placement.ranks, placement.stages))
    chain = {stage: chain[0] for chain in _chains(placement) for stage in chain}
    for stage, rank in enumerate(placement.rank_of):
        held[rank, chain[stage]] += costs.saved_bytes[stage]
    return float(held.max())


def _check_limit(placement: Placement, costs: Costs, limit: float) -> None:
    least = least_bytes(placement, costs)
    if not limit >= least * (1 - 1e-9):
        raise ValueError(f"memory_limit={limit:.6g} does not hold one micro-batch; it needs at least {least:.6g}")


def _chains(placement: Placement) -> list[list[int]]:
    chains = []
    for first in (s for s, before in enumerate(placement.prev) if before == NO_STAGE):
        chain = [first]
        while placement.next[chain[-1]] != NO_STAGE:
            chain.append(placement.next[chain[-1]])
        chains.append(chain)
    return chains


def _on(placement: Placement, rank: int, chain: list[int]) -> list[int]:
    return [s for s in chain if placement.rank_of[s] == rank]


class _Paths:
    """Shortest times along the chains, per stage; a micro-batch goes up its chain and comes back."""

    def __init__(self, placement: Placement, costs: Costs, split: bool) -> None:
        self.costs, self.split = costs, split
        self.f, full, self.i, self.w = (costs.seconds[kind] for kind in (Kind.F, Kind.B, Kind.I, Kind.W))
        self.gradient = np.minimum(full, self.i) if split else full
        """Until a backward lets the stage before go on."""
        self.backward = np.minimum(full, self.i + self.w) if split else full
        self.most_backward = np.maximum(full, self.i + self.w) if split else full
        stages = placement.stages
        self.start = np.zeros(stages)
        """Start of ``F`` after the start of the chain."""
        self.turn = np.zeros(stages)
        """From the start of ``F`` to the end of the chain's forwards."""
        self.back = np.zeros(stages)
        """From there to the start of the stage's backward."""
        self.home = np.zeros(stages)
        """From the end of the stage's gradient to the end of all backwards before it in the chain."""
        chains = _chains(placement)
        for chain in chains:
            self._measure(chain, placement)
        self.chains = [[_on(placement, r, chain) for chain in chains] for r in range(placement.ranks)]
        """Stages of each rank and chain, in order."""

    def _measure(self, chain: list[int], placement: Placement) -> None:
        rank = np.array(placement.rank_of)[chain]
        up, down = self.costs.hop_s[rank[:-1], rank[1:]], self.costs.hop_s[rank[1:], rank[:-1]]
        forward, gradient = self.f[chain], self.gradient[chain]
        self.start[chain] = np.r_[0.0, np.cumsum(forward[:-1] + up)]
        end = self.start[chain[-1]] + forward[-1]
        self.turn[chain] = end - self.start[chain]
        self.back[chain] = np.r_[0.0, np.cumsum((gradient[1:] + down)[::-1])][::-1]
        done = self.back[chain] + self.backward[chain]
        before = np.maximum.accumulate(np.r_[-np.inf, done[:-1]])
        self.home[chain] = np.maximum(0.0, before - self.back[chain] - gradient)

    def stages(self, rank: int) -> list[int]:
        """All stages of a rank."""
        return [s for mine in self.chains[rank] for s in mine]

    def until_gradient(self, rank: int) -> float:
        """From the first forward of the rank to its first backward, at least."""
        return min(float(self.turn[mine[0]] + self.back[mine[-1]]) for mine in self.chains[rank] if mine)

    def after_forward(self, rank: int, everywhere: bool) -> float:
        """From the end of the rank's last forward to the end of that micro-batch's backwards, here or everywhere."""
        found = []
        for mine in filter(None, self.chains[rank]):
            last = mine[-1]
            there = float(self.turn[last] - self.f[last])
            done = max(self.back[s] + self.backward[s] for s in mine)
            if everywhere:
                done = max(done, self.back[mine[0]] + self.gradient[mine[0]] + self.home[mine[0]])
            found.append(there + float(done))
        return min(found)


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


def _gaps(paths: _Paths, rank: int, micros: int, limit: float, everywhere: bool) -> tuple[float, float]:
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


def _work(paths: _Paths, rank: int, micros: int) -> float:
    stages = paths.stages(rank)
    return micros * float((paths.f[stages] + paths.backward[stages]).sum())


def _lifespan(paths: _Paths, rank: int, micros: int, limit: float) -> float:
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


def _span(paths: _Paths, rank: int, micros: int, limit: float) -> Bound:
    warm, cool = _gaps(paths, rank, micros, limit, everywhere=False)
    by_work = {"work": _work(paths, rank, micros), "warm-up": warm, "cool-down": cool}
    return _best(rank, [by_work, {"lifespan": _lifespan(paths, rank, micros, limit)}])


def _makespan(paths: _Paths, rank: int, micros: int, limit: float) -> Bound:
    head = min(float(paths.start[mine[0]]) for mine in paths.chains[rank] if mine)
    warm, cool = _gaps(paths, rank, micros, limit, everywhere=True)
    by_work = {"head": head, "work": _work(paths, rank, micros), "warm-up": warm, "cool-down": cool}
    return _best(rank, [by_work, {"head": head, "lifespan": _lifespan(paths, rank, micros, limit)}])
