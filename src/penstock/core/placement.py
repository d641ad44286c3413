"""Which rank holds which virtual stage, which stage follows which, which stages share weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NO_STAGE = -1
"""Stands for "no stage before" (start of a chain) and "no stage after" (end of a chain)."""


@dataclass(frozen=True)
class Placement:
    """Virtual stages on ranks.

    Args:
        rank_of: rank of each virtual stage.
        prev: the stage before each stage, ``NO_STAGE`` at the start of a chain. Default: one chain 0, 1, 2, ...
        part_of: the model part of each stage; stages of equal part are replicas of the same weights.
            Default: all differ.

    Raises:
        ValueError: lengths differ, a rank holds no stage, or ``prev`` is not a set of chains.

    Example:
        >>> Placement.loop(2, 2).rank_of
        (0, 1, 0, 1)
        >>> Placement.vee(2).rank_of
        (0, 1, 1, 0)
    """

    rank_of: tuple[int, ...]
    prev: tuple[int, ...] = ()
    part_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.rank_of)
        object.__setattr__(self, "rank_of", tuple(map(int, self.rank_of)))
        object.__setattr__(self, "prev", tuple(map(int, self.prev)) or tuple(range(-1, n - 1)))
        object.__setattr__(self, "part_of", tuple(map(int, self.part_of)) or tuple(range(n)))
        if n == 0:
            raise ValueError("a placement needs at least one stage")
        for name in ("prev", "part_of"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} stages")
        held = set(self.rank_of)
        if min(held) < 0:
            raise ValueError(f"rank_of={self.rank_of} names rank {min(held)}; ranks count from 0")
        if max(held) >= len(held):
            empty = next(rank for rank in range(len(held)) if rank not in held)
            raise ValueError(f"rank_of={self.rank_of}: rank {empty} holds no stage, though rank {max(held)} does")
        self._check_chains()

    def _check_chains(self) -> None:
        followed = [s for s in self.prev if s != NO_STAGE]
        outside = [s for s in followed if not 0 <= s < self.stages]
        if outside:
            raise ValueError(f"prev names stage {outside[0]}, but stages are 0..{self.stages - 1}")
        if len(set(followed)) < len(followed):
            twice = next(s for s in followed if followed.count(s) > 1)
            raise ValueError(f"prev={self.prev}: stage {twice} is followed by two stages; chains do not branch")
        reached, front = 0, [s for s, before in enumerate(self.prev) if before == NO_STAGE]
        while front:
            reached += len(front)
            front = [self.next[s] for s in front if self.next[s] != NO_STAGE]
        if reached < self.stages:
            raise ValueError(f"prev={self.prev} contains a ring; every chain needs a first stage")

    @classmethod
    def loop(cls, ranks: int, chunks: int = 1) -> Placement:
        """Stages dealt to ranks in turn: 0 1 .. p-1 0 1 .. ; a line with one chunk."""
        return cls(tuple(s % ranks for s in range(ranks * chunks)))

    @classmethod
    def vee(cls, ranks: int, chunks: int = 2) -> Placement:
        """Stages dealt forth and back: 0 1 .. p-1 p-1 .. 1 0 ; a zigzag with more than two chunks."""
        return cls(tuple(s % ranks if s // ranks % 2 == 0 else ranks - 1 - s % ranks for s in range(ranks * chunks)))

    @classmethod
    def both_ways(cls, ranks: int, chunks: int = 1) -> Placement:
        """Two chains over the same weights, one from each end: stages 0 .. p-1 go up the ranks, p .. 2p-1 down.

        With more chunks each chain goes to and fro as ``vee`` does, the second as its mirror image.

        Example:
            >>> Placement.both_ways(2).rank_of, Placement.both_ways(2).part_of, Placement.both_ways(2).chain_of
            ((0, 1, 1, 0), (0, 1, 0, 1), (0, 0, 1, 1))
        """
        up, n = cls.vee(ranks, chunks), ranks * chunks
        before = (*up.prev, NO_STAGE, *range(n, 2 * n - 1))
        return cls((*up.rank_of, *(ranks - 1 - r for r in up.rank_of)), before, (*up.part_of, *up.part_of))

    def in_parts(self, parts: int) -> Placement:
        """Each stage cut into so many that follow each other on its rank, where messages between them take no time.

        Smaller stages hold their activations for less long, and gradients of weights fit into shorter waits.

        Raises:
            ValueError: fewer than one part.

        Example:
            >>> Placement.vee(2).in_parts(2).rank_of
            (0, 0, 1, 1, 1, 1, 0, 0)
        """
        if parts < 1:
            raise ValueError(f"a stage cannot be cut into {parts} parts; use 1 or more")
        pieces = [(stage, part) for stage in range(self.stages) for part in range(parts)]
        ends = [NO_STAGE if before == NO_STAGE else (before + 1) * parts - 1 for before in self.prev]
        return Placement(
            tuple(self.rank_of[stage] for stage, _ in pieces),
            tuple(stage * parts + part - 1 if part else ends[stage] for stage, part in pieces),
            tuple(self.part_of[stage] * parts + part for stage, part in pieces),
        )

    def whole(self) -> tuple[Placement, int]:
        """The placement of which this one is ``in_parts``, and in how many: as many as can be.

        Example:
            >>> place = Placement.vee(2)
            >>> place.in_parts(2).whole() == (place, 2), place.whole()[1]
            (True, 1)
        """
        for parts in range(self.stages // self.ranks, 1, -1):
            if self.stages % parts == 0 and self._consists_of(parts):
                before = (NO_STAGE if s == NO_STAGE else s // parts for s in self.prev[::parts])
                part_of = (part // parts for part in self.part_of[::parts])
                return Placement(self.rank_of[::parts], tuple(before), tuple(part_of)), parts
        return self, 1

    def _consists_of(self, parts: int) -> bool:
        """Whether so many stages in a row always stand together, with all that comes before and after them."""
        rank, before, part = (np.array(values).reshape(-1, parts) for values in (self.rank_of, self.prev, self.part_of))
        rows = np.arange(self.stages).reshape(-1, parts)
        links = (before[:, 1:] == rows[:, :-1]).all() and ((before[:, 0] + 1) % parts == 0).all()
        return bool(links and np.ptp(rank, axis=1).max() == 0 and (part - np.arange(parts) == part[:, :1]).all()
                    and (part[:, 0] % parts == 0).all())  # fmt: skip

    @property
    def stages(self) -> int:
        """Number of virtual stages."""
        return len(self.rank_of)

    @cached_property
    def ranks(self) -> int:
        """Number of ranks."""
        return max(self.rank_of) + 1

    @cached_property
    def next(self) -> tuple[int, ...]:
        """The stage after each stage, ``NO_STAGE`` at the end of a chain."""
        after = [NO_STAGE] * self.stages
        for stage, before in enumerate(self.prev):
            if before != NO_STAGE:
                after[before] = stage
        return tuple(after)

    @cached_property
    def chain_of(self) -> tuple[int, ...]:
        """The chain of each stage, numbered in order of their first stages. A micro-batch runs through one chain."""
        chain = [NO_STAGE] * self.stages
        firsts = [s for s, before in enumerate(self.prev) if before == NO_STAGE]
        for number, stage in enumerate(firsts):
            while stage != NO_STAGE:
                chain[stage] = number
                stage = self.next[stage]
        return tuple(chain)

    @property
    def chains(self) -> int:
        """Number of chains; more than one where the pipeline runs in several directions."""
        return max(self.chain_of) + 1

    @cached_property
    def depth_of(self) -> tuple[int, ...]:
        """How many stages lie before each stage in its chain."""
        depth = [0] * self.stages
        for stage in (s for s, before in enumerate(self.prev) if before == NO_STAGE):
            while self.next[stage] != NO_STAGE:
                depth[self.next[stage]] = depth[stage] + 1
                stage = self.next[stage]
        return tuple(depth)

    @cached_property
    def hops(self) -> NDArray[np.int32]:
        """Stage seen over each ``Hop``, ``NO_STAGE`` where there is none: shape (hops, stages)."""
        first_of = {rank: self.on(rank)[0] for rank in range(self.ranks)}
        here = np.full((4, self.stages), NO_STAGE)
        for row, ends in ((0, self.prev), (1, self.next)):
            stage = ends.index(NO_STAGE)
            part = first_of[self.rank_of[stage]]
            here[row, part], here[row + 2, stage] = stage, part
        return np.concatenate([[range(self.stages), self.prev, self.next], here]).astype(np.int32)

    def on(self, rank: int) -> tuple[int, ...]:
        """Stages of one rank, in order of model part: local chunk 0, 1, ..."""
        return self._on[rank] if 0 <= rank < self.ranks else ()

    @cached_property
    def _on(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in range(self.ranks)]
        for stage in sorted(range(self.stages), key=lambda s: (self.part_of[s], s)):
            found[self.rank_of[stage]].append(stage)
        return tuple(map(tuple, found))
