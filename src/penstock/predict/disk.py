"""What lies on a node's disks: the seconds of reading and writing it, the bytes there, and those on their way.

As in ZeRO-Infinity (Rajbhandari et al. 2021, arXiv:2104.07857) each device's shard passes host memory on its way, and
reads, copies over the link, updates and writes go on at the same time: what takes longest counts. All devices of a node
share its disks, which read or write at any time, not both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.core.cluster import Cluster
from penstock.core.node import Node
from penstock.cost.constants import constants
from penstock.cost.stack import Stack
from penstock.predict.split import Split

STATE, WEIGHTS = "optimizer_offload", "weight_offload"
GROUPS = 3
"""Groups of parameters in host memory at a time: the one that is read, the one that is updated, the one written."""


def check_disk_of(stack: Stack, cluster: Cluster, disk: str) -> None:
    """Do nothing where a framework can keep on disks what it is asked to, and the nodes have some.

    Raises:
        ValueError: it cannot, or they have none.
    """
    node = cluster.node_of(0)
    if disk != "none" and disk not in stack.disks:
        able = f"disk={' or '.join(stack.disks)}" if stack.disks else "disk=none, or --framework deepspeed"
        raise ValueError(f"disk={disk}: {stack.name} has no words for it; use {able}")
    if disk != "none" and not node.disk_bytes:
        raise ValueError(f"disk={disk}: {node.name} has no disks of its own; use disk=none, or say its disk_bytes")


def rates(node: Node) -> tuple[float, float]:
    """Return the bytes/s of a device's part of its node's disks, reading and writing."""
    read, write = node.disk_rates
    return read / node.devices, write / node.devices


def share_of_disk(node: Node, devices: Any) -> Any:
    """Return the bytes of disks for each of the devices of a node that work, of so many in all."""
    return node.disk_bytes / np.minimum(node.devices, devices)


def read_s(rank: Split, weights_bytes: Any) -> Any:
    """Return the seconds in which offloaded weights come from disks for a pass; 0 if they lie in host memory."""
    return rank.setup.on_disk(WEIGHTS) * weights_bytes / rates(rank.cluster.node_of(0))[0]


def moved_bytes(rank: Split, state_bytes: Any, own: Any) -> tuple[Any, Any]:
    """Return what an update reads from disks and writes there: the optimizer's state and gradients in full precision
    both ways, and new weights.

    Args:
        rank: the setup, or setups, and the framework.
        state_bytes: of the optimizer, off a device.
        own: parameters that it updates there.
    """
    setup = rank.setup
    there = setup.on_disk(STATE) * (state_bytes + _gradients(rank, own))
    return there, there + setup.on_disk(WEIGHTS) * setup.weight_offload * rank.width_bytes * own


def update_s(rank: Split, state_bytes: Any, own: Any) -> Any:
    """Return the seconds of ``moved_bytes``; arguments as there."""
    read, written = moved_bytes(rank, state_bytes, own)
    read_rate, write_rate = rates(rank.cluster.node_of(0))
    return read / read_rate + written / write_rate


def in_memory(rank: Split, state_bytes: Any, own: Any, weights_bytes: Any) -> Any:
    """Return what of a device's state and weights off it is in host memory: all that does not lie on disks, and of the
    rest the groups and buffers that are on their way; arguments as of ``moved_bytes``."""
    setup, stack = rank.setup, rank.stack
    if setup.on_disk(STATE):
        whole = state_bytes + _gradients(rank, own)
        passing = GROUPS * stack.staged / np.maximum(setup.optimizer_offload * own, 1)
        state_bytes = np.minimum(passing, 1) * whole
    if setup.on_disk(WEIGHTS):
        weights_bytes = np.minimum(weights_bytes, stack.staged_weights * rank.width_bytes)
    return state_bytes + weights_bytes


def on_disk_bytes(rank: Split, state_bytes: Any, own: Any, weights_bytes: Any) -> Any:
    """Return what a device has on its node's disks; arguments as of ``moved_bytes``."""
    state = rank.setup.on_disk(STATE) * (state_bytes + _gradients(rank, own))
    return state + rank.setup.on_disk(WEIGHTS) * weights_bytes


def _gradients(rank: Split, own: Any) -> Any:
    return rank.setup.optimizer_offload * constants("disk")["gradient_bytes"] * own
