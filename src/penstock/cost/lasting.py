"""What lasts through a step of the rate of single kernels: power, clocks, cold caches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.core.device import Device
from penstock.core.device import device as device_of
from penstock.cost.constants import constants, levels
from penstock.cost.curves import lasting_share
from penstock.cost.passes import ATTENTION, HOT

Floats = NDArray[np.float64]
Shares = Mapping[str, float] | None
"""Shares of rates that last, by names of ``sustained_key``, in place of those in the table of constants."""
FITTED = {"ampere": "a100-80gb-sxm", "hopper": "h100-80gb-sxm", "blackwell": "b200", "blackwell-ultra": "b300"}
"""The device, of each architecture, that its shares are of."""
SIXTEEN = ("bf16", "fp16")
"""Precisions in whose FLOPs power is counted, the first that a device has."""
USUAL = 0.9
"""The share of the clock that power leaves where it says nothing: a guess, between those of A100 and H100."""
KINDS = {"bf16": "wide", "fp32": "wide", "tf32": "wide", "fp8": "low", "fp4": "lowest", "attention": "attention"}
"""How power counts, by what ``sustained_key`` names."""


def sustained(
    device: Device,
    low: str,
    wide: str,
    attention: str = "newest",
    hot: float | Floats = 1.0,
    shares: Shares = None,
) -> Floats:
    """Return the share of the rate of single kernels that lasts through a step (power, clocks, cold caches), for each
    of ``CLASSES``; that of products as it was measured, where it was.

    Power, and with it the clock, follows what all kernels draw together: the less of the time is products and
    attention, the less of their rate is lost. Of a device whose architecture has no share, and between devices of one
    architecture, the rated power says it, as ``power_share`` does.

    Args:
        device: where they run.
        low, wide: precisions of products.
        attention: generation of its kernels, as in ``Stack.attention``.
        hot: as ``Work.hot_share`` gives it: of one, or of many, which have an axis behind that of the classes.
        shares: in place of those in the table of constants.
    """
    found = for_each(_at_most_power(device, low, wide, tuple((shares or {}).items())), hot)
    found[:HOT] = 1 - hot * (1 - found[:HOT])
    if attention != "newest":
        found[ATTENTION] *= levels("older_attention")[older_key(device.architecture, attention)][0]
    return found


def for_each(shares: Floats, hot: float | Floats) -> Floats:
    """Return a copy of the shares for each of ``hot``, on an axis behind theirs; one copy for a number."""
    return np.asarray(shares.reshape(-1, *(1,) * np.ndim(hot)) + np.zeros(np.shape(hot)))


@lru_cache(maxsize=4096)
def _at_most_power(device: Device, low: str, wide: str, shares: tuple[tuple[str, float], ...]) -> Floats:
    """The same where products and attention take all of the time."""
    names = (wide, low, "attention", "memory", "memory", "memory")
    keys = [sustained_key(device.architecture, "bf16" if name == "fp16" else name) for name in names]
    known, said = levels("sustained"), dict(shares)
    each = zip(names, keys, (said.get(key, known[key][0]) for key in keys), strict=True)
    found = np.array([powered(device, name, key, share) for name, key, share in each])
    measured = lasting_share(device)
    if measured is not None:
        found[:2] = measured
    return found


def power_share(device: Device) -> float:
    """Return the share of its datasheet's clock at which a device that does nothing but dense products in 16 bits stays
    within its rated power: ``(power_w / (flop_j peak_flops)) ** clock``, at most 1; ``USUAL`` of a CPU, and where
    nobody knows.

    >>> round(power_share(device_of("a100-80gb-sxm")), 2), round(power_share(device_of("b200")), 2)
    (1.0, 0.66)
    """
    peak = next((device.matrix_flops[name] for name in SIXTEEN if name in device.matrix_flops), 0.0)
    if device.is_cpu or not device.power_w or not peak:
        return USUAL
    law = constants("power")
    return float(min(1.0, (device.power_w / (law["flop_j"] * peak)) ** law["clock"]))


def powered(device: Device, name: str, key: str, share: float) -> float:
    """Return the share that lasts on a device, of one that was fitted to others of its architecture, or is for all.

    Args:
        device: where kernels run.
        name, key: a precision, ``attention`` or ``memory``, and what ``sustained_key`` gives for it.
        share: that of ``key``.
    """
    factor = power_factor(device, name, key)
    return share if factor == 1.0 else min(1.0, share * factor)


@cache
def power_factor(device: Device, name: str, key: str) -> float:
    """Return what rated power makes of a share: of the default; or of one that was fitted, which has the power of the
    device in ``FITTED`` in it."""
    kind = KINDS.get(name)
    if kind is None or not (key == "default" or key.startswith(tuple(FITTED))):
        return 1.0
    fitted = 1.0 if key == "default" else power_share(device_of(FITTED[device.architecture]))
    return float((power_share(device) / fitted) ** constants("power")[kind])


@cache
def sustained_key(architecture: str, name: str) -> str:
    """Return which of the levels ``sustained`` counts for a precision, ``attention`` or ``memory``."""
    known = levels("sustained")
    keys = (f"{architecture} {name}", architecture, f"default {name}", "default")
    return next(key for key in keys if key in known)


def older_key(architecture: str, attention: str) -> str:
    """Return which of the levels ``older_attention`` counts for a generation of kernels."""
    key = f"{architecture} {attention}"
    return key if key in levels("older_attention") else "default"
