"""What one training step takes: the pipeline's timeline, gradients and the optimizer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture, Block
from penstock.core.cluster import Cluster
from penstock.core.costs import Costs
from penstock.core.op import Kind
from penstock.core.optimizers import moments_bytes
from penstock.core.plan import Plan
from penstock.core.setup import Setup
from penstock.core.timeline import Timeline
from penstock.cost.lasting import Shares
from penstock.cost.stack import Stack
from penstock.cost.switches import check_switches_of
from penstock.engine import last_s, simulate
from penstock.predict.after import Sum, checkpoint_s, gathers_s, gradients_s, optimizer_s, sums, updates_s
from penstock.predict.again import layers, ways
from penstock.predict.disk import check_disk_of
from penstock.predict.flops import again_flops, model_flops
from penstock.predict.host import away
from penstock.predict.memory import rooms, saved_bytes
from penstock.predict.micro import Rank
from penstock.predict.part import Part
from penstock.predict.pipelines import predicted
from penstock.predict.prediction import Prediction
from penstock.predict.sizes import Sizes
from penstock.predict.split import hops_s, late_s, sharded, waits_s
from penstock.predict.stage import Stage
from penstock.predict.widened import as_asked

Floats = NDArray[np.float64]


def predict(model: Architecture, cluster: Cluster, setup: Setup, stack: Stack) -> Prediction:
    """Return what one training step takes.

    Args:
        model: what is trained.
        cluster: where; ranks go in the order of the setup's axes.
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
    return begun(model, cluster, setup, stack).prediction()


def begun(model: Architecture, cluster: Cluster, setup: Setup, stack: Stack) -> Step:
    """Return the step that ``predict`` predicts, with the same arguments and errors."""
    if setup.devices > cluster.devices:
        raise ValueError(f"the setup takes {setup.devices} devices, {cluster.name} has {cluster.devices}")
    check_switches_of(stack, setup)
    check_disk_of(stack, cluster, setup.disk)
    return Step(as_asked(model, setup), cluster, setup, stack)


ROUNDING = 1e-12
"""Of a step's seconds: what is less is none."""


class Step:
    """A step under way: its parts, the pipeline's timeline, and what comes after the last backward.

    All arrays have one entry per stage or per pipeline rank. ``shares``: of rates that last. ``plan``: an order of
    passes, in place of that of the setup's schedule.
    """

    def __init__(
        self,
        model: Architecture,
        cluster: Cluster,
        setup: Setup,
        stack: Stack,
        shares: Shares = None,
        plan: Plan | None = None,
    ) -> None:
        self.model, self.cluster, self.setup, self.stack = model, cluster, setup, stack
        self.rank = rank = Rank(model, cluster, setup, stack, shares)
        self.stages = layers(model, setup.layers_of(model.layers))
        self.ways = ways(rank)
        self.ends = {end: part for end, part in rank.parts.items() if isinstance(end, str)}
        self.plan = plan or predicted(setup)
        placement = self.plan.placement
        self.on = [list(placement.on(r)) for r in range(placement.ranks)]
        self.of_ranks = self.held(self.on)
        self.counts, own = Sizes.of(rank, self.of_ranks)
        self.dense, self.experts = (np.broadcast_to(each, placement.ranks) for each in own)
        self.op_s = self._op_s()

    @cached_property
    def timeline(self) -> Timeline:
        """The pipeline's, with what its micro-batches hold of memory."""
        return simulate(self.plan, self.costs)

    @cached_property
    def costs(self) -> Costs:
        """What the pipeline's ops cost, bytes too."""
        return self._costs(saved_bytes(self.rank, self.of_stages))

    def blocks(self, r: int) -> Iterator[tuple[Rank, Counter[Block]]]:
        """Those of a rank, by ways in which layers are made again."""
        for rank, stages in self.ways:
            found: Counter[Block] = Counter()
            for stage in self.on[r]:
                found.update(stages[stage])
            yield rank, found

    def holds(self, r: int) -> tuple[bool, bool]:
        """Whether a rank holds the embedding, and the head."""
        return 0 in self.on[r], len(self.stages) - 1 in self.on[r]

    def parts_of(self, stage: int) -> list[tuple[Part, float]]:
        """The blocks of a stage, and how often each."""
        each = ((rank, block, count) for rank, of in self.ways for block, count in of[stage].items())
        return [(rank.parts[block], float(count)) for rank, block, count in each]

    def end_shares(self, stage: int) -> list[tuple[str, float]]:
        """The ends that a stage holds: embedding first, head and multi-token heads last; or each a part of both."""
        ends, count = self.ends, self.setup.stages
        if self.setup.vocabulary:
            return [("embedding", 1 / count), ("head", 1 / count)]
        first = ["embedding"] if stage == 0 else []
        last = [which for which in ends if which != "embedding"] if stage == count - 1 else []
        return [(which, 1.0) for which in (*first, *last)]

    def ends_of(self, stage: int) -> list[tuple[Part, float]]:
        """The ends that a stage holds, each with its share."""
        return [(self.ends[which], share) for which, share in self.end_shares(stage)]

    def _op_s(self) -> Floats:
        """Seconds of each kind of op and stage, with what a rank waits for messages, for weights and for its host."""
        count, wait_s = len(self.stages), waits_s(self.rank)
        passes_s = np.zeros((3, count))
        for rank, stages in self.ways:
            for block in self.model.kinds():
                passes_s += np.outer(rank.parts[block].passes_s, [stage[block] for stage in stages])
        for stage in range(count) if self.setup.vocabulary else {0, count - 1}:
            for part, share in self.ends_of(stage):
                passes_s[:, stage] += share * np.array(part.passes_s)
        f, i, w = passes_s
        sizes = Sizes.of(self.rank, self.of_stages)
        gather_f, gather_b = self.gathers_s = gathers_s(self.rank, *sizes, f, i + w)
        seconds = np.zeros((len(Kind), count))
        seconds[Kind.F] = f + wait_s + gather_f
        seconds[Kind.I], seconds[Kind.W] = i + wait_s + gather_b, w
        seconds[Kind.B] = seconds[Kind.I] + w
        return seconds

    def _costs(self, kept_bytes: Floats) -> Costs:
        """The same with messages and bytes, of which stages keep ``kept_bytes``."""
        rank, stack, count, ranks = self.rank, self.stack, len(self.stages), self.plan.placement.ranks
        hop_s = np.full((ranks, ranks), hops_s(rank))
        np.fill_diagonal(hop_s, 0.0)
        boundary = np.full(count, rank.boundary_bytes)
        return Costs(self.op_s, hop_s, kept_bytes, np.full(count, stack.w_share), boundary)

    @cached_property
    def of_stages(self) -> Stage:
        """What each stage holds."""
        return self.held([[stage] for stage in range(len(self.stages))])

    def held(self, groups: list[list[int]]) -> Stage:
        """What each group of stages holds of the model, as arrays of shape (groups,)."""
        first, last = (np.array([stage in group for group in groups]) for stage in (0, len(self.stages) - 1))
        again = self.counted(self.ways[1][1], groups) if len(self.ways) > 1 else {}
        return Stage(self.counted(self.stages, groups), first, last, again)

    def counted(self, stages: Sequence[Counter[Block]], groups: list[list[int]]) -> dict[Block, NDArray[np.int64]]:
        """How many of some blocks of stages each group of stages has, by kind, shape (groups,)."""
        kinds = {kind: [stage[kind] for stage in stages] for kind in self.model.kinds()}
        return {kind: np.array([sum([each[s] for s in group]) for group in groups]) for kind, each in kinds.items()}

    @cached_property
    def sums(self) -> list[Sum]:
        """Messages behind the last backward."""
        each_s = self.op_s[Kind.B].tolist()
        backward_s = np.array([sum([each_s[stage] for stage in stages]) for stages in self.on])
        return sums(self.rank, self.dense, self.experts, backward_s)

    @cached_property
    def gradients_s(self) -> Floats:
        """Sums of gradients, and gathers of weights, that nothing hides."""
        return gradients_s(self.sums, self.dense)

    @property
    def owned(self) -> Floats:
        """Parameters that a rank's optimizer updates."""
        return np.asarray(sharded(self.setup, (self.dense, self.experts), 1))

    @cached_property
    def updates_s(self) -> dict[str, Floats]:
        """Seconds of the optimizer, by where it runs."""
        return updates_s(self.rank, self.owned)

    @cached_property
    def optimizer_s(self) -> Floats:
        """Seconds of all updates of weights."""
        return optimizer_s(self.updates_s)

    @cached_property
    def seconds(self) -> Floats:
        """Seconds until each rank is done."""
        return np.asarray(self.timeline.last_s + self.after_s)

    @property
    def after_s(self) -> Floats:
        """Seconds of each rank behind its last backward."""
        return np.asarray(self.gradients_s + self.optimizer_s + self.stack.step_s)

    def seconds_alone(self) -> float:
        """Seconds of the step, without a timeline and its memory."""
        ends_s = last_s(self.plan, self._costs(np.zeros(len(self.stages))))
        return float((ends_s + self.after_s).max())

    @property
    def slowest(self) -> int:
        """The rank that is done last."""
        return int(np.argmax(self.seconds))

    def prediction(self) -> Prediction:
        """Return all that is known."""
        rank, setup, device, slowest = self.rank, self.setup, self.rank.device, self.slowest
        seconds = float(self.seconds[slowest])
        spread = 1 + self.stack.spread + self._sum(slowest, "error_s") / seconds
        made = [part for one, _ in self.ways for part in one.parts.values()]
        # weights as products read them, the optimizer's copy and its moments
        stored = (rank.width_bytes + self.stack.master_bytes + moments_bytes(setup.optimizer)) * self.trained
        return Prediction(
            seconds=seconds,
            low_s=seconds / spread,
            high_s=seconds * spread,
            parts=self.parts(slowest, seconds),
            rooms=rooms(rank, self.of_ranks, self.timeline.peak_bytes.tolist()),
            memory_bytes=device.memory_bytes,
            **away(self),
            model_flops=model_flops(self.model, setup),
            again_flops=again_flops(self.model, setup, stops_early=self.stack.stops_early),
            peak_flops=device.peak_flops(rank.low) * setup.devices,
            tokens=setup.tokens,
            devices=setup.devices,
            checkpoint_bytes=stored,
            checkpoint_s=checkpoint_s(self.cluster.node_of(0), setup.devices, stored),
            timeline=self.timeline,
            guessed=tuple(sorted(rank.stand_ins.union(*(part.guessed for part in made)))),
        )

    @property
    def trained(self) -> float:
        """Parameters of the whole model that are trained."""
        return float(self.dense.sum() * self.setup.tp + self.experts.sum() * self.setup.ep * self.setup.etp)

    def _sum(self, r: int, of: str) -> float:
        """Of all micro-batches of a rank's blocks."""
        each = [times * getattr(part, of) for stage in self.on[r] for part, times in self.parts_of(stage)]
        return self.setup.micros * float(sum(each))

    def parts(self, r: int, seconds: float) -> dict[str, float]:
        """Return what a rank spends its time on; it adds up to ``seconds``."""
        micros, setup, stack = self.setup.micros, self.setup, self.stack
        messages: dict[str, float] = defaultdict(float)
        for stage in self.on[r]:
            for part, times in self.parts_of(stage):
                for axis, shown_s in part.messages_s.items():
                    messages[f"{axis} parallel messages"] += micros * times * shown_s
        recompute, host, copies, whole = (self._sum(r, of) for of in ("again_s", "host_s", "copied_s", "all_s"))
        ends = micros * sum(share * part.all_s for stage in self.on[r] for part, share in self.ends_of(stage))
        waits, engine = 2 * setup.chunks * micros * late_s(self.rank), micros * stack.micro_s
        busy = micros * float(self.op_s[[Kind.F, Kind.B]][:, self.on[r]].sum())
        found = {
            "blocks": whole - recompute - host - copies - sum(messages.values()),
            "recompute": recompute,
            **messages,
            "embedding and head": ends,
            "waiting for launches": host,
            "copies to the host": copies,
            "between stages": waits,
            "gathering weights": busy - whole - ends - waits - engine if setup.zero >= 2 else 0.0,
            "host per micro-batch": engine,
            "bubble": float(self.timeline.last_s[r]) - busy,
            "gradients and weights": float(self.gradients_s[r]),
            "optimizer": float(self.optimizer_s[r]),
            "host per step": stack.step_s,
        }
        return {name: float(value) for name, value in found.items() if abs(value) > ROUNDING * seconds}
