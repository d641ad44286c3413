"""Seconds of what a step does for weights and gradients beside the passes, of one setup or of many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.cost.constants import constants
from penstock.cost.kernels import memory_bound
from penstock.predict.micro import Split
from penstock.predict.moments import sharded

Floats = NDArray[np.float64]


def gathers_s(rank: Split, params: Floats, f: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the seconds of a stage's forward and backward in which it waits for weights (ZeRO-3) or gradients
    (ZeRO-2).

    Args:
        rank: the setup, or setups, and the framework.
        params: parameters of each stage on one device, shape (stages,), or (setups, ranks) for many at once.
        f, b: seconds of its forward and backward, likewise.
    """
    setup, stack = rank.setup, rank.stack
    over = (setup.sharded, setup.tp)
    scatter_s = rank.among("reduce_scatter", params * stack.reduced_bytes, *over, setup.zero >= 2)
    gather_s = rank.among("all_gather", params * rank.width_bytes, *over, setup.zero == 3)
    forward = np.maximum(0.0, gather_s - f) + stack.fsdp_shown * gather_s
    return forward, np.maximum(0.0, gather_s + scatter_s - b)


def gradients_s(rank: Split, dense: Floats, experts: Floats, backward_s: Floats) -> Floats:
    """Return the seconds of sums of gradients, and of gathers of weights, that nothing hides.

    Args:
        rank: the setup, or setups, and the framework.
        dense, experts: parameters of each pipeline rank on one device, shape (ranks,), or (setups, ranks).
        backward_s: seconds of one backward of all its stages, likewise.
    """
    setup, stack = rank.setup, rank.stack
    hidden_s, shown = stack.dp_hidden * backward_s, 1 - stack.dp_most
    found = np.zeros(backward_s.shape)
    groups = ((dense, setup.replicas, setup.tp), (experts, setup.expert_replicas, setup.ep * setup.etp))
    for count, size, stride in groups:
        over = (size, stride)
        reduced, width = count * stack.reduced_bytes, count * rank.width_bytes
        sums_s = rank.among("all_reduce", reduced, *over, setup.zero == 0)
        sums_s = sums_s + rank.among("reduce_scatter", reduced, *over, setup.zero == 1)
        gathers_s = rank.among("all_gather", width, *over, setup.zero == 1)
        found += np.maximum(sums_s - hidden_s, shown * sums_s)
        found += np.maximum(gathers_s - hidden_s / 2, shown * gathers_s)
    return found


def optimizer_s(rank: Split, dense: Any, experts: Any) -> Floats:
    """Return the seconds of reading and writing weights, gradients and state, through the host's memory where it is
    offloaded; arguments as those of ``gradients_s``."""
    setup, stack = rank.setup, rank.stack
    own = sharded(setup, (dense, experts), 1)
    here_s = memory_bound(rank.device, own * stack.optimizer_bytes).seconds
    if not setup.optimizer_offload:
        return here_s
    node = rank.cluster.node_of(0)
    moved_s = own * (stack.reduced_bytes + rank.width_bytes) / node.host_link.bytes_per_s
    rate = constants("host")["optimizer_share"] * node.host_bytes_per_s / node.devices
    host_s = own * stack.optimizer_bytes / rate
    share = setup.optimizer_offload
    return np.asarray((1 - share) * here_s + share * np.maximum(moved_s, host_s))
