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


def stored_bytes(rank: Split) -> float:
    """Return the bytes of a weight as it is kept between passes."""
    return float(rank.setup.frozen_bytes if rank.setup.adapter else rank.stack.weight_bytes or rank.width_bytes)


def weights_bytes(rank: Split, counts: tuple[Any, Any]) -> Any:
    """Return what waits in host memory of so many weights of a device, all but experts, and experts."""
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
    return weights_bytes(rank, counts) / rate, away_gradients(rank) * sent / rate


def share_of_host(node: Node, devices: Any) -> Any:
    """Return the bytes of host memory for each of the devices of a node that work, of so many in all: a number, or an
    array of many."""
    return node.host_bytes / np.minimum(node.devices, devices)


def state_bytes(rank: Split) -> Any:
    """Return the optimizer's bytes in host memory, of a parameter that it owns, and those of its gradient."""
    setup, stack = rank.setup, rank.stack
    whole = moments_bytes(setup.optimizer) + stack.master_bytes * stack.offloads_master
    return setup.optimizer_offload * whole + away_gradients(rank) * stack.reduced_bytes


def host_bytes(step: Step) -> NDArray[np.float64]:
    """Return what one device of each pipeline rank keeps in host memory: activations at their peak, weights, and the
    optimizer's state."""
    setup, found = step.setup, state_bytes(step.rank) * step.owned + weights_bytes(step.rank, step.counts)
    if not setup.offload:
        return np.asarray(found)
    away = np.zeros(len(step.stages))
    for rank, stages in step.ways:
        away += [sum(count * away_bytes(rank, block) for block, count in stage.items()) for stage in stages]
    costs = replace(step.costs, saved_bytes=away)
    curves = memory(step.plan, step.timeline.start_s, step.timeline.end_s, costs)
    return np.asarray(found + [curve.peak_bytes for curve in curves])
