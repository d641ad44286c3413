"""Runs as if nobody had measured their device: its datasheet, and what stands for all architectures."""

from __future__ import annotations

from dataclasses import replace

from penstock.calibrate.published import Run
from penstock.core.device import Device

UNKNOWN = "unknown"
"""An architecture of which no level and no share is known."""


def as_unknown(run: Run) -> Run:
    """Return a run on a device that is alike by its datasheet, of an architecture that nobody has measured.

    Constants of frameworks stay: what is left out is all that was measured of, or fitted to, the device's architecture.
    """
    if run.cluster is None:
        return run
    groups = tuple((replace(node, device=strange(node.device)), count) for node, count in run.cluster.groups)
    return replace(run, cluster=replace(run.cluster, groups=groups))


def strange(device: Device) -> Device:
    """Return a device of the same datasheet and of an unknown architecture, without curves.

    >>> from penstock.core.device import device
    >>> strange(device("b200")).architecture
    'unknown'
    """
    return replace(device, architecture=UNKNOWN, curves=None)
