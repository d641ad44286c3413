"""Chains of stages as each rank sees them, and how long a micro-batch takes along them."""

from __future__ import annotations

import numpy as np

from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement


def chains_of(placement: Placement) -> list[list[int]]:
    """Stages of each chain, in order."""
    chains = []
    for first in (s for s, before in enumerate(placement.prev) if before == NO_STAGE):
        chain = [first]
        while placement.next[chain[-1]] != NO_STAGE:
            chain.append(placement.next[chain[-1]])
        chains.append(chain)
    return chains


def _on(placement: Placement, rank: int, chain: list[int]) -> list[int]:
    return [s for s in chain if placement.rank_of[s] == rank]


class Paths:
    """Shortest times along the chains, per stage; a micro-batch goes up its chain and comes back."""

    def __init__(self, placement: Placement, costs: Costs, split: bool) -> None:
        self.costs, self.split = costs, split
        self.f, full, self.i, self.w = (costs.seconds[kind] for kind in (Kind.F, Kind.B, Kind.I, Kind.W))
        self.gradient = np.minimum(full, self.i) if split else full
        """Until a backward lets the stage before go on."""
        self.backward = np.minimum(full, self.i + self.w) if split else full
        self.most_backward = np.maximum(full, self.i + self.w) if split else full
        self.late_share = costs.w_share if split else np.zeros(placement.stages)
        """Share of the saved bytes that may outlive the gradient."""
        stages = placement.stages
        self.to, self.fro = np.zeros(stages), np.zeros(stages)
        """Time of the message from the stage before, and from the stage after."""
        self.start = np.zeros(stages)
        """Start of ``F`` after the start of the chain."""
        self.turn = np.zeros(stages)
        """From the start of ``F`` to the end of the chain's forwards."""
        self.back = np.zeros(stages)
        """From there to the start of the stage's backward."""
        self.home = np.zeros(stages)
        """From the end of the stage's gradient to the end of all backwards before it in the chain."""
        self.whole = chains_of(placement)
        """Stages of each chain, in order."""
        for chain in self.whole:
            self._measure(chain, placement)
        self.chains = [[_on(placement, r, chain) for chain in self.whole] for r in range(placement.ranks)]
        """Stages of each rank and chain, in order."""

    def _measure(self, chain: list[int], placement: Placement) -> None:
        rank = np.array(placement.rank_of)[chain]
        up, down = self.costs.hop_s[rank[:-1], rank[1:]], self.costs.hop_s[rank[1:], rank[:-1]]
        self.to[chain[1:]], self.fro[chain[:-1]] = up, down
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
