"""The setup that takes all of so many devices."""

from __future__ import annotations

from math import prod
from typing import Any

from penstock.core.setup import Setup
from penstock.core.words import divisors


def filling(devices: int, **given: Any) -> Setup:
    """Return the setup of these fields on all of so many devices: ``dp`` is what is left for it unless it is given, and
    several chunks are interleaved unless a schedule is.

    Raises:
        ValueError: a field is wrong, there are chunks without a pipeline, or the devices are no multiple of the ranks
            that share a replica.

    >>> filling(64, seq=4096, batch=64, tp=2, pp=4).dp
    8
    """
    if (chunks := given.get("chunks", 1)) > 1:
        if given.get("pp", 1) == 1:
            raise ValueError(f"chunks={chunks} are stages of each rank of a pipeline; use chunks=1, or pp=2 or more")
        given.setdefault("schedule", "interleaved")
    if "dp" not in given:
        shared = {name: int(given.get(name, 1)) for name in ("tp", "cp", "pp")}
        each = prod(shared.values())
        for name, count in shared.items():
            if count < 1:
                raise ValueError(f"{name}={count} is too small; use 1 or more")
        if devices % each:
            what = " times ".join(f"{name}={count}" for name, count in shared.items() if count > 1)
            near = divisors(devices, near=each)
            raise ValueError(f"{what} does not divide {devices} devices; use a product of {near}, or give dp")
        given["dp"] = devices // each
    return Setup(**given)
