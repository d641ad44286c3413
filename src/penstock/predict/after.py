"""Seconds of what a step does for weights and gradients beside the passes, of one setup or of many at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.mesh import Row, expert_replicas, replicas
from penstock.core.node import Node
from penstock.core.optimizers import moments_bytes
from penstock.cost.collectives import Collective
from penstock.cost.constants import constants
from penstock.cost.kernels import memory_bound
from penstock.cost.stack import Stack
from penstock.predict.disk import update_s
from penstock.predict.host import away_gradients, fetch_s, state_bytes
from penstock.predict.split import Split

Floats = NDArray[np.float64]
Counts = tuple[Any, Any]
"""Parameters: all but experts, and experts."""
DISK_WAIT = "waiting for disks"
"""Of an update: what they take longer than the host."""


class Group(NamedTuple):
    """Replicas of a kind of parameters, of which ``shards`` next to each other share what ZeRO shards."""

    name: str
    row: Row
    shards: Any

    @property
    def inside(self) -> Row:
        """Ranks that share."""
        return self.row.part(self.shards)

    @property
    def across(self) -> Row:
        """Ranks with the same shard."""
        return self.row.across(self.shards)


def groups(setup: Any) -> tuple[Group, Group]:
    """Return the replicas of what is no expert, and of experts."""
    return (
        Group("dense", replicas(setup), setup.sharded),
        Group("experts", expert_replicas(setup), setup.expert_sharded),
    )


def gathers_s(rank: Split, counts: Counts, own: Counts, f: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the seconds of a stage's forward and backward in which it waits for weights (ZeRO-3, or those on the
    host, which are copied while others are gathered) or gradients (ZeRO-2, and their way to the host); several groups
    of shards sum theirs in each backward, as PyTorch's hybrid sharding does.

    Args:
        rank: the setup, or setups, and the framework.
        counts: parameters of each stage on one device, all but experts, and experts: shape (stages,), or (setups,
            ranks) for many at once.
        own: those of them that are trained, likewise.
        f, b: seconds of its forward and backward, likewise.
    """
    setup, stack = rank.setup, rank.stack
    gather_s, sum_s = np.zeros(f.shape), np.zeros(f.shape)
    if not (np.any(setup.zero >= 2) or setup.weight_offload or setup.optimizer_offload):
        return gather_s, sum_s
    widths = (min(setup.frozen_bytes, rank.width_bytes),) * 2 if setup.adapter else rank.gathered_bytes
    for group, params, trained, width_bytes in zip(groups(setup), counts, own, widths, strict=True):
        if not np.any(params):
            continue
        whole_bytes, reduced_bytes = (
            np.broadcast_to(each, f.shape) for each in (params * width_bytes, trained * stack.reduced_bytes)
        )
        gather_s += rank.among("all_gather", whole_bytes, group.inside, setup.zero == 3)
        sum_s += rank.among("reduce_scatter", reduced_bytes, group.inside, setup.zero >= 2)
        sum_s += rank.among("all_reduce", reduced_bytes / group.shards, group.across, setup.zero >= 2)
    backward_s = gather_s + sum_s
    if setup.weight_offload or setup.optimizer_offload:
        copied_s, sent_s = fetch_s(rank, counts, own)
        backward_s = np.maximum(backward_s, np.maximum(copied_s, sent_s))
        gather_s, sum_s = np.maximum(gather_s, copied_s), np.maximum(sum_s, sent_s)
    forward = _beside(stack, gather_s, f)
    if setup.overlap == "own":
        return forward, _beside(stack, backward_s, b)
    shown_s = sum_s if setup.overlap == "none" else _beside(stack, sum_s, b)
    return np.maximum(forward, gather_s), gather_s + shown_s


def _beside(stack: Stack, messages_s: Floats, compute_s: Floats) -> Floats:
    """Return what messages beside compute add to it: what is longer, and what slows compute while both go on."""
    slowed_s = stack.fsdp_shown * np.minimum(messages_s, compute_s)
    return np.asarray(np.maximum(0.0, messages_s - compute_s) + slowed_s)


class Sum(NamedTuple):
    """One collective behind the last backward, over the ranks of ``row``: its whole tensor in bytes, its seconds and
    those that show; arrays have one entry per pipeline rank, or the shape (setups, ranks)."""

    name: str
    kind: Collective
    whole_bytes: Floats
    row: Row
    whole_s: Floats
    shown_s: Floats


def sums(rank: Split, dense: Floats, experts: Floats, backward_s: Floats) -> list[Sum]:
    """Return sums of gradients, and gathers of weights, of what has replicas; from ZeRO-2 on micro-batches have them.

    Args:
        rank: the setup, or setups, and the framework.
        dense, experts: parameters of each pipeline rank on one device, shape (ranks,), or (setups, ranks).
        backward_s: seconds of one backward of all its stages, likewise.
    """
    setup, stack, found, width = rank.setup, rank.stack, [], rank.stack.reduced_bytes
    for group, count, gathered in zip(groups(setup), (dense, experts), rank.gathered_bytes, strict=True):
        if not np.any(count):
            continue
        one = setup.zero == 1
        wanted: tuple[tuple[str, Collective, Floats, Row, float, Any], ...] = (
            ("gradients", "reduce_scatter", count * width, group.inside, 1.0, one),
            ("gradients", "all_reduce", count * width / group.shards, group.across, 1.0, setup.zero <= 1),
            ("weights", "all_gather", count * gathered, group.inside, 0.5, one),
        )
        for name, kind, whole_bytes, row, part, when in wanted:
            whole_s = rank.among(kind, whole_bytes, row, when)
            if whole_s.any():
                shown_s = unhidden_s(stack, whole_s, part * backward_s) if hides(setup, name) else whole_s
                found.append(Sum(f"{name}, {group.name}", kind, whole_bytes, row, whole_s, shown_s))
    return found


def hides(setup: Any, name: str) -> bool:
    """Whether compute hides ``gradients``, or ``weights``, on their way between replicas, as the framework can.

    >>> from penstock.core.setup import Setup
    >>> [hides(Setup(seq=8, batch=1, overlap="gradients"), name) for name in ("gradients", "weights")]
    [True, False]
    """
    return setup.overlap in ("own", name)


def unhidden_s(stack: Stack, whole_s: Any, backward_s: Any) -> Floats:
    """Return the seconds of sums of gradients that the backward before them does not hide."""
    return np.asarray(np.maximum(whole_s - stack.dp_hidden * backward_s, (1 - stack.dp_most) * whole_s))


def gradients_s(found: Iterable[Sum], like: Floats) -> Floats:
    """Return the seconds of sums that nothing hides, in the shape of ``like``."""
    return np.asarray(np.sum([np.zeros(like.shape), *(each.shown_s for each in found)], axis=0))


def updates_s(rank: Split, own: Any) -> dict[str, Floats]:
    """Return the seconds of reading and writing weights, gradients and state: on the device, and through the host's
    memory what is offloaded, and what disks take longer with; new weights move unless they stay where they are made.

    Args:
        rank: the setup, or setups, and the framework.
        own: parameters that each pipeline rank's optimizer updates on one device.
    """
    setup, touched, node = rank.setup, own * update_bytes(rank), rank.cluster.node_of(0)
    share, weights = setup.optimizer_offload, setup.weight_offload
    found = {"on the device": (1 - share) * memory_bound(rank.device, touched).seconds}
    if share or weights:
        last = share - away_gradients(rank)
        moved = own * (last * rank.stack.reduced_bytes + abs(share - weights) * rank.width_bytes)
        found["on the host"] = host_s = on_host_s(node, moved, share * touched)
        if setup.disk != "none":
            disk_s = update_s(rank, state_bytes(rank) * own, own)
            found[DISK_WAIT] = np.maximum(0.0, disk_s - host_s)
    return found


def update_bytes(rank: Split) -> float:
    """Return the bytes that an update reads and writes for each parameter: those of the framework, with moments of Adam
    in the width of the setup's."""
    asked, usual = rank.setup.optimizer, rank.stack.optimizer
    less = moments_bytes(usual) - moments_bytes(asked) if asked.startswith("adam") else 0.0
    return rank.stack.optimizer_bytes - 2 * less


def on_host_s(node: Node, moved_bytes: Any, touched_bytes: Any) -> Floats:
    """Return the seconds of an optimizer in a node's host memory, all devices at once: for each, bytes ``moved`` over
    its link to the host, and bytes read and written there."""
    rate = constants("host")["optimizer_share"] * node.host_bytes_per_s / node.devices
    return np.asarray(np.maximum(moved_bytes / node.host_rate, touched_bytes / rate))


def optimizer_s(updates: Mapping[str, Floats]) -> Floats:
    """Return the seconds of all updates."""
    return np.asarray(np.sum([*updates.values()], axis=0))


def checkpoint_s(node: Node, devices: int, stored_bytes: float) -> float:
    """Return the seconds in which all devices write their part of a checkpoint through their hosts to the nodes'
    disks."""
    own = stored_bytes / devices
    return max(own / node.host_rate, own * min(node.devices, devices) / node.disk_rates[1])
