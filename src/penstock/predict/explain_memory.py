"""Gigabytes of a device opened up: categories, what holds them, each matrix and each saved activation, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from penstock.core.architecture import Block
from penstock.core.parts import Experts, Mlp
from penstock.cost.origins import Constant, of_stack
from penstock.engine.memory import memory
from penstock.predict.explain_blocks import block_names, which
from penstock.predict.figure import Figure, total
from penstock.predict.memory import Width, counted, peak, vocabulary_waits, widths
from penstock.predict.micro import Rank
from penstock.predict.moments import logit_bytes, loss_storages, storages
from penstock.predict.prediction import Room
from penstock.predict.sizes import Sizes
from penstock.predict.split import sharded
from penstock.predict.stage import Stage
from penstock.predict.step import Step
from penstock.units import human_bytes

PASSING = {
    "bucket of gradients": "bucket_bytes",
    "weights kept gathered": "live_bytes",
    "gathered blocks": "ahead",
    "whole gradients of a block": "reduced_bytes",
    "gathered head and its whole gradients": "reduced_bytes",
    "scratch of products": "scratch_bytes",
    "gradient of a matrix": "passing_bytes",
    "optimizer's step": "step_bytes",
    "blocks made again": "stage_again",
}
"""Which field of a stack says how much of what passes there is."""


def memory_of(step: Step, rooms: Iterable[Room]) -> list[Figure]:
    """Return the bytes of a device of each pipeline rank as a tree.

    Args:
        step: what is trained, and how.
        rooms: of its prediction.
    """
    return [_OnRank(step, r, room).figure() for r, room in enumerate(rooms)]


class _OnRank:
    """One pipeline rank at its peak."""

    def __init__(self, step: Step, r: int, room: Room) -> None:
        self.step, self.rank, self.r, self.room = step, step.rank, r, room
        self.stage = self._stage()
        self.names = block_names(step)
        curve = step.timeline.memory[r]
        self.at = int(np.argmax(curve.total_bytes)) if len(curve.time_s) else 0
        self.kept_bytes = float(curve.peak_bytes)
        self.moment, self.held_bytes = peak(self.rank, self.stage, self.kept_bytes)

    def _stage(self) -> Stage:
        ways = [blocks for _, blocks in self.step.blocks(self.r)]
        return Stage(sum(ways, Counter()), *self.step.holds(self.r), *ways[1:])

    def figure(self) -> Figure:
        """All of it."""
        makers = {
            "weights": self._by_parameters, "gradients": self._by_parameters, "optimizer": self._by_parameters,
            "activations": self._activations, "loss": self._loss, "working": self._working,
            "messages": self._messages, "reserve": self._reserve, "context": self._context,
        }  # fmt: skip
        parts = [
            Figure(name=name, value=value, unit="bytes", parts=tuple(part for part in makers[name](name) if part.value))
            for name, value in self.room.parts().items()
            if value
        ]
        how = f"at its fullest at: {self.moment.name}"
        return Figure(
            name=f"rank {self.r}", value=self.room.total, unit="bytes", parts=tuple(parts), how=how, facts=self._when()
        )

    def _when(self) -> dict[str, Any]:
        curve, plan = self.step.timeline.memory[self.r], self.step.plan
        found: dict[str, Any] = {"moment": self.moment.name}
        if not len(curve.time_s):
            return found
        when = float(curve.time_s[self.at])
        mine = (plan.rank_of_op == self.r) & (self.step.timeline.start_s == when)
        ops = [str(plan.op(int(row))) for row in np.flatnonzero(mine)]
        return found | {
            "activations_at_s": when,
            "activations_at_op": " ".join(ops),
            "in_flight": {str(stage): count for stage, count in self.in_flight.items()},
        }

    @cached_property
    def in_flight(self) -> dict[int, float]:
        """Micro-batches whose activations each stage keeps at the peak; of one whose input gradient is done, a part.

        The engine counts them as it counts bytes: each stage in turn is given the only activations that weigh.
        """
        step, found = self.step, {}
        for stage in self.step.on[self.r]:
            if not step.costs.saved_bytes[stage]:
                continue
            weights = np.where(step.costs.saved_bytes > 0, 1e-13, 0.0)
            weights[stage] = 1.0
            costs = replace(step.costs, saved_bytes=weights)
            curve = memory(step.plan, step.timeline.start_s, step.timeline.end_s, costs)[self.r]
            found[stage] = round(float(curve.activation_bytes[self.at]), 9)
        return found

    # -- what parameters take

    def _by_parameters(self, part: str) -> Iterator[Figure]:
        there = self.moment.gradients if part == "gradients" else 1.0
        mine = [width for width in widths(self.rank) if width.part == part and width.size_bytes]
        for width in mine:
            each = width._replace(size_bytes=width.size_bytes * there)
            figures = self._holders(each)
            if len(mine) == 1:
                yield from figures
            else:
                yield total(width.name, "bytes", figures, constants=self._of(*width.fields))

    def _holders(self, width: Width) -> Iterator[Figure]:
        """Kinds of blocks with their matrices, and the ends."""
        rank, setup, none = self.rank, self.rank.setup, Counter[Block]()
        empty = self._bytes(width, none, False, False)
        for block, count in self.stage.blocks.items():
            pair = self._bytes(width, Counter({block: count}), False, False)
            size = (pair[0] - empty[0], pair[1] - empty[1])
            name, whole = self.names[block], not (width.trained and setup.adapter)
            facts = {"blocks": count, "bytes_of_each": width.size_bytes, "sharded_over": self._over(width)}
            how = f"{count} blocks, {width.size_bytes:g} bytes of each parameter"
            parts = _matrices(block, size) if whole else ()
            yield Figure(name=name, value=sum(size), unit="bytes", parts=tuple(parts), how=how, facts=facts,
                         constants=self._of(*width.fields))  # fmt: skip
        first, last = self.stage.first, self.stage.last
        if setup.vocabulary:
            yield Figure(
                name="vocabulary", value=sum(empty), unit="bytes", how=f"embedding and head, over pp={setup.pp}"
            )
            return
        both, embedding = (sum(self._bytes(width, none, first, with_head)) for with_head in (last, False))
        yield Figure(name="embedding", value=embedding, unit="bytes", how=f"tables, over {rank.setup.tp} ranks")
        yield Figure(
            name="head", value=both - embedding, unit="bytes", how=f"norm and rows, over {rank.setup.tp} ranks"
        )

    def _bytes(self, width: Width, blocks: Counter[Block], first: bool, last: bool) -> tuple[float, float]:
        """Bytes of all but experts, and of experts."""
        setup = self.rank.setup
        stage = Stage(blocks, first, last)
        dense, experts = counted(self.rank, width, stage, Sizes.of(self.rank, stage))
        sizes = (sharded(setup, (dense, 0.0), width.stage), sharded(setup, (0.0, experts), width.stage))
        return width.size_bytes * sizes[0], width.size_bytes * sizes[1]

    def _over(self, width: Width) -> int:
        return self.rank.setup.sharded if self.rank.setup.zero >= width.stage else 1

    # -- what comes and goes

    def _activations(self, _: str) -> Iterator[Figure]:
        if not self.room.activations:
            return
        for stage, count in self.in_flight.items():
            each = ((rank, block, times) for rank, of in self.step.ways for block, times in of[stage].items())
            parts = [self._kept(rank, block, times, count) for rank, block, times in each]
            how = f"{count:g} micro-batches in flight"
            yield total(f"stage {stage}", "bytes", parts, how=how, facts={"in_flight": count})
        waiting = self.kept_bytes * vocabulary_waits(self.rank)
        how = "micro-batches whose part of the vocabulary is still to come"
        yield Figure(name="waiting for the vocabulary", value=waiting, unit="bytes", how=how)
        gone = self.room.activations - self.held_bytes
        how = "those of the block whose backward has ended"
        yield Figure(name="freed", value=gone if abs(gone) > 1.0 else 0.0, unit="bytes", how=how)

    def _kept(self, rank: Rank, block: Block, times: int, count: float) -> Figure:
        found = [
            Figure(
                name=name, value=times * count * size, unit="bytes",
                how=f"{human_bytes(size)} in {times} blocks, {count:g} micro-batches in flight",
                facts={"bytes": size, "blocks": times, "in_flight": count},
            )
            for name, size in storages(rank, block).items()
        ]  # fmt: skip
        how = f"{times} blocks, recompute {rank.setup.recompute}, offload {rank.setup.offload}"
        return total(self.names[block] + which(self.step, rank), "bytes", found, how=how)

    def _loss(self, _: str) -> Iterator[Figure]:
        rank, setup = self.rank, self.rank.setup
        share = 1 / setup.pp if setup.vocabulary else 1.0
        for name, size in loss_storages(rank.model, rank.dense_batch, logit_bytes(rank)).items():
            yield Figure(name=name, value=size * share, unit="bytes", constants=self._of("logit_bytes"))

    def _working(self, _: str) -> Iterator[Figure]:
        yield from self._passing(self.moment.working)
        value, how = self.rank.stack.workspace_bytes, "workspaces of libraries"
        yield Figure(name="workspace", value=value, unit="bytes", how=how, constants=self._of("workspace_bytes"))

    def _messages(self, _: str) -> Iterator[Figure]:
        yield from self._passing(self.moment.messages)

    def _passing(self, named: Mapping[str, float]) -> Iterator[Figure]:
        for name, value in named.items():
            some = self._of(PASSING[name]) if name in PASSING else ()
            yield Figure(name=name, value=value, unit="bytes", how=f"at {self.moment.name}", constants=some)

    def _reserve(self, _: str) -> Iterator[Figure]:
        how = "of activations, loss and what works"
        yield Figure(name="slack", value=self.room.reserve, unit="bytes", how=how, constants=self._of("slack"))

    def _context(self, _: str) -> Iterator[Figure]:
        how = "the driver's and the collectives', outside of the allocator"
        yield Figure(name="driver", value=self.room.context, unit="bytes", how=how, constants=self._of("context_bytes"))

    def _of(self, *names: str) -> tuple[Constant, ...]:
        return tuple(of_stack(self.rank.stack, name) for name in names)


def _matrices(block: Block, size: tuple[float, float]) -> Iterator[Figure]:
    """The parameters of a block by matrix, of which all but experts take ``size[0]`` bytes and experts ``size[1]``."""
    named = matrices(block)
    experts = named.pop("experts", 0)
    whole = sum(named.values())
    for name, count in named.items():
        yield Figure(name=name, value=size[0] * count / whole, unit="bytes", facts={"parameters_of_a_block": count})
    if experts:
        yield Figure(name="experts", value=size[1], unit="bytes", facts={"parameters_of_a_block": experts})


def matrices(block: Block) -> dict[str, int]:
    """Return the parameters of a block by what they belong to; they add up to ``block.parameters``.

    >>> from penstock.core.config import gpt
    >>> matrices(gpt(layers=1, hidden=64, heads=4, vocab=96).blocks[0])["mlp.up"]
    16640
    """
    found: Counter[str] = Counter()
    for half in (block.attention, block.mlp):
        if half is None:
            continue
        if isinstance(half, Experts):
            found["experts"] = half.experts * half.expert.parameters
            found[half.router.name] += half.router.parameters
            found["shared expert"] += half.shared.parameters if half.shared else 0
        else:
            for name in ("inward", "narrowing", "indexer", "beside"):
                for matrix in getattr(half, name, ()):
                    found[matrix.name] += matrix.parameters
            found[half.outward.name] += half.outward.parameters
            norms = [half.norm] if isinstance(half, Mlp) and half.norm else getattr(half, "norms", ())
            found["norms inside"] += sum(norm.parameters for norm in norms)
    found["norms"] = sum(norm.parameters for norm in block.norms)
    found["all else"] = block.parameters - sum(found.values())
    return {name: count for name, count in found.items() if count}
