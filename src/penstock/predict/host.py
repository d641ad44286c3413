"""Activations that wait in host memory: what their copies take, and what of host memory they and the optimizer fill."""

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
from penstock.predict.kept_bytes import block_bytes
from penstock.predict.part import Part
from penstock.predict.split import Split

if TYPE_CHECKING:
    from penstock.predict.micro import Rank
    from penstock.predict.step import Step


def copy_rate(node: Node) -> float:
    """Return the bytes/s in one direction of copies between a device and its host, while all devices of the node copy:
    they share the host's memory."""
    share = 1.0 if node.source.startswith("measured") else constants("host")["copy_share"]
    return min(share * node.host_link.bytes_per_s, node.host_bytes_per_s / node.devices)


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


def share_of_host(node: Node, devices: Any) -> Any:
    """Return the bytes of host memory for each of the devices of a node that work, of so many in all: a number, or an
    array of many."""
    return node.host_bytes / np.minimum(node.devices, devices)


def state_bytes(rank: Split) -> float:
    """Return the optimizer's bytes in host memory, of a parameter that it owns."""
    setup, stack = rank.setup, rank.stack
    whole = moments_bytes(setup.optimizer) + stack.master_bytes * stack.offloads_master
    return float(setup.optimizer_offload * whole)


def host_bytes(step: Step) -> NDArray[np.float64]:
    """Return what one device of each pipeline rank keeps in host memory: activations at their peak, and the optimizer's
    state."""
    setup, found = step.setup, state_bytes(step.rank) * step.owned
    if not setup.offload:
        return np.asarray(found)
    away = np.zeros(len(step.stages))
    for rank, stages in step.ways:
        away += [sum(count * away_bytes(rank, block) for block, count in stage.items()) for stage in stages]
    costs = replace(step.costs, saved_bytes=away)
    curves = memory(step.plan, step.timeline.start_s, step.timeline.end_s, costs)
    return np.asarray(found + [curve.peak_bytes for curve in curves])
