"""What one micro-batch takes on one rank: a block or an end of the model, forward, input and weight gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core import mesh
from penstock.core.architecture import Architecture, Block
from penstock.core.cluster import Cluster, Level
from penstock.core.mesh import Row
from penstock.core.parts import Experts
from penstock.core.setup import Setup
from penstock.core.unchecked import like
from penstock.cost.collectives import Collective, collective_s, seconds_of
from penstock.cost.inside import host_paces, inside
from penstock.cost.lasting import Shares, for_each, sustained
from penstock.cost.model_operators import dense
from penstock.cost.operators import Kernels, Microbatch, Shard
from penstock.cost.passes import CAST, MEMORY, ROUTING, Work
from penstock.cost.stack import Stack
from penstock.cost.switches import shown
from penstock.predict.contexts import Ring, ring_of
from penstock.predict.part import Part
from penstock.predict.parts import Parts, parts_of, together
from penstock.predict.precision import Precision, slow_down
from penstock.predict.routed import expert_s
from penstock.predict.split import between_stages, quantised
from penstock.predict.works import block_work, end_work

Floats = NDArray[np.float64]


class Rank:
    """One rank of a setup: links, precisions, kernels, and what its parts take, with ``shares`` of rates that last.

    ``rows``: of context and expert parallelism, and all devices, where they are not those of the setup, which stands
    for others. ``plain``: the same without experts' ranks, if it is known: parts without experts are its own. ``bare``:
    the same with nothing made again, if it is known: ends are its own.
    """

    def __init__(
        self,
        model: Architecture,
        cluster: Cluster,
        setup: Setup,
        stack: Stack,
        shares: Shares = None,
        rows: tuple[Row, Row, int] | None = None,
        plain: Rank | None = None,
        bare: Rank | None = None,
    ) -> None:
        self.model, self.cluster, self.setup, self.stack, self.shares = model, cluster, setup, stack, shares
        self.context_row, self.expert_row, self.devices = rows or (
            mesh.context(setup), mesh.experts(setup), setup.devices,
        )  # fmt: skip
        self.device, self.plain, self.bare = cluster.device, plain, bare
        self.noted: dict[Any, Any] = {}
        precision = Precision.on(self.device, setup)
        self.low, self.wide, self.recipe = precision.low, precision.wide, precision.recipe
        self.stand_ins = precision.stand_ins(self.device)
        self.width_bytes = 4.0 if setup.precision == "fp32" else 2.0
        self.batch: Microbatch = self._batch(precision) if bare is None else bare.batch
        self.dense_batch = dense(self.batch)
        paces = host_paces(self.device)
        self.recorded_s = tuple(stack.graph_launch_s * pace for pace in paces)
        """Of the host for an operator of the forward, and of the backward, in recorded graphs."""
        self.launches_s = self.recorded_s if setup.graphs else tuple(stack.launch_s * pace for pace in paces)
        """The same of all others."""
        self.experts_s = tuple(stack.expert_s * pace for pace in paces)
        """The same of single experts' products."""
        self.counts_s = sum(float(getattr(stack, name)) for name in stack.counting)
        """Of the host for counts of tokens, in each direction of a block of experts."""
        self.gathered_bytes = precision.gathered_bytes(model, setup.low_weights, self.width_bytes)

    def _batch(self, precision: Precision) -> Microbatch:
        """A micro-batch as the ranks that share experts see it."""
        setup, stack = self.setup, self.stack
        biased = stack.kernels.biased or setup.graphs  # a recorded step knows no counts of tokens to go by
        kernels: Kernels = like(stack.kernels, attention=setup.flash, biased=biased)
        return Microbatch(
            micro=setup.micro,
            seq=setup.seq,
            width_bytes=self.width_bytes,
            gradient_bytes=self.width_bytes / 2 if stack.passing_bytes else stack.gradient_bytes,
            shard=Shard(tp=setup.tp, sp=setup.sp, cp=setup.cp, cp_turned=setup.cp_turned, ep=setup.ep, etp=setup.etp),
            kernels=kernels,
            dropout=setup.dropout,
            kept_bytes=precision.kept_bytes,
            frozen=setup.adapter > 0,
            frozen_bytes=setup.frozen_bytes if quantised(self) else None,
            stops_early=stack.stops_early,
            adapter=setup.adapter,
            adapter_on=setup.adapter_on,
        )

    @property
    def again(self) -> str | tuple[str, ...]:
        """What is made again, as ``of_stack`` says it."""
        return self.of_stack(self.setup.recompute)

    def of_stack(self, again: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """What is made again: ``selective`` by names of operators where the framework has its own, else as it is."""
        return (self.stack.selective or again) if again == "selective" else again

    def batch_of(self, block: Block) -> Microbatch:
        """The micro-batch as a block sees it: only experts are split over the ranks of experts, and one that stays wide
        keeps its inputs as they are."""
        found = self.batch if isinstance(block.mlp, Experts) else self.dense_batch
        return replace(found, kept_bytes=None) if block.wide else found

    def bits_in(self, block: Block) -> str:
        """The precision of products in a block."""
        return self.wide if block.wide else self.low

    def bits_in_end(self, which: str) -> str:
        """The precision of products in an end: that of blocks in multi-token heads, which have one each."""
        return self.low if which == "predictors" else self.wide

    def batch_of_end(self, which: str) -> Microbatch:
        """The micro-batch as an end sees it: only multi-token heads have experts, and none has adapters."""
        found = self.batch if which == "predictors" else self.dense_batch
        return replace(found, adapter=0, adapter_on=(), frozen_bytes=None) if self.setup.adapter else found

    def group(self, row: Row) -> tuple[Level, ...]:
        """Links that a group crosses."""
        return self.cluster.slowest(*row, devices=self.devices) if row.size > 1 else ()

    def each(self, of: Callable[[Rank], Any]) -> Any:
        """What a function of a rank gives; ``Ranks`` gives it for many setups at once."""
        return of(self)

    def among(self, kind: Collective, whole_bytes: Floats, row: Row, when: Any = True) -> Floats:
        """Seconds of a collective, as far as there is one, over a group."""
        if row.size == 1 or not when or not whole_bytes.any():
            return np.zeros(whole_bytes.shape)
        return collective_s(kind, whole_bytes, self.group(row))

    @property
    def tensor(self) -> tuple[Level, ...]:
        """Of the tensor-parallel group."""
        return self.group(mesh.tensor(self.setup))

    @cached_property
    def next_stage_s(self) -> float:
        """Seconds of what one stage sends to the next, all ranks of a stage at once."""
        setup = self.setup
        if setup.pp == 1:
            return 0.0
        links, parts = between_stages(self.cluster, mesh.stages(setup), setup.devices), self.boundary_parts
        gather_s = self.among("all_gather", np.array([self.boundary_bytes]), Row(parts))[0]
        return float(seconds_of("send", self.boundary_bytes / parts, links) + gather_s)

    @property
    def boundary_bytes(self) -> float:
        """Of the tensor between two stages, on one rank."""
        return self.batch.own * self.model.hidden * self.width_bytes

    @property
    def boundary_parts(self) -> int:
        """In how many parts that tensor is sent, each by another tensor-parallel rank, to be gathered where it goes."""
        return self.setup.tp if self.stack.p2p_split and not self.setup.sp else 1

    @cached_property
    def parts(self) -> Parts:
        """What each kind of block, and each end of the model by name, takes."""
        return parts_of([self])[0]

    @cached_property
    def pass_s(self) -> float:
        """Seconds of a micro-batch through the whole model."""
        blocks = self.model.kinds()
        return sum(part.all_s * (1 if isinstance(name, str) else blocks[name]) for name, part in self.parts.items())

    @cached_property
    def end_parts(self) -> Parts:
        """What each end of the model takes; those that route no tokens are those of the plain rank."""
        if self.bare is not None:
            return self.bare.end_parts
        plain = {} if self.plain is None else self.plain.end_parts
        return {end: self.end(end) if end == "predictors" or not plain else plain[end] for end in self.setup.ends}

    def end(self, which: str) -> Part:
        """Return what the embedding, the head with its loss, or multi-token heads take."""
        low = self.bits_in_end(which)
        done = end_work(self.model, self.batch_of_end(which), which, self.device, low, self.wide)
        return together([self], [done], low)[0]

    def lasting(self, low: str, hot: float | Floats) -> Floats:
        """Return the share of the rate of single kernels that the stack reaches through a step, for each of
        ``CLASSES``, with products in the precision ``low``; ``hot`` as ``sustained`` takes it."""
        measured = inside(self.device)
        if measured is not None:
            found = for_each(measured.shares, hot)
        else:
            found = sustained(self.device, low, self.wide, self.stack.attention, hot, self.shares)
        found[MEMORY] /= self.stack.moves
        found[CAST] /= self.stack.casts
        slow_down(found, self.recipe, self.device)
        found[ROUTING] /= getattr(self.stack, self.stack.orders_tokens)
        return found

    def crowd(self, block: Block) -> float:
        """Tokens of a block's busiest rank over the mean."""
        return self.setup.imbalance if isinstance(block.mlp, Experts) else 1.0

    def work(self, block: Block) -> Work:
        """What a block does."""
        low, crowd = self.bits_in(block), self.crowd(block)
        return block_work(block, self.batch_of(block), self.again, self.device, low, self.wide, crowd)

    @property
    def row_bytes(self) -> float:
        """Of the activations of all tokens of a rank's tensor-parallel group."""
        return self.batch.here * self.model.hidden * self.width_bytes

    def turns(self, block: Block | None) -> dict[str, float]:
        """Return seconds of messages that nothing hides, by axis, in either direction of a block or of an end."""
        if block is None:
            return {"tensor": self.stack.tp_shown * seconds_of("all_reduce", self.row_bytes, self.tensor) / 2}
        return {"tensor": self.tensor_s(block), "expert": expert_s(self, block)}

    def rings(self, block: Block | None) -> tuple[Ring, Ring]:
        """Return messages of context parallelism in the forward and in the backward of a block, or of an end."""
        return (ring_of(self, block), ring_of(self, block, 2)) if block is not None else (Ring(), Ring())

    def summed(self, block: Block) -> tuple[float, int]:
        """What a direction sums over the tensor-parallel group: the tokens of a rank so many times, behind each half of
        a block, those that are routed where experts are split over it; and in how many messages."""
        setup, mlp = self.setup, block.mlp
        if setup.tp == 1:
            return 0.0, 0
        halves = [float(block.attention is not None)]
        if isinstance(mlp, Experts):
            halves += [mlp.topk * (setup.etp > 1), mlp.shared is not None]
        elif mlp is not None and not (block.parallel and halves[0]):
            halves.append(1.0)
        return sum(halves), sum(map(bool, halves)) * (2 if setup.sp else 1)

    def summed_bytes(self, block: Block) -> float:
        """Bytes of a direction's sums over the tensor-parallel group."""
        return self.row_bytes * self.summed(block)[0]

    def tensor_s(self, block: Block) -> float:
        """Seconds of a direction's ``summed_bytes``; products of experts are made without their sums beside them."""
        size, mlp = self.summed_bytes(block), block.mlp
        routed = mlp.topk * self.row_bytes if isinstance(mlp, Experts) and self.setup.etp > 1 else 0.0
        share = shown(self.stack, "tp", self.setup.tp_overlap, 1 - routed / size if size else 1.0)
        return share * seconds_of("all_reduce", size, self.tensor)

    @property
    def experts(self) -> tuple[Level, ...]:
        """Of the group that shares experts."""
        return self.group(self.expert_row)
