"""What waits in host memory: what the copies take, and what activations, weights and the optimizer fill of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Block
from penstock.core.node import Node
from penstock.core.optimizers import moments_bytes
from penstock.cost.constants import constants
from penstock.engine.memory import memory
from penstock.predict.disk import in_memory, on_disk_bytes, read_s, share_of_disk
from penstock.predict.kept_bytes import block_bytes
from penstock.predict.part import Part
from penstock.predict.split import Split, sharded

if TYPE_CHECKING:
    from penstock.predict.micro import Rank
    from penstock.predict.step import Step


def copy_rate(node: Node) -> float:
    """Return the bytes/s in one direction of copies between a device and its host, while all devices of the node copy:
    they share the host's memory."""
    share = 1.0 if node.source.startswith("measured") else constants("host")["copy_share"]
    return min(share * node.host_rate, node.host_bytes_per_s / node.devices)


def away_bytes(rank: Rank, block: Block) -> float:
    """Return what a block keeps of a micro-batch in host memory."""
    setup = rank.setup
    return block_bytes(block, rank.batch_of(block), rank.again, setup.offload).away if setup.offload else 0.0


def copy_s(rank: Rank, block: Block) -> float:
    """Return the seconds of ``away_bytes`` on their way, out or back."""
    size, node = away_bytes(rank, block), rank.cluster.node_of(0)
    return node.host_link.latency_s + size / copy_rate(node) if size else 0.0


def with_copies(rank: Rank, block: Block, part: Part) -> Part:
    """Return what a block takes if it waits for its host's link.

    Frameworks copy what a block keeps while the next block runs, and fetch it while the one before it in the backward
    does: a pass takes as long as its copies, where these take longer than its work.
    """
    each_s = copy_s(rank, block)
    waits_s = max(0.0, each_s - part.f_s), max(0.0, each_s - (part.all_s - part.f_s))
    return replace(part, f_s=part.f_s + waits_s[0], i_s=part.i_s + waits_s[1], copies_s=waits_s)


def stored_bytes(rank: Split) -> float:
    """Return the bytes of a weight as it is kept between passes."""
    return float(rank.setup.frozen_bytes if rank.setup.adapter else rank.stack.weight_bytes or rank.width_bytes)


def weights_bytes(rank: Split, counts: tuple[Any, Any]) -> Any:
    """Return what waits off the device of so many weights, all but experts, and experts."""
    return rank.setup.weight_offload * stored_bytes(rank) * sharded(rank.setup, counts, 3)


def away_gradients(rank: Split) -> Any:
    """Return the share of gradients that go to the host with each micro-batch."""
    return rank.setup.optimizer_offload * rank.stack.offloads_gradients * (rank.setup.zero >= 2)


def fetch_s(rank: Split, counts: tuple[Any, Any], own: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the seconds in which weights come from the host for a pass, and those of gradients on their way there, as
    in ZeRO-Infinity (Rajbhandari et al. 2021, arXiv:2104.07857).

    Args:
        rank: the setup, or setups, and the framework.
        counts, own: parameters of a device, all but experts and experts: all of them, and those that are trained.
    """
    rate, sent = copy_rate(rank.cluster.node_of(0)), rank.stack.reduced_bytes * sharded(rank.setup, own, 2)
    fetched = weights_bytes(rank, counts)
    return np.maximum(fetched / rate, read_s(rank, fetched)), away_gradients(rank) * sent / rate


def share_of_host(node: Node, devices: Any) -> Any:
    """Return the bytes of host memory for each of the devices of a node that work, of so many in all: a number, or an
    array of many."""
    return node.host_bytes / np.minimum(node.devices, devices)


def overfull(node: Node, devices: Any, host_bytes: Any, disk_bytes: Any, over: Any = 0.0) -> Any:
    """Return whether host memory, or disks, have no room for what a device has there, which may be ``over`` by a
    share."""
    full = disk_bytes > (1 + over) * share_of_disk(node, devices)
    return full | (host_bytes > (1 + over) * share_of_host(node, devices))


def state_bytes(rank: Split) -> Any:
    """Return the optimizer's bytes off the device, of a parameter that it owns."""
    setup, stack = rank.setup, rank.stack
    return setup.optimizer_offload * (moments_bytes(setup.optimizer) + stack.master_bytes * stack.offloads_master)


def waiting_bytes(rank: Split, owned: Any, counts: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return what of weights, gradients and the optimizer's state a device has in host memory, and on disks.

    Args:
        rank: the setup, or setups, and the framework.
        owned: parameters that the optimizer updates on one device.
        counts: all of them there, but experts, and experts.
    """
    state, weights = state_bytes(rank) * owned, weights_bytes(rank, counts)
    gradients = away_gradients(rank) * rank.stack.reduced_bytes * owned
    away = rank, state, owned, weights
    return gradients + in_memory(*away), on_disk_bytes(*away)


def host_bytes(step: Step) -> NDArray[np.float64]:
    """Return what one device of each pipeline rank keeps in host memory: activations at their peak, weights, and the
    optimizer's state."""
    setup, found = step.setup, waiting_bytes(step.rank, step.owned, step.counts)[0]
    if not setup.offload:
        return np.asarray(found)
    away = np.zeros(len(step.stages))
    for rank, stages in step.ways:
        away += [sum(count * away_bytes(rank, block) for block, count in stage.items()) for stage in stages]
    costs = replace(step.costs, saved_bytes=away)
    curves = memory(step.plan, step.timeline.start_s, step.timeline.end_s, costs)
    return np.asarray(found + [curve.peak_bytes for curve in curves])


def away(step: Step) -> dict[str, Any]:
    """Return what a prediction says of host memory and disks, by its fields."""
    node, devices = step.cluster.node_of(0), step.setup.devices
    there = waiting_bytes(step.rank, step.owned, step.counts)[1]
    return {
        "host_bytes": tuple(host_bytes(step).tolist()),
        "host_memory_bytes": float(share_of_host(node, devices)),
        "disk_bytes": tuple(np.broadcast_to(there, len(step.on)).tolist()),
        "disk_room_bytes": float(share_of_disk(node, devices)),
    }
