"""What comes after the last backward of a step: sums of gradients, gathers of weights, and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.cluster import Level
from penstock.cost.collectives import Collective, collective_s
from penstock.cost.constants import constants
from penstock.cost.kernels import memory_bound
from penstock.predict.micro import Rank

Floats = NDArray[np.float64]


class Sum(NamedTuple):
    """One collective behind the last backward: its whole tensor in bytes, its links, its seconds and those that show;
    arrays have one entry per pipeline rank."""

    name: str
    kind: Collective
    whole_bytes: Floats
    levels: tuple[Level, ...]
    whole_s: Floats
    shown_s: Floats


def sums(rank: Rank, counts: Mapping[str, Floats], backward_s: Floats) -> list[Sum]:
    """Return the sums of gradients, and gathers of weights, of what has replicas; from ZeRO-2 on micro-batches have
    them.

    Args:
        rank: the setup and its stack.
        counts: parameters of each pipeline rank that are trained, ``dense`` and of ``experts``.
        backward_s: backwards of one micro-batch on each, which hide messages.
    """
    setup, stack = rank.setup, rank.stack
    if setup.zero >= 2:
        return []
    reduce: Collective = "all_reduce" if setup.zero == 0 else "reduce_scatter"
    wanted: list[tuple[str, Collective, float, float]] = [("gradients", reduce, stack.reduced_bytes, 1.0)]
    if setup.zero:
        wanted.append(("weights", "all_gather", rank.width_bytes, 0.5))
    found = []
    for what, levels in (("dense", rank.replicas), ("experts", rank.expert_replicas)):
        for name, kind, width, part in wanted if levels and counts[what].any() else ():
            whole_s = collective_s(kind, counts[what] * width, levels)
            shown_s = np.maximum(whole_s - part * stack.dp_hidden * backward_s, (1 - stack.dp_most) * whole_s)
            found.append(Sum(f"{name}, {what}", kind, counts[what] * width, levels, whole_s, shown_s))
    return found


def updates_s(rank: Rank, own: Floats) -> dict[str, Floats]:
    """Return seconds of reading and writing weights, gradients and state of ``own`` parameters: on the device, and
    through the host's memory what is offloaded."""
    stack, share = rank.stack, rank.setup.optimizer_offload
    found = {"on the device": (1 - share) * memory_bound(rank.device, own * stack.optimizer_bytes).seconds}
    if share:
        node = rank.cluster.node_of(0)
        moved_s = own * (stack.reduced_bytes + rank.width_bytes) / node.host_link.bytes_per_s
        rate = constants("host")["optimizer_share"] * node.host_bytes_per_s / node.devices
        found["on the host"] = share * np.maximum(moved_s, own * stack.optimizer_bytes / rate)
    return found
