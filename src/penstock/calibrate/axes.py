"""Sizes of a row's axes, and its batch, where what it says does not come out even."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from penstock.calibrate.rows import in_tokens, number, whole

AXES = ("tp", "cp", "pp", "dp", "ep")
NEAR = 0.1
"""A batch may be this share off the nearest that its ranks can do: the last micro-batches are filled up, or dropped."""
DEEP = 8
"""Micro-batches of each pipeline rank where nobody says how many sequences a step has."""


class Axes(NamedTuple):
    """How many ranks an axis has, and sequences of a step and of a micro-batch."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int
    batch: int
    micro: int


def axes_of(row: Mapping[str, str], devices: int, guessed: list[str]) -> Axes:
    """Return what a row says of its axes and its batch; what it leaves out is 1, and ``dp`` what is left for it.

    Raises:
        ValueError: ranks that do not divide the devices, or a batch that they cannot do.

    >>> said = []
    >>> axes_of({"tp": "4", "pp": "2", "dp": "64", "global_batch": "120"}, 64, said), said[0]
    (Axes(tp=4, cp=1, pp=2, dp=8, ep=1, batch=120, micro=1), 'dp=8, since dp=64 with tp=4 cp=1 pp=2 are not 64 devices')
    """
    given = {name: whole(row, name) or 0 for name in AXES}
    tp, cp, pp = (given[name] or 1 for name in ("tp", "cp", "pp"))
    each = tp * cp * pp
    if devices % each:
        said = ", ".join(f"{name}={given[name]}" for name in ("tp", "cp", "pp") if given[name] > 1)
        raise ValueError(f"{said} {'do' if ',' in said else 'does'} not divide {devices} devices")
    dp = devices // each
    if given["dp"] not in (0, dp):
        guessed.append(f"dp={dp}, since dp={given['dp']} with tp={tp} cp={cp} pp={pp} are not {devices} devices")
    micro = whole(row, "micro_batch") or 0
    batch = _batch(row, dp, pp, micro, guessed)
    if not micro:
        guessed.append("micro_batch=1")
    return Axes(tp, cp, pp, dp, given["ep"] or 1, *_even(batch, dp, micro or 1, guessed))


def devices_of(row: Mapping[str, str], guessed: list[str]) -> int:
    """Return how many devices a row has: as it says, or as many as its axes.

    Raises:
        ValueError: neither is said.
    """
    if devices := whole(row, "devices"):
        return devices
    if not whole(row, "dp"):
        raise ValueError("the row has no devices, and no dp from which they would follow")
    found = prod(whole(row, name) or 1 for name in ("tp", "cp", "pp", "dp"))
    guessed.append(f"devices={found}, the product of tp, cp, pp and dp")
    return found


def _batch(row: Mapping[str, str], dp: int, pp: int, micro: int, guessed: list[str]) -> int:
    """Sequences of a step; tokens/s and seconds together say them too. Without seconds a guess does no harm: rates and
    memory hardly depend on it."""
    if in_tokens(row.get("global_batch", "")):
        found = max(1, round(number(row, "global_batch") or 1.0))
        guessed.append(f"global_batch={found} sequences")
        return found
    if said := whole(row, "global_batch"):
        return said
    rate, seconds = number(row, "tokens_per_s_per_device"), number(row, "seconds_per_iter")
    devices, seq = whole(row, "devices"), whole(row, "seq_len")
    if rate and seconds and devices and seq:
        found = max(1, round(rate * seconds * devices / seq))
        guessed.append(f"global_batch={found}, by seconds and tokens/s")
        return found
    if seconds:
        raise ValueError("the row has no global_batch, and its seconds depend on it")
    found = (micro or 1) * (dp * DEEP * pp if pp > 1 else max(dp, devices or 1))
    guessed.append(f"global_batch={found}")
    return found


def _even(batch: int, dp: int, micro: int, guessed: list[str]) -> tuple[int, int]:
    """The batch and the micro-batch, or the nearest that can be."""
    each = dp * micro
    if batch % each == 0:
        return batch, micro
    near = max(1, round(batch / each)) * each
    if abs(near - batch) <= NEAR * batch:
        guessed.append(f"global_batch={near}, since {batch} is no multiple of dp={dp} times micro_batch={micro}")
        return near, micro
    if batch % dp == 0:
        most = next(size for size in range(min(micro, batch // dp), 0, -1) if batch // dp % size == 0)
        guessed.append(f"micro_batch={most}, since batch={batch} is no multiple of dp={dp} times micro_batch={micro}")
        return batch, most
    raise ValueError(f"batch={batch} is no multiple of dp={dp} times micro={micro}, and none that is is near")
