"""The noun ``Stack``: what a framework makes of the same work, apart from the hardware it runs on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from penstock.core.mesh import ORDER, order_of
from penstock.core.tables import read_toml
from penstock.core.words import suggest
from penstock.cost.dispatch import DISPATCHERS
from penstock.cost.operators import FUSED, PLAIN, SPLIT, Kernels

KERNELS = {"fused": FUSED, "plain": PLAIN, "split": SPLIT}
"""Kernels that a table can start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A training framework.

    Args:
        kernels: what runs as one kernel.
        launch_s: CPU time of one operator, with all that Python and autograd do around its kernels; a block takes at
            least so long for each of its operators.
        graph_launch_s: the same inside a recorded graph.
        blocking: whether each launch waits for its kernel (``CUDA_LAUNCH_BLOCKING=1``).
        graphed: parts of blocks that run as recorded graphs: ``block`` (each whole), or of ``attention``, ``router``
            (with its norm) and ``mlp``.
        micro_s: host work per micro-batch of a stage that nothing hides.
        step_s: host work per step: norms, losses, data.
        tp_shown, ep_shown, cp_shown: share of these messages that compute does not hide.
        p2p_shown: share of messages between stages that a rank waits for.
        switches: of ``tp``, ``ep``, ``cp`` and ``pp``, those whose messages a switch makes hide, or not
            (``Setup.tp_overlap`` and so on).
        hides: of these, those that are on unless told otherwise; shares that show are of them as they are then.
        tp_hides, ep_hides: share of what shows with the switch off that it hides.
        tp_buffers: buffers of all tokens of a tensor-parallel group that its switch takes.
        p2p_split: whether each tensor-parallel rank sends its part of such a message, to be gathered where it goes.
        dp_hidden: share of a backward that may hide reductions of gradients, half of it gathers of weights.
        dp_most: most of these messages that anything hides.
        fsdp_shown: share of ZeRO-2's and ZeRO-3's messages in each micro-batch that stays visible where compute hides
            them, since it is slower beside them.
        experts_s: CPU time of counts of tokens, with the wait for them, per block of experts and direction, without
            graphs.
        dispatcher: what sends tokens to their experts: ``alltoall``, a copy for each expert; ``deepep`` and
            ``hybridep``, one for each device with such experts, between nodes one for each node; ``hybridep`` orders
            them there in the same kernel.
        fused_experts_s: what stands in place of ``experts_s`` with ``hybridep``.
        expert_s: CPU time of one expert's product, or of the cast before it, where one operator starts those of all
            experts of a rank one by one.
        drops_tokens: experts take tokens up to a capacity, padded to it, so that nobody waits for counts of tokens.
        split_experts: experts are split over the tensor-parallel ranks unless told otherwise.
        moves: traffic of memory over that of perfectly fused operators: copies, transposes and biases by themselves.
        casts: how often as long as one plain cast it takes to turn operands of a product into a low precision.
        routing: how often as long as one plain gather it takes to order tokens by experts, and back.
        fused_routing: the same where the dispatcher does it (``hybridep``).
        dropped_routing: the same where tokens are dropped, by kernels that are not fused.
        attention: ``newest``: kernels made for the device (cuDNN, FlashAttention 3); ``fa2``: FlashAttention 2 on every
            device; ``fa1``: the first, or Triton's.
        gradient_bytes, reduced_bytes: of a gradient as it accumulates, and as it is sent.
        weight_bytes: of a weight as it is stored; 0: as products read it.
        master_bytes: of the optimizer's own copy of a weight.
        fp16_gradient_bytes: of a gradient as it accumulates with fp16.
        fp16_state_bytes: more of the optimizer's for each parameter with fp16: gradients on their way to it.
        spare_bytes: more of each parameter that is not sharded, with bf16: gradients in another width.
        step_bytes: more of each parameter it owns while the optimizer runs: gradients and results on their way.
        offloads_master: whether the optimizer's copy of weights goes to the host with what it offloads.
        offloads_gradients: whether gradients do, each micro-batch's, where ZeRO shards them.
        logit_bytes: beside what the loss keeps, for each logit; a fused loss needs none.
        passing_bytes: of the gradient of a matrix before it is added to those of other micro-batches; 0: products add.
        turns_gradients: whether such a gradient is turned into the width of the sum by a kernel of its own before.
        scratch_bytes: of a matrix that is held for good for each shape of matrix (where products add, Transformer
            Engine gives autograd such a one).
        stage_again: whether all blocks of a stage are made again before its backward, not one at a time.
        drops_gradients: whether gradients are dropped between steps; with one micro-batch, none are there at its loss.
        doubles_gradients: whether data parallelism without ZeRO holds all gradients a second time, in its buckets.
        ahead: blocks whose weights are gathered (ZeRO-3) before they are needed.
        bucket_bytes: of the buffer in which ZeRO collects gradients for their reduction, if there are so many.
        live_bytes: of weights that are gathered at a time (ZeRO-3), if there are so many; 0: as ``ahead`` says.
        workspace_bytes: of libraries of products.
        context_bytes: of the driver's context and of collectives, outside the allocator.
        slack: what the allocator holds and cannot use, relative to activations and what passes.
        recompute: what is made again unless told otherwise.
        stops_early: what is made again ends where gradients have all that they need, before a block's last product.
        selective: operators that it makes again where a setup says ``selective``; none: all but products and attention.
        again_layers: which layers it can make again in another way than the rest (``Setup.recompute_layers``):
            ``alike``, as many first ones on each stage in full, where the rest keeps all; ``ranks``, all of some
            pipeline ranks, where the rest keeps all; ``any``; empty: none.
        zero_stages, piped_zero_stages: stages of ZeRO that it has, without and with a pipeline.
        schedules: those that it has, of those that a search tries; none: all.
        axes: those that it can split over several ranks, of ``tp``, ``cp``, ``pp``, ``dp``; none: all.
        lacks: what it does not have of ``sp``, ``cp`` and ``selective`` (recompute of less than whole blocks).
        own_orders: whether it runs any order of passes that a file gives it.
        uneven: whether any stage may have any number of layers.
        vocabularies: ways in which it splits embedding and head over pipeline ranks, as in ``Setup.vocabulary``.
        orders: of axes over devices (``Setup.order``) those that it has.
        hybrid: whether ZeRO may shard over a part of the replicas (``Setup.shards``).
        context_heads: of the values of ``Setup.cp_heads`` those that it has.
        context_hybrid: whether context parallelism may do the one among neighbours and the other among groups of them
            (``Setup.cp_inner``).
        offloads: storages of activations, joined by ``+``, each of which it can keep in host memory.
        optimizer_offloads: shares of the optimizer's state that it can keep in host memory.
        weight_offloads: shares of the weights that ZeRO-3 shards which it can keep there too.
        disks: what of these it can keep on disks in place of host memory, as ``Setup.disk`` has it.
        staged: parameters of a group whose state is read, updated or written at a time.
        staged_weights: those that buffers in host memory hold on their way from disks to a device.
        fused_loss: whether the loss is fused (``Setup.fused_loss``) unless told otherwise.
        dropout: whether models without gates are trained with it unless told otherwise.
        counts: what the framework prints as memory: ``allocated``, ``reserved`` or ``device``.
        w_share: share of what a forward keeps that waits for the weights' gradient, where that is apart.
        spread: how far runs differ from a prediction without errors of kernels, relative; part of its interval.
        optimizer_bytes: memory traffic of the optimizer for each parameter it owns.
        optimizer: the one of which that is, as in ``Setup.optimizer``; moments of Adam in another width take theirs.
        recipes: recipes of low precision that it has, by name.
        low_copies: whether weights of blocks in a recipe's low precision are there for good, beside those in 16 bits
            (unless ``Setup.low_weights``).
        source: where it is known from.
    """

    name: str
    kernels: Kernels = FUSED
    launch_s: float = 6e-6
    graph_launch_s: float = 1.5e-6
    blocking: bool = False
    graphed: tuple[str, ...] = ()
    micro_s: float = 1e-3
    step_s: float = 1e-2
    tp_shown: float = 1.0
    ep_shown: float = 1.0
    cp_shown: float = 1.0
    p2p_shown: float = 0.5
    switches: tuple[str, ...] = ()
    hides: tuple[str, ...] = ("cp", "pp")
    tp_hides: float = 0.0
    ep_hides: float = 0.0
    tp_buffers: float = 0.0
    p2p_split: bool = False
    dp_hidden: float = 0.8
    dp_most: float = 0.95
    fsdp_shown: float = 0.189
    experts_s: float = 0.0
    dispatcher: str = "alltoall"
    fused_experts_s: float = 0.0
    expert_s: float = 0.0
    drops_tokens: bool = False
    split_experts: bool = False
    moves: float = 1.5
    casts: float = 1.5
    routing: float = 3.0
    fused_routing: float = 1.0
    dropped_routing: float = 6.0
    attention: str = "newest"
    gradient_bytes: float = 4.0
    reduced_bytes: float = 4.0
    weight_bytes: float = 0.0
    master_bytes: float = 4.0
    fp16_gradient_bytes: float = 2.0
    fp16_state_bytes: float = 0.0
    spare_bytes: float = 0.0
    step_bytes: float = 0.0
    offloads_master: bool = True
    offloads_gradients: bool = False
    logit_bytes: float = 4.0
    passing_bytes: float = 2.0
    turns_gradients: bool = False
    scratch_bytes: float = 0.0
    drops_gradients: bool = False
    doubles_gradients: bool = False
    stage_again: bool = False
    ahead: float = 1.0
    bucket_bytes: float = 0.0
    live_bytes: float = 0.0
    workspace_bytes: float = 8e7
    context_bytes: float = 2e9
    slack: float = 0.05
    recompute: str | tuple[str, ...] = "none"
    stops_early: bool = False
    selective: tuple[str, ...] = ()
    again_layers: str = ""
    zero_stages: tuple[int, ...] = (0, 1, 2, 3)
    piped_zero_stages: tuple[int, ...] = (0, 1)
    schedules: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    own_orders: bool = False
    uneven: bool = True
    vocabularies: tuple[int, ...] = (0,)
    orders: tuple[str, ...] = (ORDER,)
    hybrid: bool = True
    context_heads: tuple[bool, ...] = (False, True)
    context_hybrid: bool = False
    offloads: tuple[str, ...] = ()
    optimizer_offloads: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    weight_offloads: tuple[float, ...] = ()
    disks: tuple[str, ...] = ()
    staged: float = 0.0
    staged_weights: float = 0.0
    fused_loss: bool = False
    dropout: bool = False
    counts: str = "allocated"
    w_share: float = 0.94
    spread: float = 0.1
    optimizer_bytes: float = 40.0
    optimizer: str = "adam"
    recipes: tuple[str, ...] = ()
    low_copies: bool = False
    source: str = ""
    aliases: tuple[str, ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(map(order_of, self.orders)))
        if self.dispatcher not in DISPATCHERS:
            raise ValueError(f"dispatcher={self.dispatcher} is not known; use {', '.join(DISPATCHERS)}")
        if not self.orders:
            raise ValueError(f"orders is empty; name at least one, such as {ORDER}")

    @property
    def counting(self) -> tuple[str, ...]:
        """The fields that say how long a block of experts waits for counts of tokens, if it does."""
        return () if self.drops_tokens else ("fused_experts_s" if self.dispatcher == "hybridep" else "experts_s",)

    @property
    def orders_tokens(self) -> str:
        """The field that says how long it takes to order tokens by experts."""
        if self.drops_tokens:
            return "dropped_routing"
        return "fused_routing" if self.dispatcher == "hybridep" else "routing"

    @property
    def usual(self) -> dict[str, Any]:
        """Fields of a setup as the framework has them where nobody says otherwise."""
        return {"recompute": self.recompute, "fused_loss": self.fused_loss}

    def sums_in(self, precision: str) -> str:
        """Return the field that says in which width gradients accumulate."""
        return "fp16_gradient_bytes" if precision == "fp16" else "gradient_bytes"

    def added_bytes(self, precision: str) -> float:
        """Return the bytes that adding an element of a gradient to the sum reads and writes; 0: products add."""
        passing, summed = self.passing_bytes, getattr(self, self.sums_in(precision))
        turned = 2 * summed if self.turns_gradients and summed != passing else 0.0
        return float(2 * summed + passing + turned) if passing else 0.0

    def splits(self, axis: str) -> bool:
        """Return whether the framework can split an axis over several ranks: ``tp``, ``cp``, ``pp`` or ``dp``."""
        return axis not in self.lacks and (not self.axes or axis in self.axes)


def stack(name: str) -> Stack:
    """Return the framework of this name; what stands in brackets behind it, and a version, do not count.

    Raises:
        ValueError: none is called so.

    >>> stack("llm-foundry (Composer, PyTorch FSDP)").name
    'llm-foundry'
    >>> stack("TorchTitan v0.1").name
    'torchtitan'
    """
    known = stacks()
    wanted = re.sub(r"\(.*?\)", "", name.lower()).strip()
    for text in (name.lower(), wanted, re.sub(r"[ :@-]+(core |version |release )?[vr]?\d[\w.]*$", "", wanted)):
        for each in known.values():
            if text == each.name or text in each.aliases:
                return each
    raise ValueError(f"framework {name!r} is unknown; {suggest(wanted, known)}")


@cache
def tables() -> Mapping[str, Any]:
    """Return ``data/frameworks.toml`` as it stands: framework -> what it sets; and ``ranges``, of each field that of a
    fit and the source of its default."""
    return read_toml(files("penstock") / "data" / "frameworks.toml")


@cache
def stacks() -> Mapping[str, Stack]:
    """All frameworks that are known, by name."""
    found: dict[str, Stack] = {}
    for name, table in tables().items():
        if name != "ranges":
            found[name] = over(name, table, found)
    return found


def over(name: str, table: Mapping[str, Any], known: Mapping[str, Stack]) -> Stack:
    """Return a framework by its table, over the one of ``known`` that its key ``like`` names."""
    table = dict(table)
    like = table.pop("like", None)
    start = Stack(name=name) if like is None else replace(known[like], name=name, aliases=(), source="")
    said = dict(table.pop("kernels", {}))
    kernels = replace(KERNELS[said.pop("like")] if "like" in said else start.kernels, **said)
    aliases = tuple(table.pop("aliases", ()))
    table = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return replace(start, kernels=kernels, aliases=aliases, **table)
