"""Weights sharded over replicas: gathered for runs of uses, within a window, and gradients summed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.op import NO_MICRO, Kind
from penstock.core.plan import Plan
from penstock.lower.place import place

USES = (Kind.F, Kind.B, Kind.I, Kind.R)
"""What needs a stage's weights; ``W`` has all it needs from ``I``."""


class Gather(NamedTuple):
    """One stay of a stage's weights on its rank: places as ``lower.place`` counts them."""

    stage: int
    since: int
    until: int


def shard(plan: Plan, window: int = 3, window_bytes: float | None = None, costs: Costs | None = None) -> Plan:
    """The plan with ``UNSHARD`` ahead of uses of a stage's weights and ``RESHARD`` behind.

    So runs fully sharded data parallelism. A stage's weights stay for its next use while the window holds; where it
    does not, the stage whose next use is farthest goes, right after its last use (Belady 1966: no other choice needs
    fewer gathers for the same uses and room). A gather is asked for as soon as its place is free, so that it runs
    beside the uses before it.

    Args:
        plan: legal, without such ops (a plan that has some stays as it is).
        window: most stages gathered at once on a rank; 2 or more let a gather run beside the use of another stage.
        window_bytes: most bytes gathered at once on a rank instead; needs ``costs``.
        costs: whose ``weight_bytes`` count.

    Raises:
        ValueError: the window holds less than one op, or one block of two, needs; ``window_bytes`` without ``costs``.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("breadth-first", ranks=1, micros=2, chunks=2)
        >>> print(shard(plan, window=1).lanes[0])
        0UNSHARD 0F0 0F1 0RESHARD 1UNSHARD 1F0 1F1 1B1 1B0 1RESHARD 0UNSHARD 0B1 0B0 0RESHARD
    """
    if window_bytes is not None and costs is None:
        raise ValueError(f"window_bytes={window_bytes:g} needs the costs that say how much each stage weighs")
    if (plan.ops[:, 0] == Kind.UNSHARD).any():
        return plan
    stages = plan.placement.stages
    by_bytes = window_bytes is not None and costs is not None
    size = costs.weight_bytes if by_bytes and costs is not None else np.ones(stages)
    room = float(window_bytes if window_bytes is not None else window)
    new = []
    for rank in range(plan.placement.ranks):
        for one in _stays(_uses(plan, rank), size, room, "bytes" if by_bytes else "stages"):
            new.append((one.since, (Kind.UNSHARD, one.stage, NO_MICRO), rank))
            new.append((one.until, (Kind.RESHARD, one.stage, NO_MICRO), rank))
    if not new:
        return plan
    new.sort(key=lambda entry: (entry[0], entry[1][0] == Kind.UNSHARD))
    places, ops, ranks = zip(*new, strict=True)
    return place(plan, np.array(ops), np.array(ranks), np.array(places))


def _uses(plan: Plan, rank: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """First id, last id and stages of each op or block of a rank that needs weights, in order."""
    first, end = int(plan.first[rank]), int(plan.first[rank + 1])
    rows = np.flatnonzero(np.isin(plan.ops[first:end, 0], USES)) + first
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for row in rows.tolist():
        stage = int(plan.ops[row, 1])
        if found and found[-1][1] == row - 1 and plan.fused[row - 1]:
            start, _, stages = found[-1]
            found[-1] = (start, row, stages if stage in stages else (*stages, stage))
        else:
            found.append((row, row, (stage,)))
    return found


def _stays(
    uses: list[tuple[int, int, tuple[int, ...]]], size: NDArray[np.float64], room: float, unit: str
) -> list[Gather]:
    """Which weights are gathered when."""
    coming: dict[int, list[int]] = {}
    for k in reversed(range(len(uses))):
        for s in uses[k][2]:
            coming.setdefault(s, []).append(k)
    since: dict[int, int] = {}
    last: dict[int, int] = {}
    stays, asked = [], 4 * uses[0][0] if uses else 0
    for _, end, stages in uses:
        if sum(size[s] for s in stages) > room:
            raise ValueError(
                f"stages {stages} need {sum(size[s] for s in stages):g} {unit} gathered at once, "
                f"the window holds {room:g}; widen it"
            )
        missing = [s for s in stages if s not in since]
        need = sum(float(size[s]) for s in missing)
        spare = room - sum(float(size[s]) for s in since)
        while missing and need > spare * (1 + 1e-12):
            far = max(
                (s for s in since if s not in stages), key=lambda s: (coming[s][-1] if coming[s] else len(uses), s)
            )
            spare += float(size[far])
            asked = max(asked, last[far])
            stays.append(Gather(far, since.pop(far), last[far]))
        for s in missing:
            since[s] = asked
        for s in stages:
            coming[s].pop()
            last[s] = 4 * end + 3
    return stays + [Gather(s, begun, last[s]) for s, begun in since.items()]
