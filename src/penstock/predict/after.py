"""Seconds of what a step does for weights and gradients beside the passes, of one setup or of many at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.cost.collectives import Collective
from penstock.cost.constants import constants
from penstock.cost.kernels import memory_bound
from penstock.predict.split import Split

Floats = NDArray[np.float64]


def gathers_s(rank: Split, params: Floats, own: Floats, f: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the seconds of a stage's forward and backward in which it waits for weights (ZeRO-3) or gradients
    (ZeRO-2).

    Args:
        rank: the setup, or setups, and the framework.
        params: parameters of each stage on one device, shape (stages,), or (setups, ranks) for many at once.
        own: those of them that are trained, likewise.
        f, b: seconds of its forward and backward, likewise.
    """
    setup, stack = rank.setup, rank.stack
    over = (setup.sharded, setup.tp)
    width_bytes = min(setup.frozen_bytes, rank.width_bytes) if setup.adapter else rank.width_bytes
    scatter_s = rank.among("reduce_scatter", own * stack.reduced_bytes, *over, setup.zero >= 2)
    gather_s = rank.among("all_gather", params * width_bytes, *over, setup.zero == 3)
    forward = np.maximum(0.0, gather_s - f) + stack.fsdp_shown * gather_s
    return forward, np.maximum(0.0, gather_s + scatter_s - b)


class Sum(NamedTuple):
    """One collective behind the last backward, over ``size`` ranks that are ``stride`` apart: its whole tensor in
    bytes, its seconds and those that show; arrays have one entry per pipeline rank, or the shape (setups, ranks)."""

    name: str
    kind: Collective
    whole_bytes: Floats
    size: Any
    stride: Any
    whole_s: Floats
    shown_s: Floats


def sums(rank: Split, dense: Floats, experts: Floats, backward_s: Floats) -> list[Sum]:
    """Return sums of gradients, and gathers of weights, of what has replicas; from ZeRO-2 on micro-batches have them.

    Args:
        rank: the setup, or setups, and the framework.
        dense, experts: parameters of each pipeline rank on one device, shape (ranks,), or (setups, ranks).
        backward_s: seconds of one backward of all its stages, likewise.
    """
    setup, stack, found = rank.setup, rank.stack, []
    groups = (
        ("dense", dense, setup.replicas, setup.tp),
        ("experts", experts, setup.expert_replicas, setup.ep * setup.etp),
    )
    wanted: tuple[tuple[str, Collective, float, float, Any], ...] = (
        ("gradients", "all_reduce", stack.reduced_bytes, 1.0, setup.zero == 0),
        ("gradients", "reduce_scatter", stack.reduced_bytes, 1.0, setup.zero == 1),
        ("weights", "all_gather", rank.width_bytes, 0.5, setup.zero == 1),
    )
    for what, count, size, stride in groups:
        for name, kind, width, part, when in wanted:
            whole_s = rank.among(kind, count * width, size, stride, when)
            if whole_s.any():
                shown_s = np.maximum(whole_s - part * stack.dp_hidden * backward_s, (1 - stack.dp_most) * whole_s)
                found.append(Sum(f"{name}, {what}", kind, count * width, size, stride, whole_s, shown_s))
    return found


def gradients_s(found: Iterable[Sum], like: Floats) -> Floats:
    """Return the seconds of sums that nothing hides, in the shape of ``like``."""
    return np.asarray(np.sum([np.zeros(like.shape), *(each.shown_s for each in found)], axis=0))


def updates_s(rank: Split, own: Any) -> dict[str, Floats]:
    """Return the seconds of reading and writing weights, gradients and state: on the device, and through the host's
    memory what is offloaded.

    Args:
        rank: the setup, or setups, and the framework.
        own: parameters that each pipeline rank's optimizer updates on one device.
    """
    stack, share = rank.stack, rank.setup.optimizer_offload
    found = {"on the device": (1 - share) * memory_bound(rank.device, own * stack.optimizer_bytes).seconds}
    if share:
        node = rank.cluster.node_of(0)
        moved_s = own * (stack.reduced_bytes + rank.width_bytes) / node.host_link.bytes_per_s
        rate = constants("host")["optimizer_share"] * node.host_bytes_per_s / node.devices
        found["on the host"] = share * np.maximum(moved_s, own * stack.optimizer_bytes / rate)
    return found


def optimizer_s(updates: Mapping[str, Floats]) -> Floats:
    """Return the seconds of all updates."""
    return np.asarray(np.sum([*updates.values()], axis=0))
