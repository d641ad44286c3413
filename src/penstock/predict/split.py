"""What formulas ask of one setup's rank, or of those of many setups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster, Level
from penstock.core.device import Device
from penstock.core.mesh import Row
from penstock.core.recipes import Recipe
from penstock.cost.collectives import Collective
from penstock.cost.stack import Stack
from penstock.cost.switches import shown

if TYPE_CHECKING:
    from penstock.predict.micro import Rank

Floats = NDArray[np.float64]
T = TypeVar("T")


class Split(Protocol):
    """What formulas ask of a ``Rank``, with numbers, or of ``Ranks``, with arrays."""

    model: Architecture
    cluster: Cluster
    setup: Any
    stack: Stack
    device: Device
    width_bytes: float
    recipe: Recipe | None
    gathered_bytes: tuple[float, float]
    noted: dict[Any, Any]
    """What ``once`` found."""

    @property
    def next_stage_s(self) -> Any:
        """Seconds of what one stage sends to the next."""
        ...

    def each(self, of: Callable[[Rank], Any]) -> Any:
        """Return what a function of a rank gives."""
        ...

    def among(self, kind: Collective, whole_bytes: Floats, row: Row, when: Any = True) -> Floats:
        """Return the seconds of a collective, as far as there is one, over a group."""
        ...


def once(rank: Split, key: Any, find: Callable[[], T]) -> T:
    """Return what ``find`` gives of a rank, or of many, which is remembered under a key."""
    if key not in rank.noted:
        rank.noted[key] = find()
    found: T = rank.noted[key]
    return found


def sharded(setup: Any, counts: tuple[Any, Any], stage: int) -> Any:
    """Return the parameters of which a device holds what ZeRO shards from ``stage`` on."""
    dense, experts = counts
    dense_shares, expert_shares = (
        1 + (setup.zero >= stage) * (shards - 1) for shards in (setup.sharded, setup.expert_sharded)
    )
    return dense / dense_shares + experts / expert_shares


def fetches(setup: Any) -> Any:
    """Return whether weights come for each pass, from other ranks or from the host."""
    return np.logical_or((setup.replicas > 1) * (setup.zero == 3), setup.weight_offload > 0)


def quantised(rank: Any) -> bool:
    """Return whether the frozen weights of a rank, or of many, are kept in fewer bits than products read."""
    return bool(rank.setup.adapter) and rank.setup.frozen_bytes < rank.width_bytes


def between_stages(cluster: Cluster, stages: Row, devices: int) -> tuple[Level, ...]:
    """Return the links of a message between stages, if there are several: the slowest ones.

    Where pipelines are outermost, and their last ranks on the last of so many devices, they are the first ones, with
    which published runs are met best; but not where rates between nodes were measured.
    """
    if stages.size == 1:
        return ()
    if cluster.measured is None and stages.size * stages.stride == devices:
        return cluster.path(2, stages.stride)
    return cluster.hop(stages.size, stages.stride)


def waits_s(rank: Split) -> Any:
    """Return the seconds of each pass of a stage in which a rank waits for a message between stages, and for its host
    at a micro-batch."""
    return late_s(rank) + rank.stack.micro_s / 2 / rank.setup.chunks


def late_s(rank: Split) -> Any:
    """Return the seconds of a message between stages that both its ranks wait for."""
    return shown(rank.stack, "pp", rank.setup.pp_overlap) * rank.next_stage_s


def hops_s(rank: Split) -> Any:
    """Return the seconds of a message between stages that no rank waits for, but those that need it."""
    return rank.next_stage_s - late_s(rank)
