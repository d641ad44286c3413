"""What operators take inside of blocks, of a device whose blocks were measured whole: beside others, with their host.

A CPU is its own host: what modules, views and autograd do adds to what kernels take, and each operator finds the caches
as the one before left them. Blocks that ran as a run runs them say how much, by least squares of relative errors:
t = sum over classes of (seconds alone) * slower + operators * (the host's seconds for one).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.core.architecture import Block
from penstock.core.config import architecture_from_config
from penstock.core.device import Device
from penstock.cost.bounds import Floats
from penstock.cost.curves import host_pace
from penstock.cost.kernels import memory_bound
from penstock.cost.model_operators import operators
from penstock.cost.operators import Microbatch
from penstock.cost.passes import ATTENTION, CAST, CLASSES, LOW_PRODUCT, MEMORY, PRODUCT, ROUTING, timed, work
from penstock.cost.rows import rows_of
from penstock.cost.stack import Stack, stack

RUNTIME = "penstock"
"""The framework whose blocks are measured."""
NOISE = 0.05
"""Of a measured pass: relative, as far as errors are chance."""
GIVE = {PRODUCT: 0.3, ATTENTION: 0.15, MEMORY: 0.5}
"""How far a class may be from its time alone, by one standard deviation: the more, the more its kernels depend on where
their operands are."""


@dataclass(frozen=True, eq=False)
class Inside:
    """What blocks showed.

    Args:
        shares: of the rate that each of ``CLASSES`` has alone, shape (classes,).
        forward_s, backward_s: of the host for an operator of the forward, and of the backward.
        error: mean relative error of the measured passes.
    """

    shares: Floats
    forward_s: float
    backward_s: float
    error: float


@lru_cache(maxsize=64)
def inside(device: Device) -> Inside | None:
    """Return what the measured blocks of a device say, or ``None`` if none were measured."""
    rows = device.curves.rows("block") if device.curves is not None else {}
    if not rows:
        return None
    passes = [{name: values[at].item() for name, values in rows.items()} for at in range(len(rows["seconds"]))]
    parts = np.array([list(_parts(device, each)) for each in passes]) / rows["seconds"][:, None]
    found = _solved(parts)
    slower = np.ones(len(CLASSES))
    slower[list(GIVE)] = found[: len(GIVE)]
    slower[LOW_PRODUCT], slower[CAST], slower[ROUTING] = slower[PRODUCT], slower[MEMORY], slower[MEMORY]
    return Inside(1 / slower, float(found[-2]), float(found[-1]), float(np.mean(np.abs(parts @ found - 1))))


def host_paces(device: Device) -> tuple[float, float]:
    """Return how long this machine's host takes for an operator, forward and backward, over the machine on which the
    constants of frameworks were measured."""
    found = inside(device)
    if found is None:
        return (host_pace(device),) * 2
    usual_s = stack(RUNTIME).launch_s
    return found.forward_s / usual_s, found.backward_s / usual_s


def _parts(device: Device, row: dict[str, Any]) -> Iterator[float]:
    """Seconds alone of each class in ``GIVE``, operators forward, operators backward, of a measured pass."""
    runtime = stack(RUNTIME)
    made = operators(_block(row), _batch(runtime, row))
    rows = rows_of(made)
    done = work(rows, np.zeros(len(made), bool), timed(rows, device, row["precision"], row["precision"]))
    f, i, w = done.launches[:3]
    alone_s = done.seconds[:, 1:].sum(axis=1) if row["gradient"] else done.seconds[:, 0]
    if row["gradient"]:  # each pass adds to the gradients of the one before
        moved = done.weights * runtime.added_bytes(row["precision"])
        alone_s[MEMORY] += float(memory_bound(device, moved, kernels=w).seconds)
    yield from row["layers"] * alone_s[list(GIVE)]
    yield from row["layers"] * np.array((0, i + w) if row["gradient"] else (f, 0))


def _block(row: dict[str, Any]) -> Block:
    keys = {
        "model_type": "llama",
        "vocab_size": 64,
        "num_hidden_layers": 1,
        "hidden_size": row["hidden"],
        "intermediate_size": row["inner"],
        "num_attention_heads": row["heads"],
        "num_key_value_heads": row["kv_heads"],
    }
    return architecture_from_config("block", keys, "block").blocks[0]


def _batch(runtime: Stack, row: dict[str, Any]) -> Microbatch:
    width = 4.0 if row["precision"] == "fp32" else 2.0
    return Microbatch(
        micro=row["batch"], seq=row["seq"], width_bytes=width, gradient_bytes=width / 2, kernels=runtime.kernels
    )


def _solved(parts: Floats) -> Floats:
    """The factors of each column that bring the sums of rows nearest to 1, drawn to 1 by ``GIVE``; none below 0."""
    usual = np.array([1 / give for give in GIVE.values()])
    drawn = np.pad(np.diag(usual), ((0, 0), (0, parts.shape[1] - len(usual))))
    left = np.concatenate([parts / NOISE, drawn])
    right = np.concatenate([np.full(len(parts), 1 / NOISE), usual])
    free, found = np.ones(parts.shape[1], bool), np.zeros(parts.shape[1])
    for _ in range(parts.shape[1]):
        found = np.zeros(parts.shape[1])
        found[free] = np.linalg.lstsq(left[:, free], right, rcond=None)[0]
        if (found >= 0).all():
            break
        free &= found > 0
    return found
