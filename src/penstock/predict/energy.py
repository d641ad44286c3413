"""What nodes draw while they train, and what that adds up to."""

from __future__ import annotations

from penstock.core.cluster import Cluster
from penstock.cost.constants import constants

JOULES_PER_KWH = 3.6e6


def rated_w(cluster: Cluster, devices: int) -> float | None:
    """Return the most that the nodes of so many devices of a cluster draw; ``None`` where it is not known of one.

    >>> rated_w(Cluster.read("dgx-h100:2"), 8)
    10200.0
    """
    return None if cluster.power_w is None else cluster.power_w * (devices / cluster.devices)


def training_w(cluster: Cluster, devices: int) -> float | None:
    """Return what they draw in the mean while they train: the share of their rating that was measured on nodes of 8
    H100 (``power.active_share`` in ``data/constants.toml``)."""
    most = rated_w(cluster, devices)
    return None if most is None else constants("power")["active_share"] * most


def joules(cluster: Cluster, devices: int, seconds: float) -> float | None:
    """Return the energy of training on some of a cluster's devices for a time; ``None`` where it is not known.

    >>> joules(Cluster.read("dgx-h100:1"), 8, 3600.0) / JOULES_PER_KWH
    7.752
    """
    power = training_w(cluster, devices)
    return None if power is None else power * seconds
