"""Activations made again just before the backward needs them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.core.costs import Costs
from penstock.core.needs import NOTHING, index
from penstock.core.op import Kind
from penstock.core.placement import NO_STAGE, Placement
from penstock.core.plan import Plan
from penstock.lower.place import place


def recompute(
    plan: Plan,
    stages: Collection[int] | None = None,
    pairs: Collection[tuple[int, int]] | None = None,
    keep: int = 0,
) -> Plan:
    """The plan with ``R`` directly before the backward (``B`` or ``I``) of micro-batches.

    ``R`` needs no gradient, so a rank that waits for one recomputes meanwhile. What ``F`` keeps and how long ``R``
    takes say ``Costs.kept_share`` and ``Costs.seconds``; ``recompute_costs`` derives them.

    Args:
        plan: legal, each micro-batch in one slice. Where it recomputes already it stays as it is.
        stages: which stages; default all.
        pairs: which (stage, micro-batch) of them; default all. ``engine.recompute_to_fit`` finds those that meet a
            memory limit.
        keep: leave alone those whose backward comes before ``keep`` more forwards of their rank have run: with 1, those
            whose backward follows with no forward between.

    Raises:
        ValueError: the plan has slices; or a stage or pair that it lacks is asked for, or ``keep`` is negative.

    Example:
        >>> from penstock.schedules import build
        >>> plan = build("1f1b", ranks=2, micros=2)
        >>> print(recompute(plan, keep=1).lanes[0], "|", recompute(plan, keep=1).lanes[1])
        0F0 0F1 0R0 0B0 0B1 | 1F0 1B0 1F1 1B1
    """
    if plan.slices > 1:
        raise ValueError(f"plan {plan.name!r} has {plan.slices} slices, which need keys and values of others; use 1")
    if keep < 0:
        raise ValueError(f"keep={keep}; it counts forwards, from 0")
    refuse_unknown(stages, plan.placement)
    forward, back = lives(plan)
    wanted = (forward != NOTHING) & (back != NOTHING) & (index(plan)[Kind.R] == NOTHING)
    if stages is not None:
        wanted &= np.isin(np.arange(plan.placement.stages), list(stages))[:, None]
    if pairs is not None:
        wanted &= _table(pairs, wanted)
    between = np.cumsum(plan.ops[:, 0] == Kind.F)
    wanted &= between[back] - between[forward] >= keep
    stage, micro = np.nonzero(wanted)
    rows = back[stage, micro]
    ops = np.stack([np.full(len(rows), Kind.R), stage, micro], axis=1)
    return place(plan, ops, plan.rank_of_op[rows], 4 * rows) if len(rows) else plan


def refuse_unknown(stages: Collection[int] | None, placement: Placement) -> None:
    """Do nothing if a placement has all these stages.

    Raises:
        ValueError: one is not there.
    """
    for s in stages or ():
        if not 0 <= s < placement.stages:
            raise ValueError(f"stage {s}: stages count from 0 to {placement.stages - 1}")


def lives(plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the forward and of the backward (``B`` or ``I``) of each stage and micro-batch, ``NOTHING`` where there is
    none: two arrays of shape (stages, micros)."""
    ids = index(plan).astype(np.int64)
    return ids[Kind.F], np.where(ids[Kind.B] == NOTHING, ids[Kind.I], ids[Kind.B])


def _table(pairs: Collection[tuple[int, int]], like: NDArray[Any]) -> NDArray[np.bool_]:
    found = np.zeros(like.shape, dtype=np.bool_)
    for s, i in pairs:
        if not (0 <= s < like.shape[0] and 0 <= i < like.shape[1]):
            raise ValueError(f"no stage {s} with micro-batch {i}; the plan has {like.shape[0]} and {like.shape[1]}")
        found[s, i] = True
    return found


def recompute_costs(
    costs: Costs, placement: Placement, kept_share: float | None = None, time_share: float = 1.0
) -> Costs:
    """The costs with what ``F`` keeps and what ``R`` takes.

    Args:
        costs: with ``saved_bytes`` of a forward that keeps all.
        placement: whose stages they are of.
        kept_share: share of ``saved_bytes`` kept, 0 to 1; default the input of the stage alone (full recompute), which
            the first stage has not: there nothing (token ids weigh little).
        time_share: time of ``R`` over that of ``F``.

    Example:
        >>> placement = Placement.loop(2)
        >>> recompute_costs(Costs.uniform(placement, boundary_bytes=0.1), placement).kept_share.tolist()
        [0.0, 0.1]
    """
    if not 0 <= time_share <= 1 or (kept_share is not None and not 0 <= kept_share <= 1):
        raise ValueError(f"kept_share={kept_share} and time_share={time_share} are shares between 0 and 1")
    seconds = costs.seconds.copy()
    seconds[Kind.R] = time_share * seconds[Kind.F]
    if kept_share is None:
        before = np.array(placement.prev)
        size = np.where(before == NO_STAGE, 0.0, costs.boundary_bytes[before])
        saved = costs.saved_bytes
        share = np.minimum(1.0, np.divide(size, saved, out=np.zeros(len(saved)), where=saved > 0))
    else:
        share = np.full(placement.stages, kept_share)
    return replace(costs, seconds=seconds, kept_share=share)


def attention_shares(hidden: int, heads: int, sequence: int) -> tuple[float, float]:
    """``kept_share`` and ``time_share`` where only the core of attention is made again: its scores, softmax and
    weighted sum (Korthikanti et al. 2022, arXiv:2205.05198).

    Of a layer's 34 + 5as/h bytes per element of its input, 5as/h are the core's (a heads, s tokens, h hidden); of its
    forward of 24h + 4s operations per token and hidden unit, 4s.

    Example:
        >>> kept, time = attention_shares(hidden=12288, heads=96, sequence=2048)
        >>> round(kept, 3), round(time, 3)
        (0.298, 0.027)
    """
    return 34 / (34 + 5 * heads * sequence / hidden), sequence / (6 * hidden + sequence)
