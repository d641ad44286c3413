"""The noun ``Setup``: how one training step is laid out over devices."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from itertools import accumulate, pairwise

from penstock.core.disks import DISKS, check_disk
from penstock.core.mesh import ORDER, order_of
from penstock.core.optimizers import optimizers
from penstock.core.recipes import check_wide, precisions
from penstock.core.switches import check_switches
from penstock.core.words import divisors, suggest

FRAMEWORK = "megatron-core"
"""Of a prediction for which none is named."""
FROM_0 = (
    *("zero", "shards", "vocabulary", "adapter", "cp_inner", "wide_first", "wide_last", "frozen_bytes"),
    *("offload", "optimizer_offload", "weight_offload"),
)
"""Numbers of a setup that may be 0."""
MOST = 10**9
"""Of any number of a setup: products of two are exact in 64 bits."""
OVERLAPS = ("own", "gradients", "none")
"""Of ``Setup.overlap``, from most to least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One training step: what is computed, and how it is split.

    Args:
        seq: tokens of a sequence.
        batch: sequences per step, of all ranks together.
        micro: sequences of a micro-batch.
        tp, cp, pp, dp: ranks that share columns and heads, tokens, layers, and batches; their product is all devices.
        ep, etp: ranks that share experts (a part of ``dp`` times ``cp`` times ``tp``), and the columns of one expert.
        chunks: stages on each pipeline rank.
        schedule: a name of the table of schedules.
        sp: tokens outside tensor-parallel regions are split over the ``tp`` ranks.
        cp_heads: context parallelism exchanges tokens for heads (Ulysses); else keys go round in a ring.
        cp_inner: of context-parallel ranks, so many neighbours exchange tokens for heads, and keys go round in a ring
            among groups of them (Fang & Zhao 2024, arXiv:2405.07719); 0: all do the same.
        zero: ZeRO's stage over ``dp`` times ``cp`` ranks: 1 shards the optimizer's state, 2 gradients too, 3 weights.
        shards: ranks over which ZeRO shards, if fewer than all of these (hybrid sharding); 0: all.
        recompute: ``none``, ``selective``, ``full``, or names of operators.
        recompute_layers: how many of the first layers of each stage, all if it has fewer, have ``recompute_first`` in
            place of ``recompute``: one number for all stages, or one each; empty: none.
        recompute_first: ``full``, or ``selective``.
        offload: share of what a forward keeps that waits in host memory, or the storages of a block that do.
        optimizer_offload: share of the optimizer's state that lives, and is updated, in host memory.
        weight_offload: share of the weights that waits in host memory, and is copied to the device for each pass.
        disk: what of these two waits on the node's disks, and passes host memory on its way: ``none``, ``optimizer``,
            ``weights`` or ``all``.
        precision: of the products inside blocks: ``bf16``, ``fp16``, ``fp32``, or a recipe: ``fp8-delayed``,
            ``fp8-current``, ``fp8-row``, ``fp8-block``, ``mxfp8``, ``nvfp4``; ``fp8``, ``fp4``: one that nobody names.
        wide_first, wide_last: blocks at both ends of the model whose products keep 16 bits whatever the recipe.
        low_weights: weights of blocks are kept, and gathered from ZeRO's shards, as a recipe has them.
        overlap: what compute may hide of messages between replicas: ``own``, what the framework hides; ``gradients``,
            their sums, but no gathers of weights; ``none``.
        tp_overlap, ep_overlap: whether sums over ``tp`` ranks, and turns of tokens to their experts, hide behind
            compute: ``on``, ``off``, or as the framework does unless told otherwise (``own``).
        cp_overlap, pp_overlap: the same of keys and values (a ring, or one gather) and of messages between stages.
        flash: attention by one kernel, without scores in memory.
        graphs: kernels are launched as recorded graphs.
        optimizer: ``adam``, or by what its moments are kept in ``adam-bf16``, ``adam-fp8``, ``adam-8bit``; ``sgd`` with
            momentum, ``muon`` or ``adafactor``.
        dropout: results of both halves of a block, and weights of attention, are dropped at random.
        fused_loss: the loss reads logits as they are, without a copy in full precision.
        adapter: rank of the low-rank adapters that are trained in place of all matrices of blocks; 0: all is trained.
        adapter_on: operators with adapters, as ``attention.qkv``, or beginnings of names; empty: all of blocks.
        frozen_bytes: of a parameter that an adapter leaves as it is.
        multi_token: multi-token heads are trained too, where the model has them.
        imbalance: tokens of the busiest rank of experts over the mean.
        stage_layers: layers of each stage, in the order of the model; empty: as even as can be.
        vocabulary: how embedding and head are split over the pipeline's ranks: 0 not at all, 1 or 2 by the algorithms
            of Yeung et al. 2024 (arXiv:2411.05288), 3 all ranks at the same time.
        order: of the axes over devices, neighbours first: ``tp-cp-dp-pp``, or ``tp-cp-pp-dp`` for stages of a pipeline
            that are neighbours; see ``core.mesh``.

    >>> Setup(seq=4096, batch=64, tp=2, pp=4, dp=2).micros
    32
    """

    seq: int
    batch: int
    micro: int = 1
    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    chunks: int = 1
    schedule: str = "1f1b"
    sp: bool = False
    cp_heads: bool = False
    cp_inner: int = 0
    zero: int = 0
    shards: int = 0
    recompute: str | tuple[str, ...] = "none"
    recompute_layers: tuple[int, ...] = ()
    recompute_first: str = "full"
    offload: float | tuple[str, ...] = 0.0
    optimizer_offload: float = 0.0
    weight_offload: float = 0.0
    disk: str = "none"
    precision: str = "bf16"
    wide_first: int = 0
    wide_last: int = 0
    low_weights: bool = False
    overlap: str = "own"
    tp_overlap: str = "own"
    ep_overlap: str = "own"
    cp_overlap: str = "own"
    pp_overlap: str = "own"
    flash: bool = True
    graphs: bool = False
    optimizer: str = "adam"
    dropout: bool = False
    fused_loss: bool = False
    adapter: int = 0
    adapter_on: tuple[str, ...] = ()
    frozen_bytes: float = 2.0
    multi_token: bool = False
    imbalance: float = 1.0
    stage_layers: tuple[int, ...] = ()
    vocabulary: int = 0
    order: str = ORDER

    def __post_init__(self) -> None:
        for name in ("offload", "optimizer_offload", "weight_offload"):
            share = getattr(self, name)
            if not isinstance(share, tuple) and not 0 <= share <= 1:
                raise ValueError(f"{name}={share} is no share; use 0 to 1")
        for name, least in _numbers():
            value = getattr(self, name)
            if not isinstance(value, tuple) and not least <= value <= MOST:
                wrong = f"too small; use {least} or more" if value < least else f"no number from {least} to {MOST:,}"
                raise ValueError(f"{name}={value} is {wrong}")
        for name, choices in _words():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r} is unknown; {suggest(value, choices)}")
        if self.vocabulary > 3:
            raise ValueError(f"vocabulary={self.vocabulary} is no way to split it; use 0 to 3")
        if self.zero > 3:
            raise ValueError(f"zero={self.zero} is no stage of ZeRO; use 0 to 3")
        object.__setattr__(self, "order", order_of(self.order))
        check_wide(self.precision, self.low_weights, self.wide_first, self.wide_last)
        self._check_split()
        self._check_again()
        check_switches(self)
        check_disk(self)

    def _check_split(self) -> None:
        each = self.dp * self.micro
        if self.batch % each:
            whole = f"batch={max(1, round(self.batch / each)) * each}"
            near = whole if self.batch % self.dp else divisors(self.batch // self.dp, near=self.micro)
            raise ValueError(f"batch={self.batch} is no multiple of dp={self.dp} times micro={self.micro}; use {near}")
        if self.dp * self.cp * self.tp % (self.ep * self.etp):
            raise ValueError(
                f"ep={self.ep} times etp={self.etp} does not divide the {self.dp * self.cp * self.tp} ranks of dp, cp "
                f"and tp; use ep {divisors(self.dp * self.cp * self.tp // self.etp or 1, near=self.ep)}"
            )
        if self.shards and self.replicas % self.shards:
            near = divisors(self.replicas, near=self.shards)
            raise ValueError(f"shards={self.shards} does not divide {self.replicas} replicas; use {near}")
        if self.cp_inner and (self.cp_heads or self.cp % self.cp_inner or not 1 < self.cp_inner < self.cp):
            near = ", ".join(str(size) for size in range(2, self.cp) if self.cp % size == 0)
            use = f"use {near} without cp_heads" if near else "use 0, or a cp of 4 or more that is no prime"
            raise ValueError(f"cp_inner={self.cp_inner} is no part of cp={self.cp} that exchanges heads; {use}")
        if self.stage_layers and len(self.stage_layers) != self.stages:
            raise ValueError(f"stage_layers has {len(self.stage_layers)} numbers; give {self.stages}, one a stage")

    def inside(self, axis: str, other: str) -> bool:
        """Return whether an axis lies inside of another."""
        return self.order.index(axis) < self.order.index(other)

    def _check_again(self) -> None:
        counts, stages = self.recompute_layers, self.stages
        if len(counts) not in (0, 1, stages):
            raise ValueError(f"recompute_layers has {len(counts)} numbers; give 1, or {stages}, one a stage")
        for name in ("recompute_layers", "stage_layers"):
            if (least := min(getattr(self, name), default=0)) < 0:
                raise ValueError(f"{name}={least} is too small; use 0 or more")
        if counts and self.recompute in ("full", self.recompute_first):
            raise ValueError(f"recompute={self.recompute} is for all layers; with recompute_layers use recompute=none")

    def on_disk(self, name: str) -> bool:
        """Return whether what ``optimizer_offload``, or ``weight_offload``, moves lies on disks."""
        return name in DISKS[self.disk]

    @property
    def ends(self) -> tuple[str, ...]:
        """Ends of the model that are trained beside its blocks, by name."""
        return ("embedding", "predictors", "head") if self.multi_token else ("embedding", "head")

    @property
    def again(self) -> tuple[int, ...]:
        """``recompute_layers`` of each stage; empty if there are none."""
        counts = self.recompute_layers
        return counts * self.stages if len(counts) == 1 else counts

    @property
    def devices(self) -> int:
        """All of them."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def stages(self) -> int:
        """Stages of one pipeline."""
        return self.pp * self.chunks

    @property
    def micros(self) -> int:
        """Micro-batches per step of one pipeline."""
        return self.batch // self.dp // self.micro

    @property
    def replicas(self) -> int:
        """Ranks that hold the same weights, experts apart."""
        return self.dp * self.cp

    @property
    def cp_turned(self) -> int:
        """Ranks among which tokens are exchanged for heads; rings go through every so manyth."""
        return 1 + self.cp_heads * (self.cp - 1) + (self.cp_inner > 0) * (self.cp_inner - 1)

    @property
    def expert_replicas(self) -> int:
        """Ranks that hold the same experts."""
        return self.dp * self.cp * self.tp // (self.ep * self.etp)

    @property
    def sharded(self) -> int:
        """Ranks over which ZeRO shards what it shards."""
        return 1 + (self.zero > 0) * (self.shards + (self.shards == 0) * self.replicas - 1)

    @property
    def expert_sharded(self) -> int:
        """The same for experts: as many groups of them shard."""
        shares = self.expert_replicas * self.sharded // self.replicas
        return 1 + (self.zero > 0) * (shares > 1) * (shares - 1)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.seq * self.batch

    def layers_of(self, layers: int) -> tuple[range, ...]:
        """The layers of each stage: as given, or even, with those left over in the middle, away from both ends.

        Raises:
            ValueError: the given numbers do not add up, or there are fewer layers than stages.

        >>> [len(each) for each in Setup(seq=8, batch=4, pp=4).layers_of(6)]
        [1, 2, 2, 1]
        """
        sizes = self.stage_layers or even(layers, self.stages)
        if sum(sizes) != layers:
            raise ValueError(f"stage_layers adds up to {sum(sizes)}; the model has {layers} layers")
        return tuple(range(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))


@cache
def _numbers() -> tuple[tuple[str, int], ...]:
    """Fields that are numbers, and the least of each."""
    names = [field.name for field in fields(Setup) if str(field.type).startswith(("int", "float"))]
    return tuple((name, int(name not in FROM_0)) for name in names)


@cache
def _words() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields that are words, and what they may be."""
    named = {"optimizer": tuple(optimizers()), "precision": precisions(), "overlap": OVERLAPS, "disk": tuple(DISKS)}
    return tuple((named | {"recompute_first": ("full", "selective")}).items())


def even(layers: int, stages: int) -> tuple[int, ...]:
    """Return how many layers each stage gets if they are shared out evenly, the rest to those in the middle.

    The stages at both ends may have none: they have the embedding and the head.

    Raises:
        ValueError: there are too few layers.
    """
    if layers < max(1, stages - 2):
        raise ValueError(f"{layers} layers are too few for {stages} stages; use at most {layers + 2}")
    low, rest = divmod(layers, stages)
    first = (stages - rest) // 2
    return tuple(low + (first <= stage < first + rest) for stage in range(stages))
