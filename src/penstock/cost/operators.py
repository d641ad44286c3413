"""The nouns ``Operator`` (one kernel of a pass, with shapes, FLOPs and bytes), ``Shard`` and ``Kernels``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from penstock.core.words import divisors

ALIGNED = 8
"""Matrix units take rows of so many elements or multiples (NVIDIA, "Matrix multiplication background")."""
OperatorKind = Literal["matmul", "grouped_matmul", "attention", "scan", "elementwise", "norm", "gather", "loss"]
Phase = Literal["F", "I", "W"]
"""Forward, gradient of the input, gradient of the weights: the letters of a schedule's ops."""


class Tensor(NamedTuple):
    """A storage by name, of ``size_bytes``; two operators that hold the same name hold the same memory."""

    name: str
    size_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kernel, or a few that always run together, of one phase.

    A product is ``batch`` times ``(m, k) x (k, n)``; of ``grouped_matmul``, ``batch`` is the number of groups and ``m``
    the mean rows of one. Attention is ``batch`` heads of ``m`` queries of width ``k`` over ``n`` keys and values of
    width ``value_dim``; ``density`` is the share of the ``m * n`` scores that its mask lets through.

    ``flops`` counts 2 for each multiply and add of products, whole score matrices as PyTorch's own counter does
    (``needed_flops``: what the mask leaves); of other kinds it counts about what vector units do. ``reads_bytes`` holds
    ``weight_bytes``. ``launches``: kernels that start. ``takes``, ``makes`` and ``saves``: storages it reads, writes
    and keeps for its backward, of which each is there once, however many operators save it.
    """

    name: str
    kind: OperatorKind
    phase: Phase = "F"
    batch: int = 1
    m: float = 0
    n: float = 0
    k: float = 0
    value_dim: int = 0
    flops: float = 0.0
    density: float = 1.0
    reads_bytes: float = 0.0
    writes_bytes: float = 0.0
    weight_bytes: float = 0.0
    launches: int = 1
    takes: tuple[Tensor, ...] = ()
    makes: tuple[Tensor, ...] = ()
    saves: tuple[Tensor, ...] = ()

    @property
    def needed_flops(self) -> float:
        """FLOPs that the mask leaves to be done."""
        return self.flops * self.density

    @property
    def odd(self) -> bool:
        """Whether a matrix of a product has rows of odd length. In 16 bits no word of 32 begins such a row, and units
        that copy operands by such words beside the products cannot. Of plain attention, whether its heads' widths are
        no multiples of ``ALIGNED``."""
        if self.plain:
            return bool(self.k % ALIGNED or self.value_dim % ALIGNED)
        lengths = (self.m, self.n) if self.phase == "W" else (self.n, self.k)
        return self.kind == "matmul" and any(length % 2 for length in lengths)

    @property
    def plain(self) -> bool:
        """Whether it is attention by two products and a softmax, with scores in memory."""
        return self.kind == "attention" and self.launches > 2

    @property
    def moved_bytes(self) -> float:
        """Bytes read and written."""
        return self.reads_bytes + self.writes_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """How the work on one micro-batch is split over ranks; the operators are those of one rank.

    ``tp``: columns and rows of matrices, and heads. ``sp``: what tensor parallelism leaves whole (norms, residuals) is
    split by tokens. ``cp``: tokens of a sequence; ``cp_turned``: among so many of these ranks attention exchanges them
    for heads (Ulysses), among others keys and values go round in a ring. ``ep``: experts over ranks. ``etp``: columns
    and rows of an expert.
    """

    tp: int = 1
    sp: bool = False
    cp: int = 1
    cp_turned: int = 1
    ep: int = 1
    etp: int = 1

    def of(self, size: int, what: str, over: int | None = None) -> int:
        """``size`` by ``over`` (left out, ``tp``), which must divide it."""
        over = self.tp if over is None else over
        if size % over:
            raise ValueError(f"{over} ranks do not divide {what}={size}; use {divisors(size, near=over)}")
        return size // over

    def filled(self, size: int) -> int:
        """``size`` filled up until each rank's part is a multiple of ``ALIGNED``."""
        each = ALIGNED * self.tp
        return -(-size // each) * each

    def own(self, tokens: float) -> float:
        """Those of ``tokens`` that one rank works on where nothing else is split: all, or with ``sp`` a part."""
        return tokens / self.tp if self.sp else tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What a software stack runs as one kernel. Not fused, an operator is the kernels of transformers' own modules.

    ``norm``: one kernel that keeps its input and one number per token (two, if it takes the mean too). ``activation``:
    one kernel that keeps its input alone. ``rope``: one kernel for the rotation of queries and keys; ``yarn``: even
    where they are scaled as well. ``attention``: no score matrix in memory. ``loss``: the gradient of the logits takes
    their place. ``grouped``: all experts of a rank are one product. ``qkv``, ``gate_up``: these products are one,
    whatever the model's own code does (``None``: as there). ``copies``: attention gets queries, keys and values each by
    itself; without, parts of a larger product keep the whole of it in memory. ``stats_bytes``: of a number that a norm
    of mean and variance keeps (``None``: as its input). ``softmax``: where scores are in memory, one kernel turns them
    into weights and keeps these alone. ``states``: a scan keeps its states between chunks, and a convolution its
    result; without, both are made again. ``fills``: a vocabulary is filled up to what kernels like, as tensor
    parallelism does anyway. ``biased``: limits of what experts' activations read, and biases behind experts by the
    weights of their router, are in the kernels of products; without, such biases are added expert by expert in full
    precision.
    """

    norm: bool = True
    activation: bool = True
    rope: bool = True
    attention: bool = True
    loss: bool = True
    grouped: bool = True
    qkv: bool | None = True
    gate_up: bool | None = True
    copies: bool = True
    stats_bytes: int | None = 4
    softmax: bool = True
    states: bool = False
    fills: bool = True
    biased: bool = True
    yarn: bool = True


ADAPTER = ".adapter"
"""Begins what the operators of an adapter are called behind the name of its matrix."""
WIDENING = ".widening"
"""Ends the name of what makes a matrix as wide as products read it."""
WIDE = ("router", "logits", "indexer", "streams", ADAPTER)
"""Words in the names of products that stay in the wide precision whatever the recipe."""
WHOLES = {
    "attention.qkv": ("attention.query", "attention.key", "attention.value"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
}
"""Products that stacks may run as one, and their parts."""
NARROW = ".narrow"
"""Ends the name of a copy of a tensor in a recipe's low precision."""
WHOLE = Shard()
"""Nothing is split."""
FUSED = Kernels()
"""Megatron-LM with Transformer Engine, and compiled code like it."""
SPLIT = Kernels(
    activation=False,
    rope=False,
    loss=False,
    qkv=None,
    gate_up=None,
    copies=False,
    stats_bytes=None,
    softmax=False,
    states=True,
    fills=False,
)
"""The runtime's own modules where its backward can be split: its norms keep their input and one number per token."""
PLAIN = replace(SPLIT, norm=False)
"""transformers' modules as PyTorch runs them, attention by a fused kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """``micro`` sequences of ``seq`` tokens, and how ranks work on them.

    ``width_bytes``: of an element of weights and activations. ``gradient_bytes``: of an element of a weight gradient,
    which is read and written as it accumulates. ``shard``: how the work is split. ``kernels``: what runs as one kernel,
    and so what is kept in between. ``dropout``: results of both halves, and weights of attention, are dropped at
    random, and a byte of each is kept. ``kept_bytes``: of an element of a product's input as the gradient of its
    weights keeps it, where that is a copy in a narrower width (``None``: the input itself). ``frozen``: matrices stay
    as they are, and need no gradient; ``frozen_bytes`` of an element, where they are kept in fewer than products read
    (``None``: as they read them). ``stops_early``: as in ``Stack``. ``adapter``: rank of the low-rank adapters beside
    those that ``adapter_on`` names; 0: none.

    >>> Microbatch(micro=2, seq=4096, shard=Shard(cp=4)).here
    2048.0
    """

    micro: int
    seq: int
    width_bytes: float = 2
    gradient_bytes: float = 4
    shard: Shard = WHOLE
    kernels: Kernels = FUSED
    dropout: bool = False
    kept_bytes: float | None = None
    frozen: bool = False
    frozen_bytes: float | None = None
    stops_early: bool = False
    adapter: int = 0
    adapter_on: tuple[str, ...] = ()

    @property
    def here(self) -> float:
        """Tokens of one rank: context parallelism splits each sequence."""
        return self.micro * self.seq / self.shard.cp

    @property
    def own(self) -> float:
        """Tokens of one rank where sequence parallelism splits what tensor parallelism leaves whole."""
        return self.shard.own(self.here)


def adapted(name: str, on: Iterable[str]) -> bool:
    """Return whether the matrix of a product has an adapter, where those of ``on`` have, by names or their beginnings;
    empty: all but what stays wide.

    >>> adapted("mlp.down", ()), adapted("mlp.down", ("attention.qkv",)), adapted("attention.key", ("attention.qkv",))
    (True, False, True)
    """
    if any(word in name for word in WIDE):
        return False
    known = (name, *(whole for whole, parts in WHOLES.items() if name in parts))
    return not on or any(one == each or one.startswith(f"{each}.") for one in known for each in on)


def saved_bytes(operators: Iterable[Operator]) -> float:
    """Bytes that these operators keep from forward to backward, each storage once."""
    return sum({tensor.name: tensor.size_bytes for op in operators for tensor in op.saves}.values())


def flops(operators: Iterable[Operator], phase: Phase | None = None) -> float:
    """FLOPs of products and attention, of one phase or of all."""
    counted = ("matmul", "grouped_matmul", "attention")
    return sum(op.flops for op in operators if op.kind in counted and phase in (None, op.phase))
