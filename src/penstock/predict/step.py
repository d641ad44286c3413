"""What one training step takes: the pipeline's timeline, gradients and the optimizer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture, Block
from penstock.core.cluster import Cluster
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.placement import Placement
from penstock.core.plan import Plan
from penstock.core.setup import Setup
from penstock.core.timeline import Timeline
from penstock.cost.collectives import collective_s
from penstock.cost.kernels import memory_bound
from penstock.cost.stack import Stack
from penstock.engine import simulate
from penstock.predict.flops import model_flops
from penstock.predict.memory import parameters, room, saved_bytes
from penstock.predict.micro import Part, Rank
from penstock.predict.prediction import Prediction
from penstock.schedules import build

BLOCKS = "blocks"


def predict(model: Architecture, cluster: Cluster, setup: Setup, stack: Stack) -> Prediction:
    """Return what one training step takes.

    Args:
        model: what is trained.
        cluster: where; ranks go tensor parallel first, then context, data and pipeline.
        setup: how it is split.
        stack: the framework.

    Raises:
        ValueError: a split that does not divide the model, a schedule that cannot be, or more devices than there are.

    >>> from penstock.core.config import read_architecture
    >>> from penstock.cost.stack import stack
    >>> setup = Setup(seq=2048, batch=64, tp=8, pp=2, sp=True)
    >>> found = predict(read_architecture("gpt3-175b"), Cluster.read("dgx-a100-80gb:2"), setup, stack("megatron-core"))
    >>> found.fits
    False
    """
    if setup.devices > cluster.devices:
        raise ValueError(f"the setup takes {setup.devices} devices, {cluster.name} has {cluster.devices}")
    rank = Rank(model, cluster, setup, stack)
    stages = _stages(model, setup)
    kinds = {block: rank.block(block) for block in set().union(*stages)}
    ends = {"embedding": rank.end("embedding"), "head": rank.end("head"), "predictors": rank.end("predictors")}
    plan = pipeline(setup.schedule, setup.pp, setup.micros, setup.chunks)
    costs = _costs(rank, plan.placement, stages, kinds, ends)
    timeline = simulate(plan, costs)
    return _Step(rank, stages, kinds, ends, costs, timeline).prediction()


@lru_cache(maxsize=256)
def pipeline(schedule: str, ranks: int, micros: int, chunks: int) -> Plan:
    """Return the plan of a named schedule.

    Raises:
        ValueError: there is no such schedule, or it cannot be at these sizes.
    """
    return build(schedule, ranks=ranks, micros=micros, chunks=chunks)


def _stages(model: Architecture, setup: Setup) -> list[Counter[Block]]:
    """The blocks of each stage; blocks that are one object are counted without being compared."""
    found = []
    for layers in setup.layers_of(model.layers):
        count = Counter(id(model.blocks[layer]) for layer in layers)
        each = {id(model.blocks[layer]): model.blocks[layer] for layer in layers}
        merged: Counter[Block] = Counter()
        for key, times in count.items():
            merged[each[key]] += times
        found.append(merged)
    return found


def _costs(
    rank: Rank,
    placement: Placement,
    stages: list[Counter[Block]],
    kinds: Mapping[Block, Part],
    ends: Mapping[str, Part],
) -> Costs:
    """Seconds and bytes of each stage, with what a rank waits for messages and for its host."""
    setup, stack = rank.setup, rank.stack
    f, i, w = (np.zeros(len(stages)) for _ in range(3))
    for stage, blocks in enumerate(stages):
        for part, count in [*((kinds[block], count) for block, count in blocks.items()), *_ends_of(rank, stage, ends)]:
            f[stage] += count * part.f_s
            i[stage] += count * (part.i_s + part.again_s)
            w[stage] += count * part.w_s
    wait_s = stack.p2p_shown * rank.next_stage_s + stack.micro_s / 2 / setup.chunks
    gather_f, gather_b = _gathers_s(rank, stages, f, i + w)
    seconds = np.zeros((len(Kind), len(stages)))
    seconds[Kind.F] = f + wait_s + gather_f
    seconds[Kind.I], seconds[Kind.W] = i + wait_s + gather_b, w
    seconds[Kind.B] = seconds[Kind.I] + w
    hop_s = np.full((placement.ranks, placement.ranks), (1 - stack.p2p_shown) * rank.next_stage_s)
    np.fill_diagonal(hop_s, 0.0)
    boundary = np.full(len(stages), rank.boundary_bytes)
    return Costs(seconds, hop_s, saved_bytes(rank, stages), np.full(len(stages), stack.w_share), boundary)


def _ends_of(rank: Rank, stage: int, ends: Mapping[str, Part]) -> list[tuple[Part, float]]:
    """The ends that a stage holds: embedding first, head and multi-token heads last; or a part of both each rank."""
    setup = rank.setup
    if setup.vocabulary:
        return [(ends["embedding"], 1 / setup.stages), (ends["head"], 1 / setup.stages)]
    found = [(ends["embedding"], 1.0)] if stage == 0 else []
    return [*found, (ends["predictors"], 1.0), (ends["head"], 1.0)] if stage == setup.stages - 1 else found


def _gathers_s(
    rank: Rank, stages: list[Counter[Block]], f: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of a stage's forward and backward in which it waits for weights (ZeRO-3) or gradients (from ZeRO-2)."""
    setup, none = rank.setup, np.zeros(len(stages))
    if setup.zero < 2:
        return none, none
    group, count = rank.group(setup.sharded, setup.tp), len(stages)
    sizes = [
        parameters(rank.model, setup, blocks, stage == 0, stage == count - 1) for stage, blocks in enumerate(stages)
    ]
    params = np.array([dense + experts for dense, experts in sizes])
    scatter_s = collective_s("reduce_scatter", params * rank.stack.reduced_bytes, group)
    gather_s = collective_s("all_gather", params * rank.width_bytes, group) if setup.zero == 3 else none
    shown = rank.stack.fsdp_shown
    forward = np.maximum(0.0, gather_s - f) + shown * gather_s
    return forward, np.maximum(0.0, gather_s + scatter_s - b)


class _Step:
    """A step under way: what comes after the last backward, and what it all is made of."""

    def __init__(
        self,
        rank: Rank,
        stages: list[Counter[Block]],
        kinds: Mapping[Block, Part],
        ends: Mapping[str, Part],
        costs: Costs,
        timeline: Timeline,
    ) -> None:
        self.rank, self.stages, self.kinds, self.ends, self.costs = rank, stages, kinds, ends, costs
        self.timeline, self.placement = timeline, timeline.plan.placement
        self.ranks = range(self.placement.ranks)
        self.mine = [self._blocks_of(r) for r in self.ranks]

    def _blocks_of(self, r: int) -> Counter[Block]:
        found: Counter[Block] = Counter()
        for stage in self.placement.on(r):
            found.update(self.stages[stage])
        return found

    def holds(self, r: int) -> tuple[bool, bool]:
        """Whether a rank holds the embedding, and the head."""
        on = self.placement.on(r)
        return 0 in on, len(self.stages) - 1 in on

    def prediction(self) -> Prediction:
        """All together."""
        rank, setup, stack = self.rank, self.rank.setup, self.rank.stack
        gradients = [self.gradients_s(r) for r in self.ranks]
        optimizer = [self.optimizer_s(r) for r in self.ranks]
        done = [self.timeline.last_s[r] + gradients[r] + optimizer[r] for r in self.ranks]
        slowest = int(np.argmax(done))
        seconds = float(done[slowest]) + stack.step_s
        parts = self.parts(slowest) | {
            "gradients and weights": gradients[slowest],
            "optimizer": optimizer[slowest],
            "host per step": stack.step_s,
        }
        parts["bubble"] = seconds - sum(parts.values())
        rooms = tuple(room(rank, self.mine[r], float(self.timeline.peak_bytes[r]), *self.holds(r)) for r in self.ranks)
        error = self.error_s(slowest) / seconds
        flops, device = model_flops(rank.model, setup), rank.device
        return Prediction(
            seconds=seconds,
            low_s=seconds / (1 + stack.spread + error),
            high_s=seconds * (1 + stack.spread + error),
            parts={name: value for name, value in parts.items() if value},
            rooms=rooms,
            memory_bytes=device.memory_bytes,
            model_flops=flops,
            peak_flops=device.peak_flops(rank.low) * setup.devices,
            tokens=setup.tokens,
            devices=setup.devices,
            timeline=self.timeline,
            guessed=tuple(sorted(set().union(*(part.guessed for part in [*self.kinds.values(), *self.ends.values()])))),
        )

    def _sum(self, r: int, of: str) -> float:
        """Of all micro-batches of a rank's blocks."""
        micros = self.rank.setup.micros
        return micros * float(sum(getattr(self.kinds[block], of) * count for block, count in self.mine[r].items()))

    def parts(self, r: int) -> dict[str, float]:
        """What a rank spends its time on until its last backward, the bubble apart."""
        micros, setup = self.rank.setup.micros, self.rank.setup
        messages: dict[str, float] = defaultdict(float)
        for block, count in self.mine[r].items():
            for axis, seconds in self.kinds[block].messages_s.items():
                messages[axis] += micros * count * seconds
        recompute, host = self._sum(r, "again_s"), self._sum(r, "host_s")
        whole = self._sum(r, "all_s")
        ends = sum(
            micros * share * part.all_s
            for stage in self.placement.on(r)
            for part, share in _ends_of(self.rank, stage, self.ends)
        )
        waits = 2 * setup.chunks * micros * self.rank.stack.p2p_shown * self.rank.next_stage_s
        passes = micros * float(
            sum(self.costs.seconds[[Kind.F, Kind.B], stage].sum() for stage in self.placement.on(r))
        )
        engine = micros * self.rank.stack.micro_s
        found = {
            BLOCKS: whole - recompute - host - sum(messages.values()),
            "recompute": recompute,
            "waiting for launches": host,
            "embedding and head": ends,
            "between stages": waits,
            "host per micro-batch": engine,
            "gathering weights": passes - whole - ends - waits - engine,
        }
        return found | {f"{axis} parallel messages": seconds for axis, seconds in messages.items()}

    def error_s(self, r: int) -> float:
        """How far the work of a rank is off by the errors of its kernels."""
        return self._sum(r, "error_s")

    def gradients_s(self, r: int) -> float:
        """Sums of gradients, and gathers of weights, that nothing hides."""
        rank, setup, stack = self.rank, self.rank.setup, self.rank.stack
        if setup.zero >= 2:
            return 0.0
        backward_s = float(sum(self.costs.seconds[Kind.B, stage] for stage in self.placement.on(r)))
        dense, experts = parameters(rank.model, setup, self.mine[r], *self.holds(r))
        total = 0.0
        for count, levels in ((dense, rank.replicas), (experts, rank.expert_replicas)):
            if not count or not levels:
                continue
            if setup.zero == 0:
                sums_s, gathers_s = float(collective_s("all_reduce", count * stack.reduced_bytes, levels)), 0.0
            else:
                sums_s = float(collective_s("reduce_scatter", count * stack.reduced_bytes, levels))
                gathers_s = float(collective_s("all_gather", count * rank.width_bytes, levels))
            total += max(sums_s - stack.dp_hidden * backward_s, (1 - stack.dp_most) * sums_s)
            total += max(gathers_s - stack.dp_hidden * backward_s / 2, (1 - stack.dp_most) * gathers_s)
        return total

    def optimizer_s(self, r: int) -> float:
        """Reading and writing of weights, gradients and state; through the host's memory where it is offloaded."""
        rank, setup, stack = self.rank, self.rank.setup, self.rank.stack
        dense, experts = parameters(rank.model, setup, self.mine[r], *self.holds(r))
        own = dense / setup.sharded + experts / max(1, min(setup.sharded, setup.expert_replicas))
        here_s = float(memory_bound(rank.device, own * stack.optimizer_bytes).seconds)
        if not setup.optimizer_offload:
            return here_s
        node = rank.cluster.node_of(0)
        moved_s = own * (stack.reduced_bytes + rank.width_bytes) / node.host_link.bytes_per_s
        host_s = own * stack.optimizer_bytes / (node.host_bytes_per_s / node.devices)
        return (1 - setup.optimizer_offload) * here_s + setup.optimizer_offload * max(moved_s, host_s)
